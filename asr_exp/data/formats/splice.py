"""A file made of pieces of another: what a decoder is given where a file's own header misleads it."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

from asr_exp.data.formats.reader import SeekableReader

Span = tuple[int, int]  # the first byte of a piece of a file, and the byte after its last


class Splice(SeekableReader):
    """A head of its own, then spans of another file, as one file that can be read and sought.

    head: bytes; file: stays open, and is not shared with other threads; spans: in the order in which they
    are read.
    """

    def __init__(self, head: bytes, file: BinaryIO, spans: Sequence[Span]):
        self._sources: list[tuple[BinaryIO, int]] = [(io.BytesIO(head), 0)]
        self._sources += [(file, start) for start, _ in spans]
        sizes = [len(head), *(stop - start for start, stop in spans)]
        self._ends = list(accumulate(sizes))
        super().__init__(self._ends[-1])

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        """Fill a buffer; it stays unfilled only at the end of the file."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self._ends[-1]:
            piece = bisect_right(self._ends, self._at)
            source, start = self._sources[piece]
            first = self._ends[piece - 1] if piece else 0
            source.seek(start + self._at - first)
            count = source.readinto(view[done : done + self._ends[piece] - self._at])  # type: ignore[attr-defined]
            if not count:
                break
            done += count
            self._at += count
        return done


@dataclass(frozen=True)
class Part:
    """A recording, or one of several that stand in a file one after the other, as libsndfile reads it right.

    head, spans: of the `Splice`; frames: samples of each channel, None where libsndfile knows; promised: how
    many the header promises, 0 where it does not say; is_plain: whether libsndfile finds the part by itself,
    if only it does not take it for shorter.
    """

    head: bytes
    spans: Sequence[Span]
    frames: int | None = None
    promised: int = 0
    is_plain: bool = False
