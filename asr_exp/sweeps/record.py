"""The record of a sweep: `cells.csv`, with a row for each cell, and the same as a page, `table.md`.

The process that runs a cell writes its row. The results themselves are in the run folders: if a record is
deleted, the same command writes it again.
"""

import csv
import io
import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from asr_exp.config.schema import NOT_IN_SIGNATURE
from asr_exp.core.console import clock, measured, percent
from asr_exp.core.files import write_text
from asr_exp.core.locks import FileLock
from asr_exp.runs.results import read_result


@dataclass(frozen=True)
class SweepCell:
    """A row of the record. Rates are fractions; `dev` is the best score on dev, in `dev_metric` where that is
    not `metric`, `score` that of `split`; `seconds` is the time of training.

    status: running, finished, stopped or lost (killed; the same command goes on with both), pruned, failed.
    """

    cell: int
    status: str
    overrides: str  # quoted for the shell
    metric: str = ""  # per, wer or cer
    dev: float | None = None
    split: str = ""
    score: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    step: int | None = None  # of the best checkpoint
    seconds: float | None = None
    folder: str = ""
    reason: str = ""
    code: int = 0  # exit status
    dev_metric: str = ""  # loss, wer or cer

    def as_message(self) -> str:
        """'test WER 21.30 %'; the best dev score so far where that is missing; '' where both are."""
        if self.status == "failed" or self.score is None and self.dev is None:
            return ""
        return (
            f"dev {self.best}" if self.score is None else f"{self.split} {measured(self.metric, self.score)}"
        )

    @property
    def best(self) -> str:
        """The best dev score with its metric; '' where there is none."""
        return "" if self.dev is None else measured(self.dev_metric or self.metric, self.dev)


def ended(cell: SweepCell, folder: Path, split: str, code: int) -> SweepCell:
    """The row of a cell that has ended, with what its folder's result.json says.

    split: the one whose score is shown. code: the exit status.
    """
    result = read_result(folder) or {}
    status, reason = result.get("status", "finished"), str(result.get("reason", ""))
    if status == "stopped" and reason.startswith("Pruned"):
        status = "pruned"
    figures: dict[str, Any] = {"status": "failed" if code else status, "folder": str(folder), "code": code}
    if status != "finished" or code:
        figures |= {"reason": reason.partition("\n")[0], **_from_metrics(folder)}
    best, scores = result.get("best") or {}, result.get("splits", {}).get(split) or {}
    if best:
        figures |= {"metric": best["metric"], "dev": best["value"], "step": best["step"]}
    if metric := next((rate for rate in ("per", "wer", "cer") if scores.get(rate) is not None), None):
        low, high = scores.get("ci95") or (None, None)
        chosen = figures.get("metric", metric)
        figures |= {"metric": metric, "split": split, "score": scores[metric], "ci_low": low, "ci_high": high}
        figures |= {"dev_metric": "" if chosen == metric else chosen}
    return replace(cell, **figures, seconds=(result.get("train") or {}).get("wall_seconds"))


def lost(number: int, overrides: Iterable[str], reason: str) -> SweepCell:
    """The row of a cell whose job has ended and left nothing. overrides: those of its job."""
    return SweepCell(number, "lost", shlex.join(run_overrides(overrides)), reason=reason, code=1)


def _from_metrics(folder: Path) -> dict[str, Any]:
    """The best dev score so far of a run without a result, from its metrics.jsonl."""
    best: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            metric = next((rate for rate in ("per", "wer") if line.get(f"dev/{rate}") is not None), None)
            if metric and (not best or line[f"dev/{metric}"] < best["dev"]):
                best = {"metric": metric, "dev": line[f"dev/{metric}"], "step": line["step"]}
    return best


# ------------------------------------------------------------------------------------------------------------
# the files


def run_overrides(overrides: Iterable[str]) -> list[str]:
    """The overrides of a run: those of a sweep less Hydra's own and the sweep's."""
    return [word for word in overrides if not re.match(r"[+~]*(hydra[./]|sweeper=|sweep\.)", word)]


def identity(overrides: Iterable[str]) -> tuple[str, ...]:
    """The sorted overrides of a cell (or a sweep) that can change a score; two cells differ if these do."""
    free = "|".join(re.escape(name) for name in NOT_IN_SIGNATURE if name not in ("run", "split", "a", "b"))
    return tuple(sorted(word for word in overrides if not re.match(rf"[+~]*(hydra[./]|({free})[.=])", word)))


