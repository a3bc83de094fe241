"""Long recordings in pieces: overlapping chunks for the network, the seams between what it says of them, and
cuts at pauses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

SURROUND = 7  # frames that are looked at together to judge a place
PIECE = 30.0  # seconds of emissions that a decoder other than greedy is given at once, at the most


@dataclass(frozen=True)
class Chunking:
    """How the network hears recordings: those up to `whole` seconds in one piece, longer ones in chunks of
    `length` seconds that share `overlap` seconds with the one before."""

    whole: float = 120.0
    length: float = 30.0
    overlap: float = 10.0


def spans(frames: int, length: int, overlap: int, multiple: int = 1) -> list[tuple[int, int]]:
    """[start, end) of chunks over so many frames, each starting at a multiple of `multiple`; the last is as
    long as the others.
    """
    step = max(multiple, (length - overlap) // multiple * multiple)
    starts = list(range(0, max(1, frames - length), step))
    if frames > length:
        starts.append(-(-(frames - length) // multiple) * multiple)
    return [(start, min(start + length, frames)) for start in dict.fromkeys(starts)]


def seam(left: torch.Tensor, right: torch.Tensor, blank: int) -> int:
    """At which of the frames that two chunks have in common the first gives way to the second.

    left, right: (frames, vocabulary), log probabilities. It is in the middle half, so that both have heard
    what is around it, and where they agree the most and are surest that nothing is said.
    """
    frames = len(left)
    first, last = frames // 4, frames - frames // 4
    if last <= first:
        return first
    a, b = left.exp(), right.exp()
    fitness = torch.minimum(a[:, blank], b[:, blank]) - (a - b).abs().sum(1)
    around = F.avg_pool1d(fitness[None], SURROUND, 1, SURROUND // 2, count_include_pad=False)[0]
    return first + int(around[first:last].argmax())


def joined(chunks: Iterable[tuple[int, torch.Tensor]], blank: int) -> Iterator[torch.Tensor]:
    """The emissions of a recording end to end, each frame once, from (start, log probabilities) of chunks
    that overlap.
    """
    begin, held = 0, None
    for start, emissions in chunks:
        if held is not None:
            at = max(start, begin)  # the last chunk may begin before what is left of the one before it
            shared = begin + len(held) - at
            cut = seam(held[len(held) - shared :], emissions[at - start :][:shared], blank)
            yield held[: len(held) - shared + cut]
            emissions, start = emissions[at - start + cut :], at + cut
        begin, held = start, emissions
    if held is not None:
        yield held


def at_pauses(emissions: Iterable[torch.Tensor], most: int, quiet: list[int]) -> Iterator[torch.Tensor]:
    """The same emissions in pieces of `most` frames at the most, cut in the middle of the longest pause of a
    piece's second half.

    quiet: the labels that are no speech (the blank, the space between words).
    """
    held: torch.Tensor | None = None
    for some in emissions:
        held = some if held is None else torch.cat([held, some])
        while len(held) > most:
            silent = torch.isin(held[most // 2 : most].argmax(1), torch.tensor(quiet))
            cut = most // 2 + _middle_of_longest(silent.tolist())
            yield held[:cut]
            held = held[cut:]
    if held is not None and len(held):
        yield held


def _middle_of_longest(flags: list[bool]) -> int:
    """The middle of the longest run of True; the end where there is none."""
    best = 0
    middle = len(flags)
    run = 0
    for place, flag in enumerate([*flags, False]):
        if flag:
            run += 1
            continue
        if run > best:
            best, middle = run, place - run + run // 2
        run = 0
    return middle
