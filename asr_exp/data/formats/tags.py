"""The tags that stand before and behind the audio of a file: ID3v2, ID3v1, APE and Lyrics3."""

import struct
from typing import BinaryIO


def leading_tags(file: BinaryIO, start: int = 0) -> int:
    """The size of the ID3v2 tags that follow one another from a place in a file."""
    size = 0
    while True:
        file.seek(start + size)
        one = tag_size(file.read(10))
        if not one:
            return size
        size += one


def tag_size(start: bytes) -> int:
    """The size of the ID3v2 tag that ten bytes begin; 0 where they begin none."""
    if start[:3] != b"ID3" or len(start) < 10 or max(start[6:10]) > 0x7F:
        return 0
    size = sum(byte << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + 10 * (start[5] >> 4 & 1)  # the flag is that of a footer


def trailing_tags(file: BinaryIO, stop: int) -> int:
    """The size of the tags at the end of a file: ID3v1, APE, and Lyrics3 between them."""
    end = stop
    while True:
        file.seek(max(0, end - 160))
        tail = file.read(min(160, end))
        before = end
        if tail[-128:-125] == b"TAG":
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            size, _, flags = struct.unpack("<III", tail[-20:-8])
            end -= size + 32 * (flags >> 31)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
        if end == before or end < 0:
            return stop - max(end, 0)
