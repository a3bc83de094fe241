"""How numbers and scores are written for people, on the terminal and in train.log: rates, times, sizes, and
blocks of named values.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asr_exp.core.log import log

# control characters, line separators, and halves of surrogate pairs
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clock(seconds: float) -> str:
    """Seconds as 1:02:03, or as 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def page(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Log a block of lines with a title, each a name and its value."""
    log.info("%s", f"\n{title}")
    for name, value in rows:
        log.info("  %-12s %s", name, value)


def counted(number: int, noun: str) -> str:
    """'1 utterance', '1,204 utterances'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Seconds of audio as 2.1 h, 3.4 min or 12 s."""
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )


def size(bytes_: float) -> str:
    """Bytes as 12 MiB or 3.4 GiB."""
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"


def printable(name: str) -> str:
    """A name of the outside world as it can be printed on one line and written in UTF-8.

    Control characters become escapes (`\\x1b`), as do bytes of a file name that are no UTF-8, which Python
    has as halves of surrogate pairs (`caf\\xe9.wav`).
    """
    return name if name.isprintable() else _UNPRINTABLE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"


def show_examples(examples: Sequence[Any], count: int) -> None:
    """Log `count` of the examples, spread evenly: each its reference, and its hypothesis below."""
    for one in examples[:: max(1, len(examples) // max(1, count))][:count]:
        log.info("    ref  %s", _short(one.reference))
        log.info("    hyp  %s", _short(one.hypothesis) or "(nothing)")


def _short(text: str, width: int = 71) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def rates(summary: Mapping[str, Any]) -> str:
    """The rates of a summary that are not None, as 'WER 12.30 %, CER 4.56 %'."""
    return ", ".join(
        f"{name.upper()} {percent(summary[name])}"
        for name in ("wer", "cer", "per")
        if summary[name] is not None
    )


def headline(split: str, summary: Mapping[str, Any]) -> str:
    """The score of a split with its 95 % interval, the number of utterances, and the coverage where some were
    left out.
    """
    name = "per" if summary["wer"] is None else "wer"
    within = summary["ci95"]
    spread = f" [{percent(within[0])} .. {percent(within[1])}]" if within else ""
    covered = f", coverage {percent(summary['coverage'])}" if summary["coverage"] < 1 else ""
    characters = "" if summary["cer"] is None else f", CER {percent(summary['cer'])}"
    return (
        f"{split} {name.upper()} {percent(summary[name])}{spread}{characters},"
        f" {counted(summary['utterances'], 'utterance')}{covered}"
    )


def measured(metric: str, value: float | None) -> str:
    """A metric with its value: 'WER 12.30 %', 'loss 0.412'."""
    return f"loss {number(value)}" if metric == "loss" else f"{metric.upper()} {percent(value)}".strip()


def percent(rate: float | None) -> str:
    """A fraction as '12.30 %'; None as '-'."""
    return "-" if rate is None else f"{100 * rate:.2f} %"


def number(value: float | None) -> str:
    """Three digits after the point; None as '-'."""
    return "-" if value is None else f"{value:.3f}"


def pretty_json(value: Any) -> str:
    """Indented JSON with a newline at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
