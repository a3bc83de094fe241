"""What a person sees and train.log keeps: the log, the plan before step 1, progress, examples, the closing
summary.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asr_exp.core.log import log


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 under an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def page(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A titled block of name and value lines, within 80 columns where the values are."""
    log.info("%s", f"\n{title}")
    for name, value in rows:
        log.info("  %-12s %s", name, value)


def counted(number: int, noun: str) -> str:
    """'1 utterance', '1,204 utterances'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """2.1 h, 3.4 min or 12 s."""
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )


def size(bytes_: float) -> str:
    """12 MiB or 3.4 GiB."""
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"


def show_examples(examples: Sequence[Any], count: int) -> None:
    """References above hypotheses, of a few of the examples, spread evenly."""
    for one in examples[:: max(1, len(examples) // max(1, count))][:count]:
        log.info("    ref  %s", _short(one.reference))
        log.info("    hyp  %s", _short(one.hypothesis) or "(nothing)")


def _short(text: str, width: int = 71) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def rates(summary: Mapping[str, Any]) -> str:
    """'WER 12.30 %, CER 4.56 %', of the rates that apply."""
    return ", ".join(
        f"{name.upper()} {percent(summary[name])}"
        for name in ("wer", "cer", "per")
        if summary[name] is not None
    )


def headline(split: str, summary: Mapping[str, Any]) -> str:
    """The score of a split with its 95 % interval, what it was measured on, and how much of it."""
    name = "per" if summary["wer"] is None else "wer"
    within = summary["ci95"]
    spread = f" [{percent(within[0])} .. {percent(within[1])}]" if within else ""
    covered = f", coverage {percent(summary['coverage'])}" if summary["coverage"] < 1 else ""
    characters = "" if summary["cer"] is None else f", CER {percent(summary['cer'])}"
    return (
        f"{split} {name.upper()} {percent(summary[name])}{spread}{characters},"
        f" {counted(summary['utterances'], 'utterance')}{covered}"
    )


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
