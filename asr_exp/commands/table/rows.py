"""Cells in, rows out: which scores may stand side by side, their means and intervals, and what they are
beside the published ones.

Pure functions on frozen dataclasses. A rate is a fraction (0.21). A table sets scores side by side only where
their protocols are the same to the last part: entries are parted by protocol, also where that parts the seeds
of one row.
"""

import json
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from asr_exp.commands.table.scores import PublishedScore, Score, interval, judge

# The first that a place's runs have is what is said of it.
STATUSES = ("failed", "stale", "stopped", "running", "missing", "rehearsal", "finished")
APART = "not comparable"  # the verdict on scores of another protocol than the published one's


@dataclass(frozen=True)
class TableCell:
    """One run of a table: what was asked, and what has come of it.

    title: dataset/model; keys: what tells it from the table's other cells, by override; asked: its whole
    command line; material: what it is to be measured on and by, in words; recipe: a hash of what was asked,
    wherever the corpus lies; local: it reads a corpus from dataset.root. status: finished, missing, running,
    failed, stopped, stale or rehearsal; all but finished have no score.
    """

    title: str
    keys: Mapping[str, str]
    asked: tuple[tuple[str, str], ...]
    material: str
    signature: str
    recipe: str
    published: PublishedScore = PublishedScore()
    local: bool = False
    status: str = "missing"
    reason: str = ""
    score: Score | None = None

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.keys.items())


@dataclass(frozen=True)
class ScoringProtocol:
    """A protocol of a table. differs: the parts in which it is not what the first protocol for the same
    material is.
    """

    letter: str
    parts: Mapping[str, Any]
    material: str
    differs: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        return str(self.parts.get("hash", "unknown"))


@dataclass(frozen=True)
class Entry:
    """A place of a table: the runs that were asked for there, and those of them whose scores, of one
    protocol, make its number.
    """

    row: str
    column: str
    cells: tuple[TableCell, ...]
    scored: tuple[TableCell, ...]
    letter: str  # of the protocol; "" where nothing is scored
    mean_over: tuple[str, ...]
    # what of the same place stands under another protocol: the run's name -> letter
    others: Mapping[str, str]
    first: bool = True  # of the entries of its place

    @cached_property
    def _leading(self) -> TableCell:
        # one whose settings make a run
        return next((cell for cell in self.cells if cell.signature), self.cells[0])

    @property
    def published(self) -> PublishedScore:
        return self._leading.published

    @property
    def material(self) -> str:
        return self._leading.material

    @cached_property
    def scores(self) -> list[Score]:
        return [cell.score for cell in self.scored if cell.score]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(score.value for score in self.scores) if self.scores else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.scores)

    @property
    def difference(self) -> float | None:
        """Ours less the published score; None where they do not compare."""
        return None if self.mean is None or self.goal is None else self.mean - self.goal

    @property
    def goal(self) -> float | None:
        """The published score, where ours may be set against it."""
        return None if self.judged[0] == APART else self.published.value

    @cached_property
    def judged(self) -> tuple[str, str]:
        """The verdict, and why it is one that needs a word."""
        theirs, ours = self.published.protocol, self.scores[0].protocol if self.scores else {}
        differ = [
            f"its {part} is {theirs[part]}, ours {ours.get(part)}"
            for part in theirs
            if ours and ours.get(part) != theirs[part]
        ]
        if differ and self.published.value is not None:
            return APART, "; ".join(differ)
        return judge(self.scores, self.published)

    @property
    def status(self) -> str:
        """'finished' where there is a number, else what has become of its runs, the worst first."""
        return (
            "finished"
            if self.scores
            else next(s for s in STATUSES if any(cell.status == s for cell in self.cells))
        )

    def run_name(self, cell: TableCell) -> str:
        """'seed 0': what tells a run from the others of its place."""
        return " ".join(f"{key} {cell.keys[key]}" for key in self.mean_over if key in cell.keys)

    @property
    def notes(self) -> list[str]:
        """What is to be said of a place besides its number: runs without one, runs under other protocols, a
        doubtful verdict.
        """
        found: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell.status != "finished" and self.first:
                found.setdefault(f"{cell.status}{f' ({cell.reason})' if cell.reason else ''}", []).append(
                    self.run_name(cell)
                )
        said = [_said_of(names, what, len(names) == len(self.cells)) for what, names in found.items()]
        said += [
            f"{name or 'the other run'} is under protocol {letter}, and not in this mean"
            for name, letter in self.others.items()
        ]
        word, why = self.judged
        said += [f"{word}: {why}"] if why else []
        return said + ([f"inferred: {', '.join(self.published.inferred)}"] if self.published.inferred else [])

    @property
    def command(self) -> str:
        """What runs everything that was asked for at this place."""
        return command(self.cells)

    @property
    def hardware(self) -> str:
        return " / ".join(dict.fromkeys(score.hardware for score in self.scores if score.hardware))

    @property
    def wall_seconds(self) -> float | None:
        times = [score.wall_seconds for score in self.scores if score.wall_seconds is not None]
        return statistics.fmean(times) if times else None