def note(record: Path, cell: SweepCell) -> None:
    """Write the row of a cell in place of its older one. Several processes may do so at once."""
    _change(record, cell, lambda _: cell)


def note_lost(record: Path, cell: SweepCell) -> SweepCell:
    """Note that the job of a cell has ended: the cell is lost, with the reason, unless its row says how the
    cell itself has ended -> its row.
    """

    def changed(before: SweepCell | None) -> SweepCell:
        if before is None:
            return cell
        if before.status == "stopped":
            return replace(before, reason=f"{before.reason.partition(' (')[0]} ({cell.reason})")
        if before.status in ("finished", "pruned"):
            return before
        figures = _from_metrics(Path(before.folder)) if before.folder else {}
        return replace(before, **figures, status="lost", reason=cell.reason, code=1)

    return _change(record, cell, changed)


def _change(record: Path, cell: SweepCell, change: Callable[[SweepCell | None], SweepCell]) -> SweepCell:
    """Write what `change` makes of the row with the identity of a cell, or of None where there is none, and
    return it.
    """
    record.mkdir(parents=True, exist_ok=True)
    with FileLock(record / ".record.lock"):
        cells = {identity(shlex.split(one.overrides)): one for one in read(record)}
        key = identity(shlex.split(cell.overrides))
        cells[key] = row = change(cells.get(key))
        rows = sorted(cells.values(), key=lambda one: one.cell)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [[one.name for one in fields(SweepCell)], *(asdict(row).values() for row in rows)]
        )
        write_text(record / "cells.csv", text.getvalue())
        write_text(record / "table.md", table(record.name, rows))
    return row


def read(record: Path) -> list[SweepCell]:
    """The cells of a record in the order of their numbers; none where there is no record."""
    path = record / "cells.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            # a record of an earlier version has no dev_metric
            SweepCell(
                **{one.name: _value(row[one.name], one.type) for one in fields(SweepCell) if one.name in row}
            )
            for row in csv.DictReader(file)
        ]


def _value(text: str, type_: Any) -> Any:
    if text == "" and type_ is not str:
        return None
    kind = next(kind for kind in (int, float, str) if kind is type_ or type_ == kind | None)
    return kind(text)


# ------------------------------------------------------------------------------------------------------------
# the page


def varied(overrides: Iterable[str]) -> list[str]:
    """The overrides of each cell that the others do not share, quoted for the shell."""
    split = [shlex.split(text) for text in overrides]
    shared = set.intersection(*map(set, split)) if len(split) > 1 else set()
    return [shlex.join(word for word in words if word not in shared) or "(defaults)" for words in split]


def table(name: str, cells: Sequence[SweepCell]) -> str:
    """The record as Markdown: a row for each cell, the best dev score in bold."""
    counts = {
        status: sum(cell.status == status for cell in cells)
        for status in dict.fromkeys(cell.status for cell in cells)
    }
    best = min(
        (cell.dev for cell in cells if cell.status == "finished" and cell.dev is not None), default=None
    )
    split = next((cell.split for cell in cells if cell.split), "test")
    lines = [
        f"# {name}",
        "",
        f"{len(cells)} cells: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".",
        "",
        f"| cell | settings | dev | {split} | 95 % interval | best step | time | status | run |",
        "|---:|---|---:|---:|---|---:|---:|---|---|",
    ]
    for cell, settings in zip(cells, varied(cell.overrides for cell in cells), strict=True):
        parts = [
            cell.cell,
            f"`{settings}`",
            f"**{cell.best}**"
            if best is not None and cell.dev == best and cell.status == "finished"
            else cell.best,
            "" if cell.score is None else percent(cell.score),
            "" if cell.ci_low is None else f"{percent(cell.ci_low)} .. {percent(cell.ci_high)}",
            cell.step or "",
            "" if cell.seconds is None else clock(cell.seconds),
            cell.status + (f": {cell.reason}" if cell.reason else ""),
            f"`{cell.folder}`" if cell.folder else "",
        ]
        lines.append("| " + " | ".join(str(part).replace("|", "\\|") for part in parts) + " |")
    return "\n".join(lines) + "\n"
