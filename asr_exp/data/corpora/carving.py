"""Carve dev and test out of a training split, by whole speakers where there are enough of them."""

import hashlib
import heapq
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from asr_exp.core.console import counted
from asr_exp.core.errors import UserError
from asr_exp.data.audio import read_clip
from asr_exp.data.corpora.base import Utterances

HEADERS = 2000  # that are read to know the hours of splits or of speakers, about as many of each
SHORTEST = 0.025  # seconds: less is not one frame


class Lengths:
    """The lengths of utterances by their headers, which are read when they are asked for."""

    def __init__(self, rows: Utterances, longest: float):
        self._rows, self._longest = rows, longest
        self._ids = list(rows.ids())
        self._seconds: dict[int, float] = {}

    def seconds(self, number: int) -> float:
        """The length of an utterance in seconds; 0 where its audio cannot be read."""
        if number not in self._seconds:
            clip = read_clip(self._rows.audio(number), header_only=True)
            self._seconds[number] = 0.0 if clip.reason else clip.seconds
        return self._seconds[number]

    def usable(self, number: int) -> bool:
        """Whether an utterance can be scored: something is said, and its length is within bounds."""
        said = any(map(str.isalnum, self._rows.text(number)))
        return said and SHORTEST <= self.seconds(number) <= self._longest

    def totals(self, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """The seconds of each group of utterances: exact where they are `HEADERS` together, else by the mean
        of some of each, at random.
        """
        of_each = HEADERS if sum(map(len, groups.values())) <= HEADERS else max(3, HEADERS // len(groups))
        some = {
            name: own if len(own) <= of_each else heapq.nsmallest(of_each, own, key=self._draw)
            for name, own in groups.items()
        }
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.seconds, [number for chosen in some.values() for number in chosen]))
        return {
            name: len(groups[name]) * float(np.mean([self.seconds(number) for number in chosen]))
            for name, chosen in some.items()
        }

    def _draw(self, number: int) -> int:
        """A number at random for each id, in whatever order the rows are."""
        return zlib.crc32(self._ids[number].encode("utf-8", "surrogatepass"))


def carve(
    rows: Utterances, shares: dict[str, float], seed: int, longest: float = np.inf
) -> tuple[dict[str, Utterances], str]:
    """Split rows into train and the splits of `shares` -> (rows by split, the unit: `speakers` or
    `utterances`).

    No speaker is in two splits where there are enough of them to come near the shares, in utterances and in
    hours; otherwise utterances are split. Every split has an utterance that can be scored, unless there is
    none at all. The same utterances and seed give the same splits in whatever order the rows are, and rows
    keep their order.

    Args:
        rows: all utterances.
        shares: split -> its share of the utterances.
        seed: of the order in which speakers or utterances are dealt.
        longest: seconds of an utterance that is scored.

    Raises:
        UserError: too few utterances can be scored.
    """
    names, lengths = ["train", *shares], Lengths(rows, longest)
    by_speaker = _deal_speakers(rows, shares, seed, lengths)
    if by_speaker:
        dealt = np.fromiter(
            (names.index(by_speaker.get(str(s), "train")) for s in rows.speakers()), np.int8, len(rows)
        )
    else:
        dealt = _deal_utterances(rows, shares, seed, lengths)
    parts = {name: rows.take(np.flatnonzero(dealt == number)) for number, name in enumerate(names)}
    return parts, "speakers" if by_speaker else "utterances"


def _deal_utterances(
    rows: Utterances, shares: Mapping[str, float], seed: int, lengths: Lengths
) -> np.ndarray:
    """The number of each utterance's split, 0 for train, (utterances,) int8."""
    keys = (_shuffle_key(i, seed) for i in rows.ids())
    order = np.argsort(np.fromiter((int(key[:16], 16) for key in keys), np.uint64, len(rows)))
    dealt, taken = np.zeros(len(rows), dtype=np.int8), 0
    for number, share in enumerate(shares.values(), 1):
        count = max(1, round(share * len(rows)))
        dealt[order[taken : taken + count]] = number
        taken += count
    splits = range(len(shares) + 1)
    if taken >= len(rows) or all(
        any(map(lengths.usable, np.flatnonzero(dealt == n).tolist())) for n in splits
    ):
        return dealt
    usable = np.array([number for number in order.tolist() if lengths.usable(number)], dtype=int)
    if 0 < len(usable) < len(splits):
        raise UserError(
            f"dataset.train has {counted(len(rows), 'utterance')}, of which {len(usable)} can be scored (with"
            " a transcript, and audio of no more than dataset.max_eval_seconds): too few to carve"
            f" {' and '.join(shares)} out of it. Give {' and '.join(f'dataset.{s}=...' for s in shares)}."
        )
    while len(usable) and (lacking := [n for n in splits if n not in dealt[usable]]):
        richest = np.bincount(dealt[usable]).argmax()
        given = usable[dealt[usable] == richest][-1]
        back = order[dealt[order] == lacking[0]][0]
        dealt[given], dealt[back] = lacking[0], richest
    return dealt


