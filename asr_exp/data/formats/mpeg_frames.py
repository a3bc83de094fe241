"""Walk the frames of MPEG audio (MP3): each begins with four bytes that say how long it is.

(ISO/IEC 11172-3 and 13818-3; for the Xing header and LAME's extension of it, "Mp3 Info Tag rev 1" of G.
Bouvigne.)
"""

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from asr_exp.data.formats.splice import Span
from asr_exp.data.formats.tags import tag_size

BUFFER = 2**20  # bytes that are read at a time
MAX_JUNK = 2**18  # bytes before the first frame (after ID3 tags) in which it is looked for
EXTENSION = 36  # bytes of LAME's extension of the Xing header
CHAIN = 4  # frames in a row that make a stream of what is found in junk
_KBPS = {  # by (version 1, layer); the index of the bitrate starts at 1
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(frozen=True)
class FrameHeader:
    """What the four bytes at the start of a frame say. size: bytes of the frame, 0 for free format, whose
    frames are as far apart as they are; padding: bytes of it that are padding; mean_size: of a frame of this
    bitrate, in bytes; samples: of each channel.
    """

    layer: int
    rate: int
    channels: int
    size: int
    padding: int
    mean_size: float
    samples: int
    is_version_1: bool

    @property
    def kind(self) -> tuple[int, int, int]:
        """What stays the same from frame to frame of a stream."""
        return (self.layer, self.rate, self.channels)


@dataclass(frozen=True)
class Xing:
    """The Xing (or Info) header in the first frame of a stream.

    frame: the bytes of the frame that it is in; frames: how many follow, as it says; size: their bytes, with
    its own frame; None where it does not say. extension: LAME's, or what stands in its place. is_constant:
    whether it says that all frames are of one bitrate, then of `frame_size` bytes on average.
    """

    frame: Span
    frames: int | None
    size: int | None
    extension: bytes
    is_constant: bool = False
    frame_size: float = 0.0

    @property
    def gap(self) -> tuple[int, int]:
        """Delay and padding in samples; zeros where there is no extension."""
        e = self.extension
        if len(e) < 24 or not any(e[:9]):
            return 0, 0
        return e[21] << 4 | e[22] >> 4, (e[22] & 15) << 8 | e[23]


@dataclass
class Stream:
    """Frames of one kind, one after the other. word: the first four bytes; first: what they say; spans: where
    the frames are in the file; xing: the header before them, which is in no span.
    """

    word: int
    first: FrameHeader
    spans: list[Span] = field(default_factory=list)
    frames: int = 0
    xing: Xing | None = None


_headers: dict[int, FrameHeader | None] = {}


def frame_header(word: int) -> FrameHeader | None:
    """The header of a frame by its first four bytes, big-endian; None where they are none."""
    key = word & 0xFFFFFEC0
    if key not in _headers:
        _headers[key] = _parse(key)
    return _headers[key]


def _parse(word: int) -> FrameHeader | None:
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    is_version_1 = version == 3
    hertz = _RATES[version][rate]
    samples = 384 if layer == 1 else 1152 if layer == 2 or is_version_1 else 576
    slot = 4 if layer == 1 else 1
    padding = (word >> 9 & 1) * slot
    bits = 1000 * _KBPS[is_version_1, layer][bitrate - 1] if bitrate else 0  # a second
    size = samples // 8 // slot * bits // hertz * slot + padding if bitrate else 0
    channels = 1 if word >> 6 & 3 == 3 else 2
    return FrameHeader(
        layer, hertz, channels, size, padding, samples / 8 * bits / hertz, samples, is_version_1
    )


class _Window:
    """Bytes of a file by their place in it, read in blocks."""

    def __init__(self, file: BinaryIO, start: int, stop: int, block: int = BUFFER):
        self._file, self._data = file, b""
        self._block = block
        self._first = start
        self.free: tuple[tuple, int] | None = None  # kind and size of frames of free format
        self.stop = stop

    def take(self, at: int, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end."""
        count = max(0, min(count, self.stop - at))
        if not self._first <= at <= at + count <= self._first + len(self._data):
            self._file.seek(at)
            self._data, self._first = self._file.read(max(count, self._block)), at
        return self._data[at - self._first : at - self._first + count]

    def block(self, at: int) -> tuple[bytes, int]:
        """All bytes at hand that have the four from `at` on among them, and the place of the first."""
        self.take(at, 4)
        return self._data, self._first

    def header(self, at: int) -> FrameHeader | None:
        four = self.take(at, 4)
        return frame_header(int.from_bytes(four, "big")) if len(four) == 4 else None


# ------------------------------------------------------------------------------------------------------------
# the walk


def walk(file: BinaryIO, start: int, stop: int) -> list[Stream]:
    """Walk the frames between two bytes of a file -> the streams: a new one begins where layer, rate or
    channels change. Junk between frames (tags) is skipped; a frame that the end cuts does not count.
    """
    window = _Window(file, start, stop)
    streams: list[Stream] = []
    at = start
    while (place := _next_chain(window, at, streams, start)) is not None:
        at = place
        first = window.header(at)
        assert first
        if not streams or streams[-1].first.kind != first.kind:
            word = int.from_bytes(window.take(at, 4), "big")
            streams.append(Stream(word, first, xing=_xing(window, at, first)))
            if xing := streams[-1].xing:
                at = xing.frame[1]
        stream, begin = streams[-1], at
        at, count = _follow(window, at, first)
        stream.frames += count
        if at == place:
            break  # what is left is less than a frame
        if at > begin:
            stream.spans.append((begin, at))
    return [stream for stream in streams if stream.frames]


def _follow(window: _Window, at: int, first: FrameHeader) -> tuple[int, int]:
    """Go from frame to frame while they are of the kind of the first -> (the end of the last, how many)."""
    count = 0
    sizes: dict[bytes, int] = {}  # of frames, by their first four bytes
    data, offset = window.block(at)
    while True:
        four = data[at - offset : at - offset + 4]
        size = sizes.get(four)
        if size is None:
            if len(four) < 4 and at + 4 <= window.stop:
                data, offset = window.block(at)
                continue
            header = frame_header(int.from_bytes(four, "big")) if len(four) == 4 else None
            if header is None or header.kind != first.kind:
                return at, count
            size = header.size or _free_size(window, at, header)
            sizes[four] = size
        if not size or at + size > window.stop:
            return at, count
        at += size
        count += 1


def first_xing(file: BinaryIO, start: int, stop: int) -> Xing | None:
    """The Xing header of the frame that begins at `start`, if there is one."""
    window = _Window(file, start, stop, 8192)
    header = window.header(start)
    return _xing(window, start, header) if header else None


def _next_chain(window: _Window, at: int, streams: list[Stream], start: int) -> int | None:
    """The place of the next frame that others follow, at or after `at`; None where there is none."""
    while at + 4 <= window.stop:
        if _is_chain(window, at, streams):
            return at
        if not streams and at - start > MAX_JUNK:
            return None
        if skip := tag_size(window.take(at, 10)):
            at += skip
            continue
        sync = window.take(at + 1, BUFFER // 2).find(b"\xff")
        at += 1 + (sync if sync >= 0 else BUFFER // 2)
    return None


def _is_chain(window: _Window, at: int, streams: list[Stream]) -> bool:
    """Whether `CHAIN` frames of a kind follow one another, or as many as there are before the end."""
    kind = None
    for _ in range(CHAIN):
        if at + 4 > window.stop and kind and (not streams or kind == streams[-1].first.kind):
            return True
        header = window.header(at)
        if header is None or kind not in (None, header.kind):
            return False
        kind = header.kind
        size = header.size or _free_size(window, at, header)
        if not size:
            return False
        at += size
    return True


def _free_size(window: _Window, at: int, header: FrameHeader) -> int:
    """The size of a frame of free format: up to the next header of the same kind and free format."""
    if window.free is None or window.free[0] != header.kind:
        data, place = window.take(at, 8192), 24
        while (place := data.find(data[:2], place)) >= 0:
            other = window.header(at + place)
            if other and not other.size and other.kind == header.kind:
                window.free = (header.kind, place - header.padding)
                break
            place += 1
        else:
            return 0
    assert window.free
    return window.free[1] + header.padding


def _xing(window: _Window, at: int, header: FrameHeader) -> Xing | None:
    """The Xing header in a frame. VBRI, which is one of another encoder, counts as one that says nothing."""
    size = header.size or _free_size(window, at, header)
    frame = window.take(at, size)
    if header.layer != 3 or len(frame) < size:
        return None
    if frame[36:40] == b"VBRI":
        return Xing((at, at + size), None, None, b"")
    side = side_info(header)
    place = next((4 + side + crc for crc in (0, 2) if frame[4 + side + crc :][:4] in (b"Xing", b"Info")), 0)
    if not place:
        return None
    is_constant = frame[place : place + 4] == b"Info"
    (flags,) = struct.unpack_from(">I", frame.ljust(place + 8, b"\0"), place + 4)
    fields, place = [], place + 8
    for flag, length in ((1, 4), (2, 4), (4, 100), (8, 4)):
        fields.append(int.from_bytes(frame[place : place + length], "big") if flags & flag else None)
        place += length if flags & flag else 0
    extension = frame[place : place + EXTENSION]
    return Xing((at, at + size), fields[0], fields[1], extension, is_constant, header.mean_size)


def side_info(header: FrameHeader) -> int:
    """The size of the side information of a frame of layer III."""
    if header.is_version_1:
        return 32 if header.channels == 2 else 17
    return 17 if header.channels == 2 else 9
