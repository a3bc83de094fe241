"""What files say without being decoded: their headers, whether their end is there, and which of them are
copies.
"""

import hashlib
import io
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from tqdm import tqdm

from asr_exp.data.audio import TOLERANCE, Audio, Clip, read_clip
from asr_exp.data.corpora.base import FileAudio

PIECE = 4096  # bytes from the middle, by which most files of one size differ
PART = 32  # items that a thread is given at once; handing over one costs as much as a header
PAGE = 65307  # bytes of the longest page of an Ogg stream (RFC 3533)


@dataclass(frozen=True)
class Header:
    """A file's header and its size in bytes. ended: False for an Ogg stream without its end, which decodes
    all the same.
    """

    clip: Clip
    size: int = 0
    ended: bool = True


@dataclass(frozen=True)
class _Fetched:
    """A recording out of a table, whose bytes are fetched once."""

    content: bytes
    start: float | None
    end: float | None

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)


def in_threads(
    work: Callable[[Any], Any], items: Sequence[Any], label: str | None, workers: int | None
) -> list[Any]:
    """`work` on each item, in order, with a progress bar (None: no bar)."""
    parts = [items[i : i + PART] for i in range(0, len(items), PART)]
    with (
        tqdm(
            total=len(items),
            desc=label,
            unit="clip",
            disable=None if label else True,
            leave=False,
            dynamic_ncols=True,
        ) as bar,
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
    ):
        done = []
        for some in pool.map(lambda part: [work(one) for one in part], parts):
            done += some
            bar.update(len(some))
        return done


def read_header(audio: Audio) -> Header:
    """The header of a recording, and what can be known of its end without decoding it.

    FLAC, WAV and NIST SPHERE files are known to be whole; an MP3 where an encoder has written its length into
    it.
    """
    held: Any = audio
    try:
        if not isinstance(audio, FileAudio):
            source: Any = audio.open()
            held = (
                FileAudio(source, audio.start, audio.end)
                if isinstance(source, str)
                else _Fetched(source.read(), audio.start, audio.end)
            )
        clip = read_clip(held, header_only=True)
        if clip.reason:
            return Header(clip)
        if not clip.format.startswith(("MP3", "OGG")):
            return Header(
                clip, os.stat(held.path).st_size if isinstance(held, FileAudio) else len(held.content)
            )
        with _opened(held) as file:
            size = file.seek(0, os.SEEK_END)
            if clip.format.startswith("OGG"):
                return Header(clip, size, _ends(file, size))
            promised = _promised_bytes(file)
        lacking = (
            clip.seconds * (promised - size) / promised
            if promised and audio.start is audio.end is None
            else 0.0
        )
        reason = (
            f"truncated: {size} bytes where the header promises {promised}" if lacking > TOLERANCE else ""
        )
        return Header(replace(clip, reason=reason), size)
    except (OSError, TypeError):  # read_clip has a sentence for it
        return Header(read_clip(audio, header_only=True))


def _opened(audio: Audio) -> BinaryIO:
    source = audio.open()
    return open(source, "rb") if isinstance(source, str) else source


def _ends(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg stream is whole, and marked as the last."""
    file.seek(max(0, size - PAGE))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    segments = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(segments)


def _promised_bytes(file: BinaryIO) -> int:
    """Bytes of an MP3 file, as the Xing header in its first frame has them; 0 where there is none."""
    file.seek(0)
    start = file.read(10)
    tag = (
        10 + sum((byte & 0x7F) << shift for byte, shift in zip(start[6:], (21, 14, 7, 0), strict=True))
        if start[:3] == b"ID3"
        else 0
    )
    file.seek(tag)
    frame = file.read(200)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16:
        return 0
    flags, first, second = struct.unpack_from(">III", frame, at + 4)
    return tag + (second if flags & 1 else first) if flags & 2 else 0


# ------------------------------------------------------------------------------------------------------------
# copies


def copies(audios: Sequence[Audio], sizes: Sequence[int], workers: int | None) -> list[list[int]]:
    """Indices of recordings with the same bytes and the same segment, in groups of two and more.

    Most sizes come once; of those that do not, a piece is read, and all of what agrees in that too.
    """
    tests: tuple[Callable[[int], Hashable], ...] = (
        lambda i: (sizes[i], audios[i].start, audios[i].end),
        lambda i: _digest(audios[i], PIECE),
        lambda i: _digest(audios[i], None),
    )
    groups = [[i for i, size in enumerate(sizes) if size]]
    for test in tests:
        left = [i for group in groups for i in group]
        keys = dict(zip(left, in_threads(test, left, None, workers), strict=True))
        groups = [part for group in groups for part in _parted(group, keys) if len(part) > 1]
    return groups


def _parted(group: Sequence[int], keys: dict[int, Hashable]) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for i in group:
        parts[keys[i]].append(i)
    return list(parts.values())


def _digest(audio: Audio, length: int | None) -> bytes:
    """A hash of a file, or of `length` bytes of it from the middle on."""
    with _opened(audio) as file:
        if length:
            file.seek(file.seek(0, os.SEEK_END) // 2)
        return hashlib.blake2b(file.read(length) if length else file.read(), digest_size=16).digest()
