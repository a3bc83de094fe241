"""The audio of a run's utterances, and what its recogniser makes of them. This is where a report reads the
dataset and the checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from asr_exp.builders.data import build_data, build_split
from asr_exp.commands.report.contents import UtteranceTable
from asr_exp.commands.report.detail import analyse, pack_detail
from asr_exp.commands.report.record import TrainingLosses
from asr_exp.commands.report.suspects import above_usual, suspects
from asr_exp.core.errors import UserError, nearest
from asr_exp.data.prepare import Split
from asr_exp.inference.transcriber import Transcriber
from asr_exp.training.checkpoint import STATE, load_state

MAX_BYTES = 12_000_000  # of all details in a page
LEAST_LOSSES = 20  # utterances with a loss that tell which of them is unusual
OF_TRAINING = (
    "Their loss stayed high while that of the utterances trained on at the same time fell. The score is the"
    " height above the usual over the epochs, in robust standard deviations, drawn towards zero where few"
    " losses tell of it. Listen before you correct one."
)
OF_SCORING = (
    "Their loss is high for their length, by the checkpoint that was scored. The recogniser may be wrong, or"
    " the transcript."
)


def read_split(config: DictConfig, name: str, transcriber: Transcriber) -> Split:
    """A split of the run's dataset as training (or scoring) read it, with its audio.

    Raises UserError where its corpus cannot be read.
    """
    data = build_data(config, only=name)
    return build_split(
        config, data, name, transcriber.tokenizer, transcriber.model, progress=False, lazy=True
    )


def check_trained_on(folder: Path, split: Split) -> None:
    """Raises UserError where the run was trained on another split than this, as far as its checkpoint
    tells.
    """
    last = folder / "checkpoints" / "last"
    if (last / STATE).is_file():
        trained_on = load_state(last, torch.device("cpu"), mapped=True)["state"]["data"]
        if trained_on != split.fingerprint():
            raise UserError(
                f"The training data has changed since {folder} was trained: its losses are of other"
                " utterances."
            )


@dataclass
class Details:
    """The details of a page, as many as fit into it.

    transcribers: of the runs that are compared; packed: the details as JSON, by their number; size: their
    bytes; left_out: how many did not fit.
    """

    transcribers: Sequence[Transcriber]
    packed: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    left_out: int = 0

    def add(self, clip: np.ndarray, reference: str, hypotheses: Sequence[str | None]) -> int | None:
        """Add the detail of an utterance and give its number, or None where the page is full.

        clip: (samples,) int16; hypotheses: of each run, or None for that of its best path.
        """
        if self.size >= MAX_BYTES or not len(clip):
            self.left_out += 1
            return None
        analyses = [
            analyse(transcriber, clip, reference, hypothesis)
            for transcriber, hypothesis in zip(self.transcribers, hypotheses, strict=False)
        ]
        one = pack_detail(clip, self.transcribers[0].rate, analyses)
        self.size += (
            len(one["audio"])
            + len(one["spectrogram"]["shades"])
            + sum(len(each["shades"]) for each in one["analyses"])
        )
        self.packed.append(one)
        return len(self.packed) - 1


def rows_of(ids: Sequence[str], selected: Sequence[str]) -> list[int]:
    """The rows of the utterances that report.utterances names. Raises UserError for one that is not in the
    split.
    """
    rows = {id: row for row, id in enumerate(ids)}
    if missing := [one for one in selected if one not in rows]:
        raise UserError(
            f"report.utterances names {missing[0]}, which is not in this split.{nearest(missing[0], rows)}"
        )
    return [rows[one] for one in selected]


def analyse_rows(
    split: Split, utterances: UtteranceTable, rows: Sequence[int], details: Details
) -> dict[int, int]:
    """Add the details of these rows and give their numbers. Rows that do not fit into the page, or that the
    split lacks, are left out.
    """
    index = {id: number for number, id in enumerate(split.utterances.ids())}
    numbers = {}
    for row in rows:
        if (number := index.get(utterances.ids[row])) is not None:
            hypotheses = [of_run[row] for of_run in utterances.hypotheses]
            numbers[row] = details.add(split.samples(number), split.utterances.text(number), hypotheses)
    return {row: number for row, number in numbers.items() if number is not None}


def train_suspects(
    folder: Path, losses: TrainingLosses, split: Split, count: int, details: Details
) -> dict[str, Any]:
    """The training utterances whose transcripts are in doubt, each with its detail.

    Args:
        folder: the run's.
        losses: of its training.
        split: its training split.
        count: how many utterances are listed.
        details: where their details are added.

    Returns:
        The group as the page's script reads it.

    Raises:
        UserError: the run was trained on another split.
    """
    check_trained_on(folder, split)
    rows = []
    for one in suspects(losses, count):
        utterance, clip = split.utterances[one.number], split.samples(one.number)
        (transcript,) = details.transcribers[0]([clip])
        rows.append(
            {
                "id": utterance.id,
                "speaker": utterance.speaker,
                "seconds": round(float(split.seconds[one.number]), 3),
                "reference": split.reference(one.number),
                "hypothesis": transcript.text,
                "score": round(one.score, 2),
                "losses": [round(loss, 4) for loss in one.losses],
                "usual": [round(loss, 4) for loss in one.usual],
                "detail": details.add(clip, utterance.text, [None]),
            }
        )
    _, usual = above_usual(losses.losses)
    once = " Most were trained on once, and one loss tells little; it takes two epochs." * (
        len(losses.losses) < 1.5 * len(np.unique(losses.utterances))
    )
    fell = (
        f" The usual loss went from {usual.max():.2g} to {usual[-1]:.2g}; as long as it stays high, this"
        " tells little."
    )
    whose = " of A" if len(details.transcribers) > 1 else ""
    return {
        "title": f"Of the training split{whose}",
        "basis": OF_TRAINING + fell + once,
        "split": "train",
        "rows": rows,
    }


def split_suspects(
    split: str, utterances: UtteranceTable, count: int, numbers: Mapping[int, int]
) -> dict[str, Any] | None:
    """The utterances of the split that is shown whose transcripts are in doubt, by the losses of the best
    checkpoint; None where there are too few losses. numbers: of the details, by row.
    """
    rows = [row for row, loss in enumerate(utterances.losses[0]) if loss]
    if len(rows) < LEAST_LOSSES:
        return None
    # neighbours are utterances of about the same length
    rows.sort(key=lambda row: float(utterances.seconds[row]))
    losses = np.array([utterances.losses[0][row] for row in rows])
    heights, usual = above_usual(losses)
    listed = [
        {
            "id": utterances.ids[row],
            "speaker": utterances.speakers[row],
            "seconds": float(utterances.seconds[row]),
            "reference": utterances.references[row],
            "hypothesis": utterances.hypotheses[0][row],
            "score": round(float(heights[n]), 2),
            "losses": [round(float(losses[n]), 4)],
            "usual": [round(float(usual[n]), 4)],
            "detail": numbers.get(row),
        }
        for n in np.argsort(-heights, kind="stable")[:count]
        for row in [rows[n]]
    ]
    return {"title": f"Of {split}", "basis": OF_SCORING, "split": split, "rows": listed}
