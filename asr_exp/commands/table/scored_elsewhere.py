"""Runs of one dataset in the columns of others: what `evaluate RUN dataset=...` scored fills the cell of that
dataset.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.commands.table.data_changes import changed_data
from asr_exp.commands.table.rows import TableCell
from asr_exp.commands.table.run_folders import score_of
from asr_exp.commands.table.scores import PublishedScore
from asr_exp.config.schema import Dataset
from asr_exp.core.errors import UserError
from asr_exp.runs.folder import resolve, run_folder
from asr_exp.runs.results import read_result

# What a protocol says of the data; the rest says how it is scored, and must be as in the run's own protocol.
OF_THE_DATA = ("dataset", "language", "split", "ids", "coverage", "corrections", "hash")
# Keys of a dataset that do not change which utterances of test are scored, and how they read.
NOT_OF_TEST = ("root", "source", "only", "train", "dev", "min_seconds", "max_seconds")

Cells = Sequence[tuple[TableCell, DictConfig | None]]


def fill(cells: Cells, trained_on: str | None) -> list[TableCell]:
    """The cells of a table, those of a dataset that a run was not trained on filled with the run's score on
    it.

    trained_on: the dataset (or its language) of the runs to take for the cells of all others; None: a cell
    that has a run of its own keeps it, and another takes the only run of the table that was scored on it.
    Raises UserError where no run of the table is trained on `trained_on`.
    """
    names = dict.fromkeys(corpus_of(config) for _, config in cells if config is not None)
    if trained_on and not any(_is_named(config, trained_on) for _, config in cells if config is not None):
        raise UserError(
            f"trained_on={trained_on}: no run of this table is trained on it; its datasets:"
            f" {', '.join(names)}."
        )
    filled = []
    for cell, config in cells:
        own = config is None or trained_on and _is_named(config, trained_on)
        if config is None or own or not trained_on and cell.status != "missing":
            filled.append(cell)
        else:
            filled.append(_filled(cell, config, cells, trained_on))
    return filled


def corpus_of(config: DictConfig) -> str:
    """'common-voice tr': the name of a dataset, and its language."""
    return " ".join(filter(None, (config.dataset.name, config.dataset.language)))


def _is_named(config: DictConfig, name: str) -> bool:
    return name in (config.dataset.name, config.dataset.language, corpus_of(config))


def _filled(cell: TableCell, config: DictConfig, cells: Cells, trained_on: str | None) -> TableCell:
    """A cell with the score of a run of another dataset, or without one and why."""
    same = _apart_from_dataset(cell)
    sources = [
        (other, theirs)
        for other, theirs in cells
        if theirs is not None and other is not cell and _apart_from_dataset(other) == same
        if corpus_of(theirs) != corpus_of(config) and (not trained_on or _is_named(theirs, trained_on))
        if other.status == "finished"
    ]
    found = {}
    for other, theirs in sources:
        for place, result in _evaluations(run_folder(theirs), config):
            found[str(place)] = (other, theirs, place, result)
    if len(found) == 1:
        ((other, theirs, place, result),) = found.values()
        cell = replace(cell, published=PublishedScore(), overrides=other.overrides, local=other.local)
        cell = replace(cell, trained_on=corpus_of(theirs), score=None)
        if changed := changed_data(config, place, result):
            reason = f"its data has changed since it was scored: {changed}"
            return replace(cell, status="stale", reason=reason)
        score, reason = score_of(place, result, config)
        return replace(cell, status="finished" if score else "stale", reason=reason, score=score)
    names = list(dict.fromkeys(corpus_of(theirs) for _, theirs, _, _ in found.values()))
    if len(names) > 1:
        reason = f"runs of {' and of '.join(names)} were scored on it; trained_on=NAME chooses one"
        return replace(cell, reason=reason)
    if found:
        return replace(cell, reason="a run was scored on it more than once, on other utterances")
    if trained_on:
        reason = f"the run of {trained_on} was not scored on it: evaluate RUN dataset=..."
        return replace(cell, status="missing", reason=reason, score=None, published=PublishedScore())
    return cell


def _apart_from_dataset(cell: TableCell) -> dict[str, str]:
    """The keys of a cell that do not choose its dataset."""
    return {
        name: value
        for name, value in cell.keys.items()
        if name != "experiment" and name.partition(".")[0] != "dataset"
    }


def _evaluations(folder: Path, config: DictConfig) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The evaluations of a run on the test split of a config's dataset, scored like the run's own."""
    own = _scoring(read_result(folder) or {})
    for place in sorted((folder / "evaluations").glob("*/")):
        result = read_result(place) or {}
        if "test" in (result.get("splits") or {}) and own == _scoring(result) and _is_of(result, config):
            yield place, result


def _scoring(result: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a result's protocol that say how it was scored."""
    return {key: value for key, value in (result.get("protocol") or {}).items() if key not in OF_THE_DATA}


def _is_of(result: Mapping[str, Any], config: DictConfig) -> bool:
    """Whether a result is of the test split of a config's dataset."""
    protocol = result["protocol"]
    if (protocol.get("dataset"), protocol.get("language")) != (config.dataset.name, config.dataset.language):
        return False
    theirs = result.get("dataset") or {}
    usual = {**asdict(Dataset()), **theirs}  # without the keys of a later version, it had their defaults
    ours = resolve(config)["dataset"]
    return not theirs or all(ours[key] == usual[key] for key in ours if key not in NOT_OF_TEST)