def _deal_speakers(
    rows: Utterances, shares: dict[str, float], seed: int, lengths: Lengths
) -> dict[str, str] | None:
    """Speakers that leave train -> their split; None where speakers are unknown, or too few to give each
    split one and train more than the others.

    They are dealt by the number of their utterances. Where a split would so get many more hours than its
    share, they are dealt by their hours too; and where it would have nothing that can be scored, from those
    alone who have.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, speaker in enumerate(rows.speakers()):
        if speaker is None:
            return None
        numbers[speaker].append(number)
    if len(numbers) < 2 * len(shares) + 1:
        return None
    counts = {speaker: len(own) for speaker, own in numbers.items()}
    sizes: list[Mapping[str, float]] = [counts]
    dealt = _deal(sizes, shares, seed, list(numbers))
    if not _near(dealt, numbers, shares, lengths):
        sizes = [counts, lengths.totals(numbers)]
        dealt = _deal(sizes, shares, seed, list(numbers))

    def can_be_scored(speaker: str) -> bool:
        return any(map(lengths.usable, numbers[speaker]))

    if all(any(can_be_scored(s) for s in dealt if dealt[s] == split) for split in shares):
        return dealt
    able = [speaker for speaker in numbers if can_be_scored(speaker)]
    if not able:  # whoever decodes them says why
        return dealt
    return _deal(sizes, shares, seed, able) if len(able) > len(shares) else None


def _near(
    dealt: Mapping[str, str],
    numbers: Mapping[str, Sequence[int]],
    shares: Mapping[str, float],
    lengths: Lengths,
) -> bool:
    """Whether every split has at most twice the hours that would be its share, or that of its utterances."""
    groups: dict[str, list[int]] = defaultdict(list)
    for speaker, own in numbers.items():
        groups[dealt.get(speaker, "train")] += own
    seconds, count = lengths.totals(groups), sum(map(len, groups.values()))
    return not any(  # without any audio too; whoever reads it says so
        seconds[split] > 2 * max(share, len(groups[split]) / count) * sum(seconds.values())
        for split, share in shares.items()
    )


def _deal(
    sizes: Sequence[Mapping[str, float]], shares: Mapping[str, float], seed: int, speakers: Sequence[str]
) -> dict[str, str]:
    """Speakers that leave train -> their split.

    A split gets speakers until it has its share, and at least one, however large that speaker is. sizes: of
    each speaker, by one measure or several, of which none may become too large; speakers: those who may leave
    train.
    """
    totals = [sum(size.values()) for size in sizes]
    dealt: dict[str, str] = {}
    for split, share in shares.items():
        targets, have = [share * total for total in totals], [0.0] * len(sizes)
        order = sorted(set(speakers) - dealt.keys(), key=lambda s: _shuffle_key(s, seed))
        for speaker in order:
            more = [a + size[speaker] for a, size in zip(have, sizes, strict=True)]
            is_full = any(a >= target for a, target in zip(have, targets, strict=True))
            if not is_full and all(a <= 1.5 * target for a, target in zip(more, targets, strict=True)):
                dealt[speaker] = split
                have = more
        if max(have) == 0:  # each is larger than the share: take the smallest
            dealt[min(order, key=lambda s: _largest_share(s, sizes, totals))] = split
    return dealt


def _largest_share(speaker: str, sizes: Sequence[Mapping[str, float]], totals: Sequence[float]) -> float:
    return max(size[speaker] / total for size, total in zip(sizes, totals, strict=True))


def _shuffle_key(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).hexdigest()
