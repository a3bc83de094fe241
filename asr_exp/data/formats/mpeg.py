"""Give libsndfile MPEG audio (MP3) whose length it knows.

An MP3 has no length. Its first frame may be a Xing header with the number of frames; without one, libsndfile
(mpg123) guesses the length from the size of the first frame, and reads no further than that. A Xing header
is believed where it agrees with the size of the file; else the frames are counted, and libsndfile is given
the stream behind a header with the right number.

Delay and padding: an encoder puts about a thousand samples of silence before the audio and fills the last
frame behind it. Where a Xing header has LAME's extension, which says how many, libsndfile cuts both off;
where its count turns out to be wrong (files that were joined), the delay alone. Without the extension nothing
is cut off: the length is that of all frames.
"""

import os
from dataclasses import replace
from typing import BinaryIO

from asr_exp.data.formats.mpeg_frames import Stream, Xing, first_xing, frame_header, side_info, walk
from asr_exp.data.formats.splice import Part
from asr_exp.data.formats.tags import leading_tags, trailing_tags

DECODER_DELAY = 529  # samples, which a decoder adds to the delay of the encoder
BITRATE = 9  # index of a bitrate whose frame holds a Xing header at any rate


def mpeg_parts(file: BinaryIO, start: int = 0, stop: int | None = None) -> list[Part] | None:
    """The MPEG audio between two bytes of a file (all of it) -> its parts, one for each change of the
    sampling rate or the channels; None where libsndfile reads the file right as it is, [] where there is no
    such audio.
    """
    size = file.seek(0, os.SEEK_END) if stop is None else stop
    begin = start + leading_tags(file, start)
    end = size - trailing_tags(file, size)
    xing = first_xing(file, begin, end)
    if xing and start == 0 and _is_consistent(xing, end):
        return None
    streams = walk(file, begin, end)
    xing = streams[0].xing if len(streams) == 1 and start == 0 else None
    if xing and xing.frame[0] == begin and xing.frames == streams[0].frames:
        return None
    parts = [_part(stream, end) for stream in streams]
    if len(parts) == 1 and not parts[0].head and start == 0:
        ((first, _), *others) = parts[0].spans
        return [replace(parts[0], is_plain=first == begin and not others)]
    return parts


def _is_consistent(xing: Xing, end: int) -> bool:
    """Whether a Xing header of a constant bitrate agrees with the size of the file and with its own count of
    frames. That of a variable bitrate says nothing by which its count could be checked.
    """
    if not (xing.is_constant and xing.frames and xing.size and xing.frame[0] + xing.size == end):
        return False
    missing = end - xing.frame[1] - xing.frames * xing.frame_size
    return abs(missing) < xing.frame_size / 2


def _part(stream: Stream, end: int) -> Part:
    first, xing = stream.first, stream.xing
    frames = stream.frames
    if not xing or not xing.frames:
        return Part(b"", stream.spans, frames * first.samples)
    delay, padding = xing.gap
    missing = xing.frames - frames
    # of a file that is cut the padding is cut first; in one that is joined it is in the middle
    there = end - xing.frame[0]
    kept = padding
    if xing.size != there:
        kept = max(0, padding - missing * first.samples) if missing >= 0 else 0
    is_cut = missing > 0 and (not xing.size or xing.size > there)
    return Part(
        _xing_frame(stream, xing, kept),
        stream.spans,
        frames * first.samples - _gap(delay, kept),
        xing.frames * first.samples - _gap(delay, padding) if is_cut else 0,
    )


def _gap(delay: int, padding: int) -> int:
    """The samples that mpg123 leaves out at the beginning and at the end of a stream with a Xing header."""
    return delay + DECODER_DELAY + max(0, padding - DECODER_DELAY)


def _xing_frame(stream: Stream, xing: Xing, padding: int) -> bytes:
    """A frame with a Xing header that has the right count, and another padding."""
    # no checksum, no padding; a bitrate whose frame has the room
    word = stream.word & ~(0xF << 12 | 1 << 9) | 1 << 16 | BITRATE << 12
    header = frame_header(word)
    assert header
    extension = bytearray(xing.extension)
    if any(extension[:9]):
        extension[22] = extension[22] & 0xF0 | padding >> 8
        extension[23] = padding & 0xFF
    total = header.size + sum(stop - start for start, stop in stream.spans)
    fields = [3, stream.frames, min(total, 0xFFFFFFFF)]
    tag = b"Xing" + b"".join(value.to_bytes(4, "big") for value in fields) + extension
    return (word.to_bytes(4, "big") + bytes(side_info(stream.first)) + tag).ljust(header.size, b"\0")
