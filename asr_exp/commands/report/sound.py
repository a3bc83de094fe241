"""The audio of a run's utterances and what its recogniser makes of them: where a report meets the dataset and
the checkpoint.
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
from asr_exp.commands.report.detail import analyse, packed
from asr_exp.commands.report.record import TrainingLosses
from asr_exp.commands.report.suspects import above_usual, suspects
from asr_exp.core.errors import UserError, nearest
from asr_exp.data.prepare import Split
from asr_exp.inference.transcriber import Transcriber
from asr_exp.training.checkpoint import STATE, load_state

MOST_BYTES = 12_000_000  # of closeups in a page
FEWEST = 20  # utterances with a loss, before it is said which of them is unusual
OF_TRAINING = (
    "Their loss stayed high while that of the utterances trained on at the same time fell. The score is the"
    " mean height above the usual over the epochs, in robust standard deviations. Listen before you correct"
    " one."
)
OF_SCORING = (
    "Their loss is high for their length, by the checkpoint that was scored. The recogniser may be wrong, or"
    " the transcript."
)


def read_split(config: DictConfig, name: str, transcriber: Transcriber) -> Split:
    """A split of the run's dataset as training (or scoring) had it. Raises UserError where its corpus cannot
    be read.
    """
    data = build_data(config, only=name)
    return build_split(
        config, data, name, transcriber.tokenizer, transcriber.model, progress=False, lazy=True
    )


def check_trained_on(folder: Path, split: Split) -> None:
    """Raises UserError where the training split is not the one that the run has learned from, as far as its
    checkpoint tells.
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
    """Closeups for a page, as many as fit into it. transcribers: of the runs that are set side by side."""

    transcribers: Sequence[Transcriber]
    made: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    left_out: int = 0

    def add(self, clip: np.ndarray, reference: str, hypotheses: Sequence[str | None]) -> int | None:
        """Make one -> its number, or None where the page is full. hypotheses: of each run, None: its best
        path's.
        """
        if self.size >= MOST_BYTES or not len(clip):
            self.left_out += 1
            return None
        heard = [
            analyse(one, clip, reference, said)
            for one, said in zip(self.transcribers, hypotheses, strict=False)
        ]
        one = packed(clip, self.transcribers[0].rate, heard)
        self.size += (
            len(one["audio"])
            + len(one["spectrogram"]["shades"])
            + sum(len(each["shades"]) for each in one["heard"])
        )
        self.made.append(one)
        return len(self.made) - 1


def chosen_rows(ids: Sequence[str], asked: Sequence[str]) -> list[int]:
    """The rows of the utterances that report.utterances names. Raises UserError for one that is not there."""
    rows = {id: row for row, id in enumerate(ids)}
    if missing := [one for one in asked if one not in rows]:
        raise UserError(
            f"report.utterances names {missing[0]}, which is not in this split.{nearest(missing[0], rows)}"
        )
    return [rows[one] for one in asked]


def analyse_rows(
    split: Split, utterances: UtteranceTable, rows: Sequence[int], closeups: Details
) -> dict[int, int]:
    """The number of the closeup of each of these rows, as far as they fit and the split has them."""
    index = {id: number for number, id in enumerate(split.utterances.ids())}
    made = {}
    for row in rows:
        if (number := index.get(utterances.ids[row])) is not None:
            said = [side[row] for side in utterances.hypotheses]
            made[row] = closeups.add(split.samples(number), split.utterances.text(number), said)
    return {row: number for row, number in made.items() if number is not None}


def train_suspects(
    folder: Path, found: TrainingLosses, split: Split, count: int, closeups: Details
) -> dict[str, Any]:
    """The training utterances under suspicion, each with its sound and what the recogniser says of it. Raises
    UserError.
    """
    check_trained_on(folder, split)
    rows = []
    for one in suspects(found, count):
        utterance, clip = split.utterances[one.number], split.samples(one.number)
        (transcript,) = closeups.transcribers[0]([clip])
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
                "closeup": closeups.add(clip, utterance.text, [None]),
            }
        )
    _, usual = above_usual(found.losses)
    fell = (
        f" The usual loss went from {usual.max():.2g} to {usual[-1]:.2g}; as long as it stays high, this"
        " tells little."
    )
    whose = " of A" if len(closeups.transcribers) > 1 else ""
    return {"title": f"Of the training split{whose}", "basis": OF_TRAINING + fell, "rows": rows}


def split_suspects(
    split: str, utterances: UtteranceTable, count: int, heard: Mapping[int, int]
) -> dict[str, Any] | None:
    """Those of the split that is shown, by the loss of the run's best checkpoint; None where it was scored
    without losses.
    """
    rows = [row for row, loss in enumerate(utterances.losses[0]) if loss]
    if len(rows) < FEWEST:
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
            "closeup": heard.get(row),
        }
        for n in np.argsort(-heights, kind="stable")[:count]
        for row in [rows[n]]
    ]
    return {"title": f"Of {split}", "basis": OF_SCORING, "rows": listed}
