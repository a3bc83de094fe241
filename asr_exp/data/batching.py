"""Which utterances make a step, on which rank, in which forward pass; and the batch itself.

Everything is a pure function of (seed, step): a run resumes anywhere, on any number of ranks, without replaying batches.
Only lengths are looked at here, never audio, until `collate`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, Queue
from typing import Any

import numpy as np
import soxr
import torch

from asr_exp.data.clips import as_int16

ATTENTION_SECONDS = 30.0  # an utterance this long costs twice its seconds: attention grows with the square
WINDOW = 50  # batches; utterances are sorted by length inside windows of this many, to save padding


def cost(seconds: np.ndarray) -> np.ndarray:
    """The seconds a forward pass is charged for utterances of these lengths, attention's square included."""
    return seconds * (1.0 + seconds / ATTENTION_SECONDS)


class BatchPlan:
    """Deals the utterances of an epoch into optimiser steps, the steps to ranks and forward passes.

    A step holds about `batch_seconds` of audio or, where `batch_utterances` is given, so many utterances (the last cut of an
    epoch what is left). seconds: (utterances,) lengths. Every epoch has the same number of steps, each at least one utterance.
    """

    def __init__(self, seconds: np.ndarray, batch_seconds: float | None, device_seconds: float, seed: int, shortest_first: bool = False,
                 batch_utterances: int | None = None):
        self.seconds, self.seed, self.device_seconds, self.shortest_first = seconds, seed, device_seconds, shortest_first
        self.batch_utterances = batch_utterances
        self.costs = cost(seconds)
        steps = len(seconds) / batch_utterances if batch_utterances else seconds.sum() / batch_seconds
        self.steps_per_epoch = int(np.clip(np.ceil(steps), 1, len(seconds)))
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of a step (from 1)."""
        return (step - 1) // self.steps_per_epoch

    def step(self, step: int) -> np.ndarray:
        """Indices of all utterances of an optimiser step (from 1), all ranks together."""
        epoch = self.epoch_of(step)
        number, batches = self._epoch  # read once: the thread that prefetches asks too, for an epoch ahead
        if number != epoch:
            batches = self._deal(epoch)
            self._epoch = (epoch, batches)
        return batches[(step - 1) % self.steps_per_epoch]

    def _deal(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, 1, epoch])
        order = rng.permutation(len(self.seconds))
        in_order = self.shortest_first and epoch == 0
        window = len(order) if in_order else -(-len(order) * WINDOW // self.steps_per_epoch)
        parts = [order[i : i + window] for i in range(0, len(order), window)]
        order = np.concatenate([p[np.argsort(self.seconds[p], kind="stable")] for p in parts])
        count = self.batch_utterances
        cuts = np.arange(count, len(order), count) if count else _cuts(self.seconds[order], self.steps_per_epoch)
        batches = np.split(order, cuts)
        return batches if in_order else [batches[i] for i in rng.permutation(len(batches))]

    def passes(self, step: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
        """The forward passes of a rank in a step: lists of utterance indices within `device_seconds`, padding counted.

        A rank may have none where a step has fewer utterances than there are ranks.
        """
        mine = _share(self.step(step), self.costs, world)[rank]
        return pack(mine, self.costs, self.device_seconds)

    def rounds(self, step: int, world: int) -> int:
        """The forward passes of the rank with the most of them in a step."""
        return max(len(pack(mine, self.costs, self.device_seconds)) for mine in _share(self.step(step), self.costs, world))


def _cuts(seconds: np.ndarray, parts: int) -> np.ndarray:
    """Where to cut a sequence into `parts` runs of about equal seconds, none empty."""
    ends = np.cumsum(seconds)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts)
    numbers = np.arange(1, parts)
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - numbers) + numbers  # strictly rising ...
    return np.minimum(cuts, len(seconds) - parts + numbers)  # ... and enough left for the runs to come


def _share(indices: np.ndarray, costs: np.ndarray, world: int) -> list[np.ndarray]:
    """Deal utterances to ranks so that their costs come out even: longest first, each to the rank with the least so far."""
    if world == 1:
        return [indices]
    hands: list[list[int]] = [[] for _ in range(world)]
    loads = np.zeros(world)
    for index in indices[np.argsort(-costs[indices], kind="stable")]:
        rank = int(loads.argmin())
        hands[rank].append(int(index))
        loads[rank] += costs[index]
    return [np.array(hand, dtype=np.int64) for hand in hands]


def pack(indices: np.ndarray, costs: np.ndarray, budget: float) -> list[np.ndarray]:
    """Split utterances, longest first, into forward passes whose padded cost stays within the budget (one may exceed it alone)."""
    passes: list[list[int]] = []
    for index in indices[np.argsort(-costs[indices], kind="stable")]:
        if passes and (len(passes[-1]) + 1) * costs[passes[-1][0]] <= budget:
            passes[-1].append(int(index))
        else:
            passes.append([int(index)])
    return [np.array(p, dtype=np.int64) for p in passes]


# ---------------------------------------------------------------------------------------------------------------------
# the batch


@dataclass(frozen=True)
class Batch:
    """One forward pass. Audio is int16 as stored; it becomes float, and is normalised, on the device.

    audio: (batch, samples) int16, zero-padded; lengths: samples of each row; labels: all labels in a row, label_lengths of
    each; time_mask: (batch, frames) and feature_mask: (batch, channels), bool, True where masked, None where nothing is; features:
    what the front end makes of each row, (frames, channels), where that is known.
    """

    indices: np.ndarray
    audio: torch.Tensor
    lengths: list[int]
    labels: torch.Tensor
    label_lengths: list[int]
    time_mask: torch.Tensor | None = None
    feature_mask: torch.Tensor | None = None
    features: list[torch.Tensor | None] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def samples(self) -> int:
        return sum(self.lengths)

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return self._each_tensor(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in page-locked memory, from where it travels to a GPU while the GPU computes."""
        return self._each_tensor(torch.Tensor.pin_memory)

    def _each_tensor(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        names = ("audio", "labels", "time_mask", "feature_mask")
        moved: dict[str, Any] = {name: move(t) for name in names if (t := getattr(self, name)) is not None}
        return replace(self, **moved)


@dataclass(frozen=True)
class Masks:
    """SpecAugment-style masks on the encoder's input (Park et al. 2019, as in wav2vec 2.0), drawn for each utterance alone.

    `time_prob` and `feature_prob` are the shares of frames and channels that start-to-end spans would cover without overlap.
    """

    time_prob: float
    time_length: int
    feature_prob: float
    feature_length: int
    channels: int
    frames: Callable[[int], int]  # samples -> frames of the encoder
    seed: int
    time_least: int = 2  # spans of an utterance at the least
    feature_least: int = 0

    def draw(self, step: int, indices: np.ndarray, lengths: Sequence[int]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Masks of a pass: a function of (seed, step, utterance) only, whatever the batch or the rank."""
        frames = [self.frames(n) for n in lengths]
        time = np.zeros((len(lengths), max(frames)), dtype=bool)
        feature = np.zeros((len(lengths), self.channels), dtype=bool)
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, 2, step, int(index)])
            _mask_spans(time[row, : frames[row]], self.time_prob, self.time_length, rng, self.time_least)
            _mask_spans(feature[row], self.feature_prob, self.feature_length, rng, self.feature_least)
        return (
            torch.from_numpy(time) if self.time_prob > 0 else None,
            torch.from_numpy(feature) if self.feature_prob > 0 else None,
        )


def _mask_spans(row: np.ndarray, share: float, length: int, rng: np.random.Generator, least: int) -> None:
    """Set spans of a row to True; a row shorter than one span stays as it is."""
    if share <= 0 or len(row) < length:
        return
    spans = max(int(share * len(row) / length + rng.random()), least)
    spans = min(spans, len(row) // length)
    for start in rng.choice(len(row) - length + 1, size=spans, replace=False):
        row[start : start + length] = True


@dataclass(frozen=True)
class SpeedPerturbation:
    """Plays a training clip a little faster or slower (Ko et al. 2015); pitch moves along. factors: what is drawn from."""

    factors: Sequence[float]
    rate: int
    frames: Callable[[int], int]
    seed: int

    def __call__(self, clip: np.ndarray, labels: np.ndarray, step: int, index: int) -> np.ndarray:
        """The clip at a speed that is a function of (seed, step, utterance); as it is where its labels would not fit any more."""
        factor = float(np.random.default_rng([self.seed, 4, step, index]).choice(self.factors))
        if factor == 1.0 or frames_needed(labels) > self.frames(int(len(clip) / factor) - 1):
            return clip
        # In float: soxr dithers int16, and not the same way every time.
        return as_int16(soxr.resample(clip.astype(np.float32) / 32768, self.rate * factor, self.rate, quality="MQ"))


def frames_needed(labels: np.ndarray) -> int:
    """Frames CTC needs for these labels: one each, and a blank between two that are the same."""
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def collate(split: Any, indices: np.ndarray, masks: Masks | None = None, step: int = 0,
            speed: SpeedPerturbation | None = None) -> Batch:
    """The batch of these utterances of a prepared split (see `prepare.Split`), less those without samples: it may be empty."""
    clips = split.clips(indices)
    indices = indices[[len(clip) > 0 for clip in clips]]
    clips = [clip for clip in clips if len(clip)]
    if not clips:
        return Batch(indices, torch.zeros(0, 0, dtype=torch.int16), [], torch.zeros(0, dtype=torch.int64), [])
    labels = [split.labels(int(i)) for i in indices]
    if speed:
        clips = [speed(clip, row, step, int(i)) for clip, row, i in zip(clips, labels, indices, strict=True)]
    lengths = [len(c) for c in clips]
    audio = np.zeros((len(clips), max(lengths)), dtype=np.int16)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
    time_mask, feature_mask = masks.draw(step, indices, lengths) if masks else (None, None)
    return Batch(
        indices, torch.from_numpy(audio), lengths, torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        [len(row) for row in labels], time_mask, feature_mask,
    )


def prefetch(items: Iterable[Any], make: Callable[[Any], Any], ahead: int = 4) -> Iterator[Any]:
    """`make(item)` for each item, made in a thread a few items ahead of their use."""
    queue: Queue = Queue(maxsize=ahead)
    stop, end = threading.Event(), object()

    def work() -> None:
        try:
            for item in items:
                queue.put(make(item))
                if stop.is_set():
                    return
            queue.put(end)
        except BaseException as error:  # handed to the consumer, who raises it
            queue.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (made := queue.get()) is not end:
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        stop.set()
        while thread.is_alive():  # one that works on while Python ends may end it by SIGABRT; one that waits for room has to be let go
            with suppress(Empty):
                queue.get(timeout=0.02)
