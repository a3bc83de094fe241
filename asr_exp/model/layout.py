"""Where the frames of a batch lie when its utterances are laid end to end."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

# A batch is filled up to a multiple of so many frames: matrix products then come in few shapes, and what
# oneDNN prepares for a shape is used again. Without it, a small network spends a fifth of its time there.
FRAME_MULTIPLE = 16
# Pairs of frames. Attention over fewer takes less time than the call itself, so utterances of nearly equal
# length are padded to share a call.
MAX_PADDED_PAIRS = {"cpu": 2**13, "cuda": 2**17}


@dataclass(frozen=True)
class LengthGroup:
    """Utterances of nearly equal length, whose attention is computed in one call.

    frames: where their frames lie in the packed batch. rows: the number of utterances. longest: frames of the
    longest. inside: (frames,) the place of each frame in the padded (rows * longest,); None where all are
    equally long. mask: (rows, 1, 1, longest) minus infinity for padding, else 0; None likewise.
    """

    frames: slice
    rows: int
    longest: int
    inside: torch.Tensor | None = None
    mask: torch.Tensor | None = None


class Layout:
    """Where the frames of a packed batch lie.

    Args:
        frames: the number of frames of each utterance.
        gap: frames of zeros that the positional convolution needs around each utterance.
        positions: (all frames,) the place of each frame in what the convolutional front end computes.
        device: where the index tensors are needed.

    Attributes:
        count: all frames of the batch.
        tail: frames at the end that fill it up; their indices are 0 and their values are not used.
        row: (count + tail,) the utterance of each frame.
        cell: (count + tail,) its place in a padded (batch * longest,).
        spaced: (count + tail,) its place on a time axis with gaps, which has `spaced_length` frames.
        positions: (count + tail,) as given.
        offsets: int32, the first frame of each utterance, and the end. The tail counts as an utterance more
            where there is one, so that an attention kernel takes the whole of the packed batch.
    """

    def __init__(self, frames: Sequence[int], gap: int, positions: torch.Tensor, device: torch.device):
        counts = torch.tensor(frames)
        row = torch.arange(len(frames)).repeat_interleave(counts)
        place = torch.arange(len(row))
        offsets = F.pad(counts.cumsum(0), (1, 0))
        self.frames = frames
        self.longest = max(frames)
        self.count = len(row)
        self.tail = -len(row) % FRAME_MULTIPLE
        self.spaced_length = self.count + self.tail + (len(frames) + 1) * gap
        indices = [row, place - offsets[row] + row * self.longest, place + (row + 1) * gap, positions]
        ends = offsets.tolist() + ([self.count + self.tail] if self.tail else [])
        # two int32 in the place of an int64, so that one copy to the device does for all
        pairs = torch.tensor(ends + len(ends) % 2 * [0], dtype=torch.int32).view(torch.int64)
        parts = [*(F.pad(one, (0, self.tail)) for one in indices), pairs]
        together = torch.cat(parts)
        together = (together.pin_memory() if device.type == "cuda" else together).to(
            device, non_blocking=True
        )
        self.row, self.cell, self.spaced, self.positions, pairs = together.split([len(p) for p in parts])
        self.offsets = pairs.view(torch.int32)[: len(ends)]

    @cached_property
    def groups(self) -> list[LengthGroup]:
        """The utterances by length. They are made where attention is computed in groups, and not before."""
        pairs = MAX_PADDED_PAIRS[self.row.device.type]
        return [self._group(first, last) for first, last in _runs_of_near_lengths(self.frames, pairs)]

    def _group(self, first: int, last: int) -> LengthGroup:
        lengths, start = self.frames[first:last], sum(self.frames[:first])
        span = slice(start, start + sum(lengths))
        rows = last - first
        longest = max(lengths)
        if min(lengths) == longest:
            return LengthGroup(span, rows, longest)
        inside = self.cell[span] - self.row[span] * self.longest + (self.row[span] - first) * longest
        mask = torch.full((rows * longest,), -math.inf, device=inside.device).index_fill_(0, inside, 0.0)
        return LengthGroup(span, rows, longest, inside, mask.view(rows, 1, 1, longest))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(batch, longest, ...) -> (count + tail, ...)."""
        return padded.flatten(0, 1).index_select(0, self.cell)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(count + tail, ...) -> (batch, longest, ...), with zeros after the end of an utterance."""
        cells = packed.new_zeros(len(self.frames) * self.longest, *packed.shape[1:])
        return cells.index_copy(0, self.cell[: self.count], packed[: self.count]).unflatten(
            0, (len(self.frames), self.longest)
        )


def _runs_of_near_lengths(frames: Sequence[int], pairs: int) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of utterances whose squared lengths differ by at most `pairs`."""
    first = 0
    for i in range(1, len(frames) + 1):
        run = frames[first : i + 1]
        if i == len(frames) or max(run) ** 2 - min(run) ** 2 > pairs:
            yield first, i
            first = i