def command(cells: Iterable[TableCell]) -> str:
    """The command line that runs all of these cells, which differ by the values of a grid."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for key, value in cell.asked:
            values.setdefault(key, {})[value] = None
    words = [shlex.quote(f"{key}={','.join(several)}") for key, several in values.items()]
    return " ".join(
        [
            "python -m asr_exp",
            *(["-m"] if any(len(several) > 1 for several in values.values()) else []),
            *words,
        ]
    )


def _said_of(names: Sequence[str], what: str, everything: bool) -> str:
    if everything or not any(names):
        return what
    keys = {name.rpartition(" ")[0] for name in names}
    together = (
        f"{keys.pop()}s {', '.join(name.rpartition(' ')[2] for name in names)}"
        if len(names) > 1 == len(keys)
        else ", ".join(names)
    )
    return f"{together} {what}"


@dataclass(frozen=True)
class ResultTable:
    """A whole table. column_keys is () for a list of rows; letters_on: 'rows' or 'columns', what carries the
    protocol in a grid.

    elsewhere: where the runs are no experiment's, the experiments that have a published score for the like of
    them.
    """

    name: str
    row_keys: tuple[str, ...]
    column_keys: tuple[str, ...]
    mean_over: tuple[str, ...]
    entries: tuple[Entry, ...]
    protocols: tuple[ScoringProtocol, ...]
    letters_on: str
    elsewhere: tuple[str, ...] = ()

    def sections(self) -> list[tuple[ScoringProtocol | None, str, list[Entry]]]:
        """Entries that may be compared, together: (protocol, or None where nothing is scored yet; material;
        entries).
        """
        first = {one.material: one.letter for one in reversed(self.protocols)}
        found: list[tuple[ScoringProtocol | None, str, list[Entry]]] = []
        for one in self.protocols:
            found.append(
                (
                    one,
                    one.material,
                    [e for e in self.entries if (e.letter or first.get(e.material)) == one.letter],
                )
            )
        for material in dict.fromkeys(
            entry.material for entry in self.entries if not entry.letter and entry.material not in first
        ):
            found.append((None, material, [entry for entry in self.entries if entry.material == material]))
        return found


# ------------------------------------------------------------------------------------------------------------
# arranging


def arrange(
    name: str,
    cells: Sequence[TableCell],
    rows: Sequence[str],
    columns: Sequence[str] = (),
    mean_over: Sequence[str] = ("seed",),
) -> ResultTable:
    """Cells at their places: a row and a column each, runs that differ in `mean_over` alone together, parted
    by protocol.
    """
    protocols = _protocols(cells)
    letters = {_key(one.parts): one.letter for one in protocols}
    places: dict[tuple[str, str], list[TableCell]] = {}
    folders = {cell.keys.get("experiment", "").rpartition("/")[0] for cell in cells}
    for cell in cells:
        shown = {
            key: value.rpartition("/")[2] if key == "experiment" and len(folders) == 1 else value
            for key, value in cell.keys.items()
        }
        place = (_label(shown, rows) or cell.title, _label(shown, columns))
        places.setdefault(place, []).append(cell)
    entries: list[Entry] = []
    for (row, column), runs in places.items():
        by_letter: dict[str, list[TableCell]] = {}
        for cell in runs:
            if cell.score:
                by_letter.setdefault(letters[_key(cell.score.protocol)], []).append(cell)
        whole = Entry(row, column, tuple(runs), (), "", tuple(mean_over), {})
        for number, (letter, scored) in enumerate(by_letter.items() or [("", [])]):
            others = {
                whole.run_name(cell): other
                for other, group in by_letter.items()
                if other != letter
                for cell in group
            }
            entries.append(
                replace(whole, scored=tuple(scored), letter=letter, others=others, first=number == 0)
            )
    return ResultTable(
        name,
        tuple(rows),
        tuple(columns),
        tuple(mean_over),
        tuple(entries),
        tuple(protocols),
        _letters_on(places),
    )


def _protocols(cells: Iterable[TableCell]) -> list[ScoringProtocol]:
    found: dict[str, ScoringProtocol] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for cell in cells:
        if cell.score and (key := _key(cell.score.protocol)) not in found:
            parts = cell.score.protocol
            before = first.setdefault(cell.material, parts)
            differs = [part for part in {**before, **parts} if before.get(part) != parts.get(part)]
            differs = [part for part in differs if part != "hash"] or differs
            found[key] = ScoringProtocol(_letter(len(found)), parts, cell.material, tuple(differs))
    return list(found.values())


def _key(parts: Mapping[str, Any]) -> str:
    """A protocol to the last part: a record whose hash does not fit its parts equals no other."""
    return json.dumps(parts, sort_keys=True)


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _label(values: Mapping[str, str], keys: Sequence[str]) -> str:
    """'wav2vec2-base, optimizer.lr 0.001': the values of these keys; a choice's name, or a value alone, needs
    no key.
    """
    named = [key if "." in key or key == "seed" else "" for key in keys] if len(keys) > 1 else [""]
    return ", ".join(f"{name} {values.get(key, '')}".strip() for name, key in zip(named, keys, strict=False))


def _letters_on(places: Mapping[tuple[str, str], Sequence[TableCell]]) -> str:
    """Whether a grid's corpora and ways of measuring, as asked, go by its rows (then each row may be
    compared) or by its columns.
    """
    of_rows: dict[str, set[str]] = {}
    of_columns: dict[str, set[str]] = {}
    for (row, column), cells in places.items():
        materials = {cell.material for cell in cells if cell.signature}
        of_rows.setdefault(row, set()).update(materials)
        of_columns.setdefault(column, set()).update(materials)
    by_row = all(len(one) < 2 for one in of_rows.values()) and any(
        len(one) > 1 for one in of_columns.values()
    )
    return "rows" if by_row else "columns"
