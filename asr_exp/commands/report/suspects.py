"""Utterances whose transcripts are probably wrong: their loss stays high while that of the others falls."""

from dataclasses import dataclass

import numpy as np

from asr_exp.commands.report.record import TrainingLosses

NEIGHBOURS = 256  # utterances trained on at about the same time, whose losses give the usual loss
MAD_TO_STD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


@dataclass(frozen=True)
class Suspect:
    """An utterance by its number in the split. score: how far its loss lies above the usual one, in robust
    standard deviations; losses, usual: its loss and the usual loss, by epoch.
    """

    number: int
    score: float
    losses: list[float]
    usual: list[float]


def above_usual(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each loss lies above those of its neighbours, in robust standard deviations of the logarithm,
    and the usual loss, which is the neighbours' median; (n,) each.

    losses: (n,), so ordered that neighbours are alike. They are parted into blocks of about NEIGHBOURS, and a
    loss is compared with those of its block. The scale is the block's median absolute deviation.
    """
    logs = np.log(np.maximum(losses, 1e-4))
    heights, usual = np.zeros(len(logs)), np.zeros(len(logs))
    for here in np.array_split(np.arange(len(logs)), max(1, len(logs) // NEIGHBOURS)):
        middle = np.median(logs[here])
        spread = MAD_TO_STD * np.median(np.abs(logs[here] - middle))
        heights[here], usual[here] = (logs[here] - middle) / max(spread, 1e-3), np.exp(middle)
    return heights, usual


def suspects(training: TrainingLosses, count: int) -> list[Suspect]:
    """So many utterances whose losses lay furthest above the usual ones on the mean over the epochs, the most
    suspect first.

    The mean counts, and not the last epoch, because a network learns wrong transcripts by heart in time. No
    transcript looks wrong before anything is learned, so that each loss is weighted by the square of the
    share by which the usual loss has fallen since its highest. The mean is shrunk as by one loss more, of
    weight 1, that is the usual one: an utterance whose losses tell little scores near zero.
    """
    heights, usual = above_usual(training.losses)
    weights = (1 - usual / usual.max()) ** 2
    most = int(training.utterances.max()) + 1
    total = np.bincount(training.utterances, weights=weights, minlength=most)
    scores = np.bincount(training.utterances, weights=weights * heights, minlength=most) / (1 + total)
    seen = np.bincount(training.utterances, minlength=most)
    chosen = [int(i) for i in np.argsort(-scores, kind="stable") if seen[i]][:count]
    rows = {number: np.flatnonzero(training.utterances == number) for number in chosen}
    return [
        Suspect(
            number,
            float(scores[number]),
            training.losses[rows[number]].tolist(),
            usual[rows[number]].tolist(),
        )
        for number in chosen
    ]
