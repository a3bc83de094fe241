"""What a table is made of: the runs as cells, the entries that several runs of a place make, the protocols.

A rate is a fraction (0.21). A table sets scores side by side only where their protocols are the same to the
last part, so runs of one place that were scored by different protocols make different entries.
"""

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from asr_exp.commands.table.scores import PublishedScore, Score, interval, judge

# An entry without a score has the first of these statuses that one of its runs has.
STATUSES = ("failed", "stale", "stopped", "running", "missing", "rehearsal", "finished")
NOT_COMPARABLE = "not comparable"  # the verdict on scores of another protocol than the published one's


@dataclass(frozen=True)
class TableCell:
    """One run of a table: its settings, and its status and score once its folder has been read.

    title: dataset/model; keys: the overrides that distinguish it from the table's other cells; overrides: its
    whole command line; material: its dataset, metric and way of scoring, in words; recipe: a hash of its
    settings that does not depend on where the corpus lies; local: its corpus is read from dataset.root.
    status: finished, missing, running, failed, stopped, stale or rehearsal; only a finished one has a score.
    trained_on: the dataset that its run was trained on, where that is another.
    """

    title: str
    keys: Mapping[str, str]
    overrides: tuple[tuple[str, str], ...]
    material: str
    signature: str
    recipe: str
    published: PublishedScore = PublishedScore()
    local: bool = False
    status: str = "missing"
    reason: str = ""
    score: Score | None = None
    trained_on: str = ""

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.keys.items())


@dataclass(frozen=True)
class ScoringProtocol:
    """A protocol of a table. differs: the parts in which it is not like the table's first protocol for the
    same material.
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
    """The runs at a row and column of a table, and the mean of those that were scored by one protocol.

    cells: all runs of the place; scored: those with a score by the protocol `letter` ('' where none has one);
    other_letters: the protocols of the place's other scores, by the run's name; first: whether this is the
    first entry of its place.
    """

    row: str
    column: str
    cells: tuple[TableCell, ...]
    scored: tuple[TableCell, ...]
    letter: str
    mean_over: tuple[str, ...]
    other_letters: Mapping[str, str]
    first: bool = True

    @cached_property
    def _representative(self) -> TableCell:
        """The first cell whose settings make a run."""
        return next((cell for cell in self.cells if cell.signature), self.cells[0])

    @property
    def published(self) -> PublishedScore:
        return self._representative.published

    @property
    def material(self) -> str:
        return self._representative.material

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
        """Our mean minus the published score; None where they do not compare."""
        return None if self.mean is None or self.goal is None else self.mean - self.goal

    @property
    def goal(self) -> float | None:
        """The published score, where ours may be compared with it."""
        return None if self.verdict == NOT_COMPARABLE else self.published.value

    @property
    def verdict(self) -> str:
        """How our mean compares with the published score; '' where there is nothing to compare."""
        return self._judgement[0]

    @cached_property
    def _judgement(self) -> tuple[str, str]:
        """The verdict, and its reason where it needs one."""
        theirs, ours = self.published.protocol, self.scores[0].protocol if self.scores else {}
        differences = [
            f"its {part} is {theirs[part]}, ours {ours.get(part)}"
            for part in theirs
            if ours and ours.get(part) != theirs[part]
        ]
        if differences and self.published.value is not None:
            return NOT_COMPARABLE, "; ".join(differences)
        return judge(self.scores, self.published)

    @property
    def status(self) -> str:
        """'finished' where there is a score, else the worst status of the runs."""
        if self.scores:
            return "finished"
        return next(status for status in STATUSES if any(cell.status == status for cell in self.cells))

    def run_name(self, cell: TableCell) -> str:
        """'seed 0': what distinguishes a run from the others of its place."""
        return " ".join(f"{key} {cell.keys[key]}" for key in self.mean_over if key in cell.keys)

    @property
    def notes(self) -> list[str]:
        """Remarks on the entry: runs without a score, runs scored by other protocols, the reason of a
        verdict, settings that the published recipe leaves open.
        """
        runs: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell.status != "finished" and self.first:
                status = f"{cell.status}{f' ({cell.reason})' if cell.reason else ''}"
                runs.setdefault(status, []).append(self.run_name(cell))
        notes = [_run_note(names, status, len(names) == len(self.cells)) for status, names in runs.items()]
        notes += [
            f"{name or 'the other run'} is under protocol {letter}, and not in this mean"
            for name, letter in self.other_letters.items()
        ]
        origins = dict.fromkeys(cell.trained_on for cell in self.scored if cell.trained_on)
        notes += [f"trained on {' and '.join(origins)}, scored by `evaluate`"] if origins else []
        verdict, reason = self._judgement
        notes += [f"{verdict}: {reason}"] if reason else []
        inferred = ", ".join(self.published.inferred)
        return notes + ([f"inferred: {inferred}"] if inferred else [])

    @property
    def command(self) -> str:
        """The command line that starts every run of this place."""
        return command(self.cells)

    @property
    def hardware(self) -> str:
        return " / ".join(dict.fromkeys(score.hardware for score in self.scores if score.hardware))

    @property
    def wall_seconds(self) -> float | None:
        times = [score.wall_seconds for score in self.scores if score.wall_seconds is not None]
        return statistics.fmean(times) if times else None


def command(cells: Iterable[TableCell]) -> str:
    """The command line that starts all of these runs, whose settings make a grid."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for key, value in cell.overrides:
            values.setdefault(key, {})[value] = None
    overrides = [shlex.quote(f"{key}={','.join(several)}") for key, several in values.items()]
    multirun = ["-m"] if any(len(several) > 1 for several in values.values()) else []
    return " ".join(["python -m asr_exp", *multirun, *overrides])


def _run_note(names: Sequence[str], status: str, all_runs: bool) -> str:
    """'seeds 0, 2 failed (out of memory)'; the status alone where it is that of all runs of the place."""
    if all_runs or not any(names):
        return status
    keys = {name.rpartition(" ")[0] for name in names}
    if len(names) > 1 == len(keys):
        return f"{keys.pop()}s {', '.join(name.rpartition(' ')[2] for name in names)} {status}"
    return f"{', '.join(names)} {status}"


@dataclass(frozen=True)
class ResultTable:
    """A whole table.

    column_keys: () for a list of rows. letters_on: 'rows' or 'columns', whichever of a grid's axes shows the
    protocols. elsewhere: where the runs belong to no experiment, the experiments that have a published score
    for the same models and datasets.
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
        """The entries by protocol: (the protocol, or None where nothing is scored yet; material; entries).

        An entry without a score stands with the first protocol for its material.
        """
        first = {one.material: one.letter for one in reversed(self.protocols)}
        sections: list[tuple[ScoringProtocol | None, str, list[Entry]]] = []
        for one in self.protocols:
            entries = [e for e in self.entries if (e.letter or first.get(e.material)) == one.letter]
            sections.append((one, one.material, entries))
        unscored = [e.material for e in self.entries if not e.letter and e.material not in first]
        for material in dict.fromkeys(unscored):
            sections.append((None, material, [e for e in self.entries if e.material == material]))
        return sections
