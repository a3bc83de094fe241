"""Transcripts that are probably wrong: their loss stays high while that of the others falls."""

from dataclasses import dataclass

import numpy as np

from asr_exp.commands.report.record import TrainingLosses

BLOCK = 256  # utterances trained on at about the same time, whose losses say what is usual
DEVIATION = 1.4826  # standard deviations of a normal distribution in a median absolute deviation


@dataclass(frozen=True)
class Suspect:
    """An utterance by its number. score: robust standard deviations above the usual; losses, usual:
    by epoch.
    """

    number: int
    score: float
    losses: list[float]
    usual: list[float]


def above_usual(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far losses lie above those of their neighbours, in robust standard deviations of the logarithm, and
    the usual loss; (n,) each.

    Neighbours are the BLOCK losses, in the order given, that each stands among; the scale is the median
    absolute deviation.
    """
    logs = np.log(np.maximum(losses, 1e-4))
    heights, usual = np.zeros(len(logs)), np.zeros(len(logs))
    for here in np.array_split(np.arange(len(logs)), max(1, len(logs) // BLOCK)):
        middle = np.median(logs[here])
        spread = DEVIATION * np.median(np.abs(logs[here] - middle))
        heights[here], usual[here] = (logs[here] - middle) / max(spread, 1e-3), np.exp(middle)
    return heights, usual


def suspects(found: TrainingLosses, count: int) -> list[Suspect]:
    """The utterances whose losses were the furthest above the usual, by their mean over the epochs, the most
    suspect first.

    A mean and not the end: in time a network learns wrong transcripts by heart. A loss counts by the share by
    which the usual one has fallen since its highest, since before anything is learned no transcript looks
    wrong.
    """
    heights, usual = above_usual(found.losses)
    weights = np.maximum(1 - usual / usual.max(), 1e-6)
    most = int(found.utterances.max()) + 1
    total = np.bincount(found.utterances, weights=weights, minlength=most)
    summed = np.bincount(found.utterances, weights=weights * heights, minlength=most)
    scores = np.where(total, summed / np.maximum(total, 1e-6), -np.inf)
    chosen = [int(i) for i in np.argsort(-scores, kind="stable")[:count] if total[i]]
    rows = {number: np.flatnonzero(found.utterances == number) for number in chosen}
    return [
        Suspect(
            number, float(scores[number]), found.losses[rows[number]].tolist(), usual[rows[number]].tolist()
        )
        for number in chosen
    ]
