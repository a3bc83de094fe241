"""Runs of one dataset in the columns of others: what `evaluate RUN dataset=...` scored fills the cell of that
dataset.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from asr_exp.runs.pairing import corpus_name
from asr_exp.runs.results import read_result

# What a protocol says of the data; the rest says how it is scored, and must be as in the run's own protocol.
OF_THE_DATA = ("dataset", "language", "split", "ids", "coverage", "corrections", "hash")
# Keys of a dataset that do not change which utterances of test are scored, and how they read.
NOT_OF_TEST = ("root", "source", "only", "train", "dev", "min_seconds", "max_seconds")

Cells = Sequence[tuple[TableCell, DictConfig | None]]


@dataclass(frozen=True)
class Evaluation:
    """The score of a run on another dataset. source, config: the run's own cell and config; place: the folder
    of the score.
    """

    source: TableCell
    config: DictConfig
    place: Path
    result: dict[str, Any]

    @property
    def origin(self) -> str:
        """The dataset that the run was trained on."""
        return _corpus(self.config)


def fill(cells: Cells, mean_over: Sequence[str], trained_on: str | None) -> list[TableCell]:
    """The cells of a table, those of a dataset that a run was not trained on filled with the run's score on
    it. No mean is made of runs of several datasets.

    Args:
        cells: as their own run folders have them, with their configs.
        mean_over: the keys that the runs of one place differ in.
        trained_on: the dataset (or its language) of the runs to take for the cells of all others. None: a
            place that has a run of its own keeps it, and another takes the runs that were scored on it, where
            those are of one dataset.

    Raises:
        UserError: no run of the table is trained on `trained_on`.
    """
    names = dict.fromkeys(_corpus(config) for _, config in cells if config is not None)
    if trained_on and not any(config is not None and _is_named(config, trained_on) for _, config in cells):
        raise UserError(
            f"trained_on={trained_on}: no run of this table is trained on it; its datasets:"
            f" {', '.join(names)}."
        )
    places: dict[str, list[int]] = {}
    for number, (cell, _) in enumerate(cells):
        place = json.dumps({key: value for key, value in cell.keys.items() if key not in mean_over})
        places.setdefault(place, []).append(number)
    filled = [cell for cell, _ in cells]
    for numbers in places.values():
        for number, cell in zip(
            numbers, _of_place([cells[i] for i in numbers], cells, trained_on), strict=True
        ):
            filled[number] = cell
    return filled


def _of_place(here: Cells, cells: Cells, trained_on: str | None) -> list[TableCell]:
    """The cells of one place, filled where they have no run of their own (or with `trained_on`, of another
    dataset).
    """
    own = [cell for cell, _ in here]
    if any(config is None or trained_on and _is_named(config, trained_on) for _, config in here):
        return own
    if not trained_on and any(cell.status != "missing" for cell in own):
        return own
    found = [_evaluations(cell, config, cells, trained_on) for cell, config in here if config is not None]
    origins = list(dict.fromkeys(one.origin for several in found for one in several))
    if len(origins) > 1:
        reason = f"runs of {' and of '.join(origins)} were scored on it; trained_on=NAME chooses one"
        return [replace(cell, reason=reason) for cell in own]
    return [
        _filled(cell, config, several, trained_on)
        for (cell, config), several in zip(here, found, strict=True)
        if config is not None
    ]


def _filled(
    cell: TableCell, config: DictConfig, found: Sequence[Evaluation], trained_on: str | None
) -> TableCell:
    """A cell with the score of a run of another dataset, or without one and why."""
    if trained_on:
        reason = f"the run of {trained_on} was not scored on it: evaluate RUN dataset=..."
        cell = replace(cell, status="missing", reason=reason, score=None, published=PublishedScore())
    if len(found) > 1:
        return replace(cell, reason="a run was scored on it more than once, on other utterances")
    if not found:
        return cell
    (one,) = found
    cell = replace(cell, published=PublishedScore(), overrides=one.source.overrides, local=one.source.local)
    cell = replace(cell, trained_on=one.origin, score=None)
    if changed := changed_data(config, one.place, one.result):
        reason = f"its data has changed since it was scored: {changed}"
        return replace(cell, status="stale", reason=reason)
    score, reason = score_of(one.place, one.result, config)
    return replace(cell, status="finished" if score else "stale", reason=reason, score=score)


def _corpus(config: DictConfig) -> str:
    """'common-voice tr'."""
    return corpus_name(config.dataset.name, config.dataset.language)


def _is_named(config: DictConfig, name: str) -> bool:
    return name in (config.dataset.name, config.dataset.language, _corpus(config))


def _evaluations(
    cell: TableCell, config: DictConfig, cells: Cells, trained_on: str | None
) -> list[Evaluation]:
    """The scores that runs of other cells, which differ from this one in their dataset alone, have on its
    dataset, measured like their own.
    """
    sources = [
        (other, theirs)
        for other, theirs in cells
        if theirs is not None and other.status == "finished"
        if _apart_from_dataset(other) == _apart_from_dataset(cell) and _of_test(theirs) != _of_test(config)
        if not trained_on or _is_named(theirs, trained_on)
    ]
    found = {}
    for other, theirs in sources:
        folder = run_folder(theirs)
        own = _scoring(read_result(folder) or {})
        for place in sorted((folder / "evaluations").glob("*/")):
            result = read_result(place) or {}
            scored = "test" in (result.get("splits") or {})
            if scored and own == _scoring(result) and _is_of(result, config):
                found[place] = Evaluation(other, theirs, place, result)
    return list(found.values())


def _apart_from_dataset(cell: TableCell) -> dict[str, str]:
    """The keys of a cell that do not choose its dataset."""
    return {
        name: value
        for name, value in cell.keys.items()
        if name != "experiment" and name.partition(".")[0] != "dataset"
    }


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
    return not theirs or all(value == usual[key] for key, value in _of_test(config).items())


def _of_test(config: DictConfig) -> dict[str, Any]:
    """The keys of a dataset that say which utterances of test are scored."""
    section = resolve(config)["dataset"]
    return {key: value for key, value in section.items() if key not in NOT_OF_TEST}
