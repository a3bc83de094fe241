"""Batches: utterances padded to one length, with their labels, collated ahead of the step that uses them."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, Queue
from typing import Any

import numpy as np
import torch

from asr_exp.data.augment import Masks, SpeedPerturbation


@dataclass(frozen=True)
class BatchPart:
    """Which rows of a larger batch a batch has. first: its first row there; lengths: samples of all rows
    there.
    """

    first: int
    lengths: list[int]


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass. The device turns the audio into float and normalises it.

    indices: of the utterances in their split, (batch,); audio: (batch, samples) int16, zero-padded; lengths:
    samples of each row; labels: the labels of all rows one after the other, (labels,) int64; label_lengths:
    labels of each row; time_mask: (batch, frames) and feature_mask: (batch, channels), bool, True where
    masked, None where nothing is; features: the output of the convolutional front end for each row, (frames,
    channels), where it is cached; part: of which batch it is a part, None where it is whole.
    """

    indices: np.ndarray
    audio: torch.Tensor
    lengths: list[int]
    labels: torch.Tensor
    label_lengths: list[int]
    time_mask: torch.Tensor | None = None
    feature_mask: torch.Tensor | None = None
    features: list[torch.Tensor | None] | None = None
    part: BatchPart | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def samples(self) -> int:
        """Samples of audio, without padding."""
        return sum(self.lengths)

    def rows(self, first: int, last: int) -> "Batch":
        """The rows from `first` up to `last`, which is left out, as views. Their padding stays as it is."""
        if (first, last) == (0, len(self)):
            return self
        before, own = sum(self.label_lengths[:first]), self.label_lengths[first:last]
        time_mask, feature_mask = (
            None if mask is None else mask[first:last] for mask in (self.time_mask, self.feature_mask)
        )
        whole = self.part or BatchPart(0, self.lengths)
        return Batch(
            self.indices[first:last],
            self.audio[first:last],
            self.lengths[first:last],
            self.labels[before : before + sum(own)],
            own,
            time_mask,
            feature_mask,
            None if self.features is None else self.features[first:last],
            BatchPart(whole.first + first, whole.lengths),
        )

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; from pinned memory it is copied while the GPU computes."""
        if device.type == "cpu":
            return self
        return self._each_tensor(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in page-locked memory, from which a copy to a GPU can run in the background."""
        return self._each_tensor(torch.Tensor.pin_memory)

    def _each_tensor(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        names = ("audio", "labels", "time_mask", "feature_mask")
        moved: dict[str, Any] = {name: move(t) for name in names if (t := getattr(self, name)) is not None}
        return replace(self, **moved)


def collate(
    split: Any,
    indices: np.ndarray,
    masks: Masks | None = None,
    step: int = 0,
    speed: SpeedPerturbation | None = None,
) -> Batch:
    """Read utterances of a split and collate them. Those without samples are left out: the batch may be
    empty.

    Args:
        split: a `prepare.Split`.
        indices: of the utterances, (batch,).
        masks: draws the masks; None: nothing is masked.
        step: the optimiser step, which the masks and the speed depend on.
        speed: perturbs the speed; None: clips stay as they are.
    """
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
        indices,
        torch.from_numpy(audio),
        lengths,
        torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        [len(row) for row in labels],
        time_mask,
        feature_mask,
    )


def prefetch(items: Iterable[Any], make: Callable[[Any], Any], ahead: int = 4) -> Iterator[Any]:
    """Yield `make(item)` for each item. A thread makes them, at most about `ahead` items before they are
    used.

    Raises in the consumer what `items` or `make` raises in the thread.
    """
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
        while (result := queue.get()) is not end:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stop.set()
        # A thread that works on while Python ends may abort it (SIGABRT). One that waits for room in the
        # queue has to get some.
        while thread.is_alive():
            with suppress(Empty):
                queue.get(timeout=0.02)
