"""Long recordings: overlapping chunks for the network, emissions that are joined where chunks overlap, and
that are split at pauses for the decoder.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

SMOOTHING_FRAMES = 7  # over which the fitness of a seam is averaged


@dataclass(frozen=True)
class Chunking:
    """How recordings go through the network. All values are seconds.

    whole: recordings up to this length go through it whole. length, overlap: longer ones go through it in
    chunks of `length`, each of which shares `overlap` with the one before.
    """

    whole: float = 120.0
    length: float = 30.0
    overlap: float = 10.0


def spans(frames: int, length: int, overlap: int, multiple: int = 1) -> list[tuple[int, int]]:
    """The [start, end) of the chunks of a recording, in frames.

    Each starts at a multiple of `multiple`. The last chunk is as long as the others, so that it may overlap
    more.
    """
    step = max(multiple, (length - overlap) // multiple * multiple)
    starts = list(range(0, max(1, frames - length), step))
    if frames > length:
        starts.append(-(-(frames - length) // multiple) * multiple)
    return [(start, min(start + length, frames)) for start in dict.fromkeys(starts)]


def seam(left: torch.Tensor, right: torch.Tensor, blank: int) -> int:
    """The frame of an overlap where the emissions of the left chunk end and those of the right one begin.

    left, right: log probabilities of the two chunks in their common frames, each (frames, vocabulary). The
    seam lies in the middle half of the overlap, where both chunks have context on either side, at the place
    where they agree most and give the blank the highest probability.
    """
    frames = len(left)
    first, last = frames // 4, frames - frames // 4
    if last <= first:
        return first
    a, b = left.exp(), right.exp()
    fitness = torch.minimum(a[:, blank], b[:, blank]) - (a - b).abs().sum(1)
    smoothed = F.avg_pool1d(
        fitness[None], SMOOTHING_FRAMES, 1, SMOOTHING_FRAMES // 2, count_include_pad=False
    )[0]
    return first + int(smoothed[first:last].argmax())


def joined(chunks: Iterable[tuple[int, torch.Tensor]], blank: int) -> Iterator[torch.Tensor]:
    """The emissions of a recording in consecutive parts, each frame once.

    chunks: (first frame, log probabilities (frames, vocabulary)) of overlapping chunks, in order.
    """
    pending_start, pending = 0, None  # what is not given out yet, because the next chunk may overlap it
    for start, emissions in chunks:
        if pending is not None:
            # the last chunk may begin before what is pending
            overlap_start = max(start, pending_start)
            shared = pending_start + len(pending) - overlap_start
            kept = len(pending) - shared
            cut = seam(pending[kept:], emissions[overlap_start - start :][:shared], blank)
            yield pending[: kept + cut]
            emissions, start = emissions[overlap_start - start + cut :], overlap_start + cut
        pending_start, pending = start, emissions
    if pending is not None:
        yield pending


def at_pauses(
    emissions: Iterable[torch.Tensor], max_frames: int, silent: list[int]
) -> Iterator[torch.Tensor]:
    """Emissions in parts of at most `max_frames` frames, split in the middle of the longest pause in the
    second half of a part.

    emissions: consecutive parts of any length, each (frames, vocabulary). silent: the labels that are no
    speech (the blank, the space between words).
    """
    pending: torch.Tensor | None = None
    for some in emissions:
        pending = some if pending is None else torch.cat([pending, some])
        while len(pending) > max_frames:
            half = max_frames // 2
            is_silent = torch.isin(pending[half:max_frames].argmax(1), torch.tensor(silent))
            cut = half + _middle_of_longest_run(is_silent.tolist())
            yield pending[:cut]
            pending = pending[cut:]
    if pending is not None and len(pending):
        yield pending


def _middle_of_longest_run(flags: list[bool]) -> int:
    """The middle of the longest run of True; the end where no flag is True."""
    longest = 0
    middle = len(flags)
    run = 0
    for place, flag in enumerate([*flags, False]):
        if flag:
            run += 1
            continue
        if run > longest:
            longest, middle = run, place - run + run // 2
        run = 0
    return middle
