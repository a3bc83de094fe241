"""What a person sees and train.log keeps: the log, the plan before step 1, progress, examples, the closing summary."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger("asr_exp")


class _Handler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # train.log keeps it; what the terminal is told of a crash, `endings.status_of` decides
            return
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


@contextlib.contextmanager
def logging_to_terminal(main: bool, rank: int) -> Iterator[None]:
    """Send the log to the terminal: everything on rank 0, warnings alone elsewhere."""
    handler = _Handler(logging.INFO if main else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s" if main else f"[rank {rank}] %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        for one in list(log.handlers):
            log.removeHandler(one)
            one.close()
        log.propagate = True


class _File(logging.FileHandler):
    """A log that a full disk cuts short (what needs the room tells of it, in a sentence), without the terminal's empty lines."""

    def emit(self, record: logging.LogRecord) -> None:
        if text := record.getMessage().lstrip("\n"):
            super().emit(logging.makeLogRecord({**vars(record), "msg": text, "args": None}))

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def log_to_file(path: Path) -> None:
    """Keep the log in a file too."""
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)


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


class Progress:
    """Where training stands: a bar on a terminal, a line every half minute elsewhere. Rates are of this process's own lifetime."""

    EVERY = 30.0  # seconds between lines where there is no terminal

    def __init__(self, step: int, total: int, enabled: bool):
        self.total, self.enabled = total, enabled
        self._began, self._audio, self._first = time.monotonic(), 0.0, step
        self._paused, self._said = 0.0, self._began
        self._loss = ""
        on_terminal = enabled and sys.stderr.isatty()
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        self._bar = tqdm(total=total, initial=step, desc="training", dynamic_ncols=True, disable=not on_terminal, bar_format=form)

    def advance(self, step: int, audio_seconds: float) -> None:
        self._audio += audio_seconds
        if not self.enabled:
            return
        self._bar.set_postfix_str(self._state(step), refresh=False)
        self._bar.update(1)
        if self._bar.disable and time.monotonic() - self._said > self.EVERY:
            self._said = time.monotonic()
            log.info("step %d/%d  %s", step, self.total, self._state(step))

    def loss(self, value: float) -> None:
        self._loss = f"loss {value:.3f}, "

    def paused(self, seconds: float) -> None:
        """Leave time spent elsewhere (evaluating, saving) out of the rate."""
        self._paused += seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Audio seconds per second of training."""
        return self._audio / max(1e-9, self.seconds - self._paused)

    def _state(self, step: int) -> str:
        done = max(1, step - self._first)
        left = self.seconds / done * (self.total - step)
        return f"{self._loss}{self.rate:.0f} audio-s/s, ETA {clock(left)}"

    def close(self) -> None:
        self._bar.close()


def counted(number: int, noun: str) -> str:
    """'1 utterance', '1,204 utterances'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """2.1 h, 3.4 min or 12 s."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


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
    return ", ".join(f"{name.upper()} {percent(summary[name])}" for name in ("wer", "cer", "per") if summary[name] is not None)


def headline(split: str, summary: Mapping[str, Any]) -> str:
    """The score of a split with its 95 % interval, what it was measured on, and how much of it."""
    name = "per" if summary["wer"] is None else "wer"
    within = summary["ci95"]
    spread = f" [{percent(within[0])} .. {percent(within[1])}]" if within else ""
    covered = f", coverage {percent(summary['coverage'])}" if summary["coverage"] < 1 else ""
    characters = "" if summary["cer"] is None else f", CER {percent(summary['cer'])}"
    return f"{split} {name.upper()} {percent(summary[name])}{spread}{characters}, {counted(summary['utterances'], 'utterance')}{covered}"


def percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
