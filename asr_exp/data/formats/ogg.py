"""Take an Ogg file apart in which several streams follow one another, as those of a web radio do (RFC 3533).

libsndfile reads the first of them alone.
"""

import os
from typing import BinaryIO

from asr_exp.data.formats.splice import Part, Span

HEADER = 27  # bytes of a page before its table of segments
BEGIN = 2  # the flag of a page with which a stream begins


def ogg_parts(file: BinaryIO) -> list[Part] | None:
    """The streams of an Ogg file, if there are two or more that follow one another; else None."""
    size = file.seek(0, os.SEEK_END)
    starts: list[int] = []
    at, was_begin = 0, False
    while at + HEADER <= size:
        file.seek(at)
        page = file.read(HEADER + 255)
        if page[:4] != b"OggS":
            break
        begins = bool(page[5] & BEGIN)
        if begins and not was_begin:
            starts.append(at)
        was_begin = begins
        at += HEADER + page[26] + sum(page[HEADER : HEADER + page[26]])
    if len(starts) < 2:
        return None
    spans: list[Span] = list(zip(starts, [*starts[1:], size], strict=True))
    return [Part(b"", [span]) for span in spans]
