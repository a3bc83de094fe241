"""What a run's folder tells: its result, its curves, what it said of a split."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from asr_exp.core.errors import UserError
from asr_exp.runs.results import LOSSES, read_hypotheses, read_result

MOST_POINTS = 1000  # of a curve

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Record:
    """A run. name: DATASET/MODEL/SIGNATURE; phones: whether its labels are phones; curves: by name, (step,
    value); split: the one whose hypotheses `lines` are, by utterance id, None without any."""

    folder: Path
    name: str
    phones: bool
    result: dict[str, Any]
    curves: dict[str, Curve]
    split: str | None
    lines: dict[str, dict[str, Any]]

    def file(self, name: str) -> str:
        """The text of one of its files, '' where it is not there."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_record(config: DictConfig, split: str) -> Record:
    """The run of a config whose `run` is its folder. One that has not come to the split (it trains still)
    shows what it said of dev.

    Raises UserError where there is nothing to show yet.
    """
    folder = Path(config.run).expanduser()
    said = next((one for one in (split, "dev") if (folder / f"hypotheses.{one}.jsonl").is_file()), None)
    found = curves(folder / "metrics.jsonl")
    if said is None and not found:
        raise UserError(
            f"{folder} has nothing to show yet: neither metrics.jsonl nor hypotheses.{split}.jsonl has a"
            " line."
        )
    lines = read_hypotheses(folder / f"hypotheses.{said}.jsonl") if said else {}
    name = f"{config.dataset.name}/{config.model.name}/{folder.resolve().name}"
    return Record(
        folder, name, config.tokenizer.unit == "phone", read_result(folder) or {}, found, said, lines
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file that has steps; a line torn off at the end, of a run that is at work,
    is left out.

    Raises UserError for another that is none.
    """
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.endswith("\n"):
                    try:
                        line = json.loads(text)
                        if not isinstance(line["step"], int):
                            raise TypeError(f"step is {line['step']!r}")
                    except (ValueError, KeyError, TypeError) as why:
                        raise UserError(
                            f"Line {number} of {path} is no line of a run ({why!r}); mend it or move the file"
                            " away."
                        ) from why
                    yield line


def curves(path: Path) -> dict[str, Curve]:
    """The curves of a `metrics.jsonl`, of MOST_POINTS at most: where there are more, each is the mean of its
    neighbours.
    """
    found: dict[str, Curve] = {}
    for line in _lines(path):
        for name, value in line.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((line["step"], value))
    return {name: thinned(curve) for name, curve in found.items()}


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """A curve of so many points at most, each the mean of its neighbours."""
    if len(curve) <= most:
        return curve
    return [tuple(map(float, part.mean(axis=0))) for part in np.array_split(np.array(curve), most)]  # type: ignore[misc]


@dataclass(frozen=True)
class TrainingLosses:
    """Losses of single utterances in the order of training: number of the utterance, step, loss; each (n,).
    No loss: left out.
    """

    utterances: np.ndarray
    steps: np.ndarray
    losses: np.ndarray


def training_losses(folder: Path) -> TrainingLosses | None:
    """What `losses.train.jsonl` tells; None where it is not there (a run of an earlier version) or empty."""
    by_step = {line["step"]: (np.array(line["utterances"], np.int32), np.array(line["losses"], np.float64))
               for line in _lines(folder / LOSSES)}  # fmt: skip
    if not by_step:
        return None
    order = sorted(by_step)
    utterances, losses = (np.concatenate([by_step[step][column] for step in order]) for column in (0, 1))
    steps = np.repeat(order, [len(by_step[step][0]) for step in order])
    known = np.isfinite(losses)
    return TrainingLosses(utterances[known], steps[known], losses[known]) if known.any() else None
