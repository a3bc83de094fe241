"""Find out how much audio there is in WAV, CAF and FLAC files whose header does not say: those of a program
that wrote to a pipe, or was killed before it could write the size.

Such a WAV has a size of zero, or the largest that there is: 0xFFFFFFFF (ffmpeg), 0x7FFFF000 (SoX, espeak-ng),
0x80000000 (arecord). A header with another size promises it.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from asr_exp.data.formats.flac import flac_parts
from asr_exp.data.formats.mpeg import mpeg_parts
from asr_exp.data.formats.splice import Part
from asr_exp.data.formats.tags import leading_tags

STREAMED = 0x7FFF0000  # bytes; a size of so many or more that is not there was never known
MPEG_TAGS = (0x50, 0x55)  # of WAV files that hold MP2 and MP3
TAIL = 2**20  # bytes at the end of a stream in which chunks that follow the audio are looked for
_CONTAINERS = (b"RIFF", b"\x1aE\xdf\xa3", b"OggS", b"FLV", b"\0\0\1\xba", b"G@", b"\x30\x26\xb2\x75", b"FORM")
# Chunks that programs write behind the audio.
_TRAILING = (
    b"LIST",
    b"id3 ",
    b"ID3 ",
    b"cue ",
    b"bext",
    b"fact",
    b"JUNK",
    b"PEAK",
    b"iXML",
    b"_PMX",
    b"afsp",
    b"smpl",
)


def is_other_container(file: BinaryIO) -> bool:
    """Whether a file begins as one that may hold MPEG audio between other things: MP4, Matroska, AVI, ..."""
    file.seek(0)
    start = file.read(12)
    return start.startswith(_CONTAINERS) or start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")


def sized_parts(file: BinaryIO) -> list[Part] | None:
    """The audio of a WAV, CAF or FLAC file behind a header that is right; None where that of the file need
    not be changed, or it is another kind of file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    if start[:4] in (b"RIFF", b"RF64", b"BW64") and start[8:] == b"WAVE":
        return _wav_parts(file, size)
    if start[:4] == b"caff":
        return _caf_parts(file, size)
    begin = leading_tags(file)
    file.seek(begin)
    return flac_parts(file, begin, size) if file.read(4) == b"fLaC" else None


def _wav_parts(file: BinaryIO, size: int) -> list[Part] | None:
    file.seek(0)
    magic, encoding = file.read(4), 0
    long_size: int | None = None
    for name, at, length in _chunks(file, 12, size, "<"):
        if name == b"ds64" and length >= 16 and at + 16 <= size:
            file.seek(at)
            long_size = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"fmt " and length >= 2:
            file.seek(at)
            encoding = int.from_bytes(file.read(2), "little")
        elif name == b"data":
            is_long = length == 0xFFFFFFFF and long_size is not None
            claimed = long_size if is_long else length
            assert claimed is not None
            stop = _end_of_audio(file, at, claimed, size)
            if encoding in MPEG_TAGS:
                return mpeg_parts(file, at, stop)
            if stop == at or (stop - at == claimed and magic == b"RIFF") or at - 8 > TAIL:
                return None
            is_promise = at + claimed > size and claimed < STREAMED
            return [Part(_riff_head(file, at, claimed if is_promise else stop - at), [(at, stop)])]
    return None


def _end_of_audio(file: BinaryIO, start: int, claimed: int, size: int) -> int:
    """The end of the audio that begins at `start`. claimed: its size by the header."""
    if 0 < claimed <= size - start:
        return start + claimed
    if 0 < claimed < STREAMED:
        return size
    stop, chunks = size, _trailing_chunks(file, start, size)
    return next(chunks, stop)


def _trailing_chunks(file: BinaryIO, start: int, size: int) -> Iterator[int]:
    """Where the chunks begin that fill a file to its end, if there are any."""
    first = max(start, size - TAIL)
    file.seek(first)
    tail = file.read(size - first)
    end = len(tail)
    found = True
    while found:
        found = False
        for name in _TRAILING:
            at = tail.rfind(name, 0, end)
            if at >= 0 and at + 8 <= end:
                length = int.from_bytes(tail[at + 4 : at + 8], "little")
                if end - at - 8 in (length, length + (length & 1)):
                    end, found = at, True
                    break
    if end < len(tail):
        yield first + end


def _riff_head(file: BinaryIO, data: int, length: int) -> bytes:
    """The bytes of a WAV file before its samples, with other sizes; those of an RF64 file become RIFF."""
    file.seek(0)
    head = bytearray(file.read(data))
    head[:4] = b"RIFF"
    struct.pack_into("<I", head, 4, min(data - 8 + length, 0xFFFFFFFF))
    struct.pack_into("<I", head, data - 4, min(length, 0xFFFFFFFF))
    if head[12:16] == b"ds64":
        head[12:16] = b"JUNK"
    return bytes(head)


def _caf_parts(file: BinaryIO, size: int) -> list[Part] | None:
    """Apple's Core Audio Format: a size of -1 means that the audio fills the file."""
    for name, at, length in _chunks(file, 8, size, ">"):
        if name == b"data" and (length <= 4 or length == 2**64 - 1) and size > at + 4:
            file.seek(0)
            head = file.read(at - 8) + struct.pack(">Q", size - at)
            return [Part(head, [(at, size)])]
    return None


def _chunks(file: BinaryIO, at: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, length) of the chunks of a file, which `order` ('<': 32-bit sizes, padded to even
    ones; '>': 64-bit sizes) says how to read.
    """
    header = 8 if order == "<" else 12
    while at + header <= size:
        file.seek(at)
        name, length = struct.unpack(order + ("4sI" if order == "<" else "4sQ"), file.read(header))
        yield name, at + header, length
        at += header + length + (length & 1 if order == "<" else 0)
