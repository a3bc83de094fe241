"""Where the frames of a batch lie when its utterances are laid end to end."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F

from asr_exp.model.drawn_rows import DrawnRows

# A batch is filled up to a multiple of so many frames: matrix products then come in few shapes, and what
# oneDNN prepares for a shape is used again. Without it, a small network spends a fifth of its time there.
FRAME_MULTIPLE = 16
# Pairs of frames. Attention over fewer takes less time than the call itself, so utterances of nearly equal
# length are padded to share a call.
MAX_PADDED_PAIRS = {"cpu": 2**13, "cuda": 2**17}
# Pairs of frames, padding included, of a call of a kernel that takes a bias for each of them. More take
# gigabytes and save no time.
MAX_CALL_PAIRS = 2**24


@dataclass(frozen=True)
class LengthGroup:
    """Utterances of nearly equal length, whose attention is computed in one call.

    frames: where their frames lie in the packed batch. rows: the number of utterances. longest: frames of the
    longest. lengths: frames of each. inside: (frames,) the place of each frame in the padded (rows *
    longest,); None where all are equally long. mask: (rows, 1, 1, longest) minus infinity for padding, else
    0; None likewise. drawn: where the batch is a part of a pass, which rows of the group in that pass these
    are; there may be none.
    """

    frames: slice
    rows: int
    longest: int
    lengths: Sequence[int]
    inside: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    drawn: DrawnRows | None = None


@dataclass(frozen=True)
class WholePass:
    """The pass that a batch is a part of. first: its first utterance there. frames: of all that are there."""

    first: int
    frames: list[int]

    def rows_of(self, count: int, tail: int) -> DrawnRows:
        """Which frames of the pass a part has that has so many, and then a tail."""
        total = sum(self.frames)
        return DrawnRows(sum(self.frames[: self.first]), count, total + -total % FRAME_MULTIPLE, tail)


@dataclass(frozen=True)
class PaddedGroups:
    """Utterances of nearly equal length padded to share a call, all groups laid end to end as cells.

    shapes: (rows, longest) of each group. frames: (cells,) the frame of the packed batch in each cell;
    padding holds a frame of its own utterance. cells: (count + tail,) the cell of each frame; those of the
    tail are one more than there are. outside: (cells,) minus infinity for padding, else 0. count: all frames.
    """

    shapes: list[tuple[int, int]]
    frames: torch.Tensor
    cells: torch.Tensor
    outside: torch.Tensor
    count: int


class Layout:
    """Where the frames of a packed batch lie.

    Args:
        frames: the number of frames of each utterance.
        gap: frames of zeros that the positional convolution needs around each utterance.
        positions: (all frames,) the place of each frame in what the convolutional front end computes.
        device: where the index tensors are needed.
        whole: the pass that the batch is a part of; None where it is whole.

    Attributes:
        count: all frames of the batch.
        tail: frames at the end that fill it up; their indices are 0 and their values are not used.
        row: (count + tail,) the utterance of each frame.
        cell: (count + tail,) its place in a padded (batch * longest,).
        spaced: (count + tail,) its place on a time axis with gaps, which has `spaced_length` frames.
        positions: (count + tail,) as given.
        offsets: int32, the first frame of each utterance, and the end. The tail counts as an utterance more
            where there is one, so that an attention kernel takes the whole of the packed batch.
        drawn: of a part, the frames that it has of its pass; None where the batch is whole.
    """

    def __init__(
        self,
        frames: Sequence[int],
        gap: int,
        positions: torch.Tensor,
        device: torch.device,
        whole: WholePass | None = None,
    ):
        counts = torch.tensor(frames)
        row = torch.arange(len(frames)).repeat_interleave(counts)
        place = torch.arange(len(row))
        offsets = F.pad(counts.cumsum(0), (1, 0))
        self.frames = frames
        self.whole = whole
        self.longest = max(frames)
        self.count = len(row)
        self.tail = -len(row) % FRAME_MULTIPLE
        self.spaced_length = self.count + self.tail + (len(frames) + 1) * gap
        indices = [row, place - offsets[row] + row * self.longest, place + (row + 1) * gap, positions]
        ends = offsets.tolist() + ([self.count + self.tail] if self.tail else [])
        # two int32 in the place of an int64, so that one copy to the device does for all
        pairs = torch.tensor(ends + len(ends) % 2 * [0], dtype=torch.int32).view(torch.int64)
        parts = [*(F.pad(one, (0, self.tail)) for one in indices), pairs]
        self.row, self.cell, self.spaced, self.positions, pairs = _to_device(parts, device)
        self.offsets = pairs.view(torch.int32)[: len(ends)]
        self.drawn = None if whole is None else whole.rows_of(self.count, self.tail)

    @cached_property
    def groups(self) -> list[LengthGroup]:
        """The utterances by length. They are made where attention is computed in groups, and not before."""
        return list(self._groups(self.whole, MAX_PADDED_PAIRS[self.row.device.type]))

    @cached_property
    def padded(self) -> PaddedGroups:
        """The groups for kernels that take padded batches."""
        device = self.row.device
        runs = list(runs_of_near_lengths(self.frames, MAX_PADDED_PAIRS[device.type], MAX_CALL_PAIRS))
        shapes = [(last - first, max(self.frames[first:last])) for first, last in runs]
        lengths = torch.tensor(self.frames)
        width = torch.tensor([longest for rows, longest in shapes for _ in range(rows)])
        row = torch.arange(len(width)).repeat_interleave(width)
        place = torch.arange(len(row)) - (width.cumsum(0) - width)[row]
        inside = place < lengths[row]
        frames = (lengths.cumsum(0) - lengths)[row] + place * inside
        cells = F.pad(inside.nonzero()[:, 0], (0, self.tail), value=len(row))
        outside = torch.zeros(len(row) + len(row) % 2).index_fill_(0, (~inside).nonzero()[:, 0], -math.inf)
        moved = _to_device([frames, cells, outside.view(torch.int64)], device)
        return PaddedGroups(shapes, moved[0], moved[1], moved[2].view(torch.float32)[: len(row)], self.count)

    def _groups(self, whole: WholePass | None, pairs: int) -> Iterator[LengthGroup]:
        """The groups of the batch; of a part, the groups of the whole pass with what the part has of each."""
        if whole is None:
            for first, last in runs_of_near_lengths(self.frames, pairs):
                yield self._group(first, last, max(self.frames[first:last]))
            return
        own_first, own_last = whole.first, whole.first + len(self.frames)
        for first, last in runs_of_near_lengths(whole.frames, pairs):
            start = min(max(first, own_first), own_last)
            end = max(start, min(last, own_last))
            group = self._group(start - own_first, end - own_first, max(whole.frames[first:last]))
            yield replace(group, drawn=DrawnRows(max(0, start - first), end - start, last - first))

    def _group(self, first: int, last: int, longest: int) -> LengthGroup:
        lengths, start = self.frames[first:last], sum(self.frames[:first])
        span = slice(start, start + sum(lengths))
        rows = last - first
        if not lengths or min(lengths) == longest:
            return LengthGroup(span, rows, longest, lengths)
        inside = self.cell[span] - self.row[span] * self.longest + (self.row[span] - first) * longest
        mask = torch.full((rows * longest,), -math.inf, device=inside.device).index_fill_(0, inside, 0.0)
        return LengthGroup(span, rows, longest, lengths, inside, mask.view(rows, 1, 1, longest))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(batch, longest, ...) -> (count + tail, ...)."""
        return padded.flatten(0, 1).index_select(0, self.cell)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(count + tail, ...) -> (batch, longest, ...), with zeros after the end of an utterance."""
        cells = packed.new_zeros(len(self.frames) * self.longest, *packed.shape[1:])
        return cells.index_copy(0, self.cell[: self.count], packed[: self.count]).unflatten(
            0, (len(self.frames), self.longest)
        )


def _to_device(parts: Sequence[torch.Tensor], device: torch.device) -> Sequence[torch.Tensor]:
    """int64 tensors of one dimension, in one copy."""
    return to_device(torch.cat(list(parts)), device).split([len(part) for part in parts])


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device that the host does not wait for, or the tensor itself on a CPU."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def runs_of_near_lengths(
    frames: Sequence[int], pairs: int, most: float = math.inf
) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of utterances whose squared lengths differ by at most `pairs`. Padded to the
    longest, those of a run have at most so many pairs of frames, unless one alone has more.
    """
    first = 0
    for i in range(1, len(frames) + 1):
        run = frames[first : i + 1]
        longest = max(run) ** 2
        if i == len(frames) or longest - min(run) ** 2 > pairs or len(run) * longest > most:
            yield first, i
            first = i
