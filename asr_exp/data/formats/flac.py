"""Count the samples of a FLAC file whose header does not say how many there are (RFC 9639).

Every frame says which samples it holds, and ends with a checksum. So the last whole frame says how long the
file is.
"""

import re
import struct
from typing import BinaryIO

from asr_exp.data.formats.splice import Part
from asr_exp.data.formats.tags import trailing_tags

STREAM_INFO = 42  # bytes of the magic number, the block's header and STREAMINFO itself
TAIL = (2**18, 2**22, 2**26)  # bytes at the end in which the last two frames are looked for
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


def flac_parts(file: BinaryIO, start: int, size: int) -> list[Part] | None:
    """The audio of a FLAC file that begins at `start` behind a header with the number of samples; None where
    its own has it and nothing stands before it.
    """
    file.seek(start)
    head = bytearray(file.read(STREAM_INFO))
    if len(head) < STREAM_INFO or head[4] & 0x7F:
        return None
    total = int.from_bytes(head[21:26], "big") & (2**36 - 1)
    if total:
        return [Part(b"", [(start, size)])] if start else None
    stop = size - trailing_tags(file, size)
    for tail in TAIL:
        first = max(start + STREAM_INFO, stop - tail)
        file.seek(first)
        samples, end = _last_frame(file.read(stop - first), struct.unpack_from(">H", head, 10)[0])
        if samples:
            head[21:26] = (int.from_bytes(head[21:26], "big") | samples).to_bytes(5, "big")
            return [Part(bytes(head), [(start + STREAM_INFO, first + end)], samples)]
        if first == start + STREAM_INFO:
            break
    return None


def _last_frame(data: bytes, block: int) -> tuple[int, int]:
    """The number of the last sample and the end of the last whole frame in the data; (0, 0) where there is
    none. block: samples of a frame, where all have as many.
    """
    places = [match.start() for match in _SYNC.finditer(data)]
    end = len(data)
    frames: list[tuple[int, int, int]] = []
    for at in reversed(places):
        frame = _frame(data[at : at + 16], block)
        if frame is None:
            continue
        first, count = frame
        for stop in (end, *(other for other, _, _ in frames)):
            if _crc16(data[at:stop]) == 0:
                return first + count, stop
        frames.append((at, first, count))
        if len(frames) > 8:
            break
    return 0, 0


def _frame(header: bytes, block: int) -> tuple[int, int] | None:
    """(the first sample, their number) of a frame; None where it is no header of one."""
    if len(header) < 16 or header[3] & 1 or not header[2] >> 4 or header[2] & 15 == 15 or header[3] >> 4 > 10:
        return None
    ones = 8 - (header[4] ^ 0xFF).bit_length()
    if ones in (1, 8):
        return None
    extra = max(0, ones - 1)
    number = header[4] & (0xFF >> (ones + 1) if ones else 0x7F)
    for byte in header[5 : 5 + extra]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    at, code = 5 + extra, header[2] >> 4
    if code == 6:
        count = header[at] + 1
    elif code == 7:
        count = int.from_bytes(header[at : at + 2], "big") + 1
    else:
        count = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    at += {6: 1, 7: 2}.get(code, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if at >= len(header) or _crc8(header[:at]) != header[at]:
        return None
    return (number if header[1] & 1 else number * block), count


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
    return value
