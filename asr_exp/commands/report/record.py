"""What a report reads from a run's folder: its result, its curves, its hypotheses for a split."""

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

MAX_POINTS = 1000  # of a curve

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Record:
    """A run. name: DATASET/MODEL/SIGNATURE; phones: whether its labels are phones; curves: points (step,
    value) by the curve's name; split: the split of its hypotheses, None where there are none; lines: the
    lines of hypotheses.SPLIT.jsonl by utterance id.
    """

    folder: Path
    name: str
    phones: bool
    result: dict[str, Any]
    curves: dict[str, Curve]
    split: str | None
    lines: dict[str, dict[str, Any]]

    def file(self, name: str) -> str:
        """The text of one of its files, '' where there is no such file."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_record(config: DictConfig, split: str) -> Record:
    """The record of the run whose folder is `run` in this config. Of a run that still trains, and has not
    come to the split, it has the hypotheses for dev.

    Raises UserError where there is nothing to show yet.
    """
    folder = Path(config.run).expanduser()
    scored = next((one for one in (split, "dev") if (folder / f"hypotheses.{one}.jsonl").is_file()), None)
    run_curves = curves(folder / "metrics.jsonl")
    if scored is None and not run_curves:
        raise UserError(
            f"{folder} has nothing to show yet: neither metrics.jsonl nor hypotheses.{split}.jsonl has a"
            " line."
        )
    lines = read_hypotheses(folder / f"hypotheses.{scored}.jsonl") if scored else {}
    name = f"{config.dataset.name}/{config.model.name}/{folder.resolve().name}"
    return Record(
        folder=folder,
        name=name,
        phones=config.tokenizer.unit == "phone",
        result=read_result(folder) or {},
        curves=run_curves,
        split=scored,
        lines=lines,
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, each with its step. A last line that is not whole yet, as a run at
    work leaves it, is left out.

    Raises UserError for any other line that cannot be read.
    """
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                if text.endswith("\n"):
                    try:
                        line = json.loads(text)
                        if not isinstance(line["step"], int):
                            raise TypeError(f"step is {line['step']!r}")
                    except (ValueError, KeyError, TypeError) as error:
                        raise UserError(
                            f"Line {number} of {path} is no line of a run ({error!r}); mend it or move the"
                            " file away."
                        ) from error
                    yield line


def curves(path: Path) -> dict[str, Curve]:
    """The curves of a `metrics.jsonl` by name, each of at most MAX_POINTS points (see `thinned`)."""
    points: dict[str, Curve] = {}
    for line in _lines(path):
        for name, value in line.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, []).append((line["step"], value))
    return {name: thinned(curve) for name, curve in points.items()}


def thinned(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """A curve of at most so many points. One that had more becomes the means of neighbouring points."""
    if len(curve) <= most:
        return curve
    return [tuple(map(float, part.mean(axis=0))) for part in np.array_split(np.array(curve), most)]  # type: ignore[misc]


@dataclass(frozen=True)
class TrainingLosses:
    """The losses of single utterances in the order of training, (n,) each: the utterance's number in the
    split, the step, the loss. Losses that are not finite are left out.
    """

    utterances: np.ndarray
    steps: np.ndarray
    losses: np.ndarray


def training_losses(folder: Path) -> TrainingLosses | None:
    """The losses in `losses.train.jsonl`; None where the file is empty, or missing as in runs of earlier
    versions.
    """
    by_step = {
        line["step"]: (np.array(line["utterances"], np.int32), np.array(line["losses"], np.float64))
        for line in _lines(folder / LOSSES)
    }
    if not by_step:
        return None
    order = sorted(by_step)
    utterances, losses = (np.concatenate([by_step[step][column] for step in order]) for column in (0, 1))
    steps = np.repeat(order, [len(by_step[step][0]) for step in order])
    known = np.isfinite(losses)
    return TrainingLosses(utterances[known], steps[known], losses[known]) if known.any() else None
