"""Augmentation: time and feature masks, and speed perturbation, drawn from (seed, step, utterance)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch

from asr_exp.data.audio import as_int16
from asr_exp.data.tokenizer import frames_needed


@dataclass(frozen=True)
class SpanMasking:
    """How spans are masked along one axis.

    prob: the share of the axis that the spans would cover if none overlapped; length: frames or channels of a
    span; min_spans: an utterance has at least this many.
    """

    prob: float
    length: int
    min_spans: int = 0


@dataclass(frozen=True)
class Masks:
    """SpecAugment-style masks on the encoder's input (Park et al. 2019, as in wav2vec 2.0).

    Each utterance gets masks of its own. time, feature: how frames and channels are masked; channels: of the
    encoder's input; frames: the number of samples of a clip -> the number of its frames.
    """

    time: SpanMasking
    feature: SpanMasking
    channels: int
    frames: Callable[[int], int]
    seed: int

    def draw(
        self, step: int, indices: np.ndarray, lengths: Sequence[int]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Draw the masks of a batch: (batch, frames) and (batch, channels), bool, True where masked.

        The mask of an axis that is never masked is None.

        indices: of the utterances; lengths: their samples. The masks of an utterance depend on (seed, step,
        utterance) alone, not on the batch or the rank.
        """
        frames = [self.frames(n) for n in lengths]
        time = np.zeros((len(lengths), max(frames)), dtype=bool)
        feature = np.zeros((len(lengths), self.channels), dtype=bool)
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, 2, step, int(index)])
            _mask_spans(time[row, : frames[row]], self.time, rng)
            _mask_spans(feature[row], self.feature, rng)
        return (
            torch.from_numpy(time) if self.time.prob > 0 else None,
            torch.from_numpy(feature) if self.feature.prob > 0 else None,
        )


def _mask_spans(row: np.ndarray, masking: SpanMasking, rng: np.random.Generator) -> None:
    """Set spans of a row to True; a row shorter than one span stays as it is."""
    length = masking.length
    if masking.prob <= 0 or len(row) < length:
        return
    spans = max(int(masking.prob * len(row) / length + rng.random()), masking.min_spans)
    spans = min(spans, len(row) // length)
    for start in rng.choice(len(row) - length + 1, size=spans, replace=False):
        row[start : start + length] = True


@dataclass(frozen=True)
class SpeedPerturbation:
    """Plays a training clip a little faster or slower, which moves the pitch too (Ko et al. 2015).

    factors: the speeds to draw from; rate: samples a second; frames: the number of samples of a clip -> the
    number of its frames.
    """

    factors: Sequence[float]
    rate: int
    frames: Callable[[int], int]
    seed: int

    def __call__(self, clip: np.ndarray, labels: np.ndarray, step: int, index: int) -> np.ndarray:
        """Resample a clip (int16, (samples,)) to a speed that depends on (seed, step, index) alone.

        The clip is returned unchanged where its labels would need more frames than it has at that speed.
        """
        factor = float(np.random.default_rng([self.seed, 4, step, index]).choice(self.factors))
        if factor == 1.0 or frames_needed(labels) > self.frames(int(len(clip) / factor) - 1):
            return clip
        # In float: soxr dithers int16, each time in another way.
        return as_int16(
            soxr.resample(clip.astype(np.float32) / 32768, self.rate * factor, self.rate, quality="MQ")
        )
