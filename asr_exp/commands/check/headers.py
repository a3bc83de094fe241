"""What can be known of recordings without decoding them: their headers, whether they are whole, and which
of them are duplicates.
"""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from tqdm import tqdm

from asr_exp.data.audio import Audio, Clip, read_clip
from asr_exp.data.corpora.base import FileAudio
from asr_exp.runtime.cores import usable_cores

PROBE_BYTES = 4096  # from the middle of a file: most files of the same size differ there
CHUNK_ITEMS = 32  # items per task of a thread: handing one over takes as long as reading a header
OGG_PAGE_BYTES = 65307  # of the longest page of an Ogg stream (RFC 3533)


@dataclass(frozen=True)
class Header:
    """What the header of a recording says, and the size of its file in bytes.

    has_end: False for an Ogg stream whose last page is missing; it decodes without an error as far as it
    goes.
    """

    clip: Clip
    size: int = 0
    has_end: bool = True


@dataclass(frozen=True)
class _LoadedAudio:
    """A recording out of a table (parquet), with its bytes in memory, so that they are read once."""

    content: bytes
    start: float | None
    end: float | None

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)


def map_in_threads(
    function: Callable[[Any], Any], items: Sequence[Any], label: str | None, workers: int | None
) -> list[Any]:
    """The function's result for each item, in their order. label: of the progress bar, None for no bar.
    workers: threads, None for as many as there are usable cores.
    """
    chunks = [items[i : i + CHUNK_ITEMS] for i in range(0, len(items), CHUNK_ITEMS)]
    with (
        tqdm(
            total=len(items),
            desc=label,
            unit="clip",
            disable=None if label else True,
            leave=False,
            dynamic_ncols=True,
        ) as bar,
        ThreadPoolExecutor(workers or usable_cores()) as pool,
    ):
        results = []
        for some in pool.map(lambda chunk: [function(one) for one in chunk], chunks):
            results += some
            bar.update(len(some))
        return results


def read_header(audio: Audio) -> Header:
    """Read the header of a recording, and check without decoding whether the file is whole: Ogg streams by
    their last page, the others as `read_clip` does.
    """
    try:
        loaded = _load(audio)
        clip = read_clip(loaded, header_only=True)
        if clip.reason:
            return Header(clip)
        if clip.format.startswith("OGG"):
            with _open(loaded) as file:
                size = file.seek(0, os.SEEK_END)
                return Header(clip, size, _has_last_page(file, size))
        is_file = isinstance(loaded, FileAudio)
        return Header(clip, os.stat(loaded.path).st_size if is_file else len(loaded.content))
    except (OSError, TypeError):  # read_clip words the reason
        return Header(read_clip(audio, header_only=True))


def _load(audio: Audio) -> Any:
    """A FileAudio for a recording in a file of its own, else its bytes in memory."""
    if isinstance(audio, FileAudio):
        return audio
    source: Any = audio.open()
    if isinstance(source, str):
        return FileAudio(source, audio.start, audio.end)
    return _LoadedAudio(source.read(), audio.start, audio.end)


def _open(audio: Audio) -> BinaryIO:
    source = audio.open()
    return open(source, "rb") if isinstance(source, str) else source


def _has_last_page(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg stream is whole and has the end-of-stream flag (RFC 3533)."""
    file.seek(max(0, size - OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return False
    segments = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(segments)


# ------------------------------------------------------------------------------------------------------------
# duplicates


def duplicate_groups(audios: Sequence[Audio], sizes: Sequence[int], workers: int | None) -> list[list[int]]:
    """Groups of indices of recordings with the same bytes and the same segment, two or more in each.

    Few files have the same size; of those, `PROBE_BYTES` are compared, and only where these agree too, all
    bytes.
    """
    keys: tuple[Callable[[int], Hashable], ...] = (
        lambda i: (sizes[i], audios[i].start, audios[i].end),
        lambda i: _digest(audios[i], PROBE_BYTES),
        lambda i: _digest(audios[i], None),
    )
    groups = [[i for i, size in enumerate(sizes) if size]]
    for key in keys:
        indices = [i for group in groups for i in group]
        key_of = dict(zip(indices, map_in_threads(key, indices, None, workers), strict=True))
        groups = [part for group in groups for part in _grouped(group, key_of) if len(part) > 1]
    return groups


def _grouped(indices: Sequence[int], key_of: dict[int, Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i in indices:
        groups[key_of[i]].append(i)
    return list(groups.values())


def _digest(audio: Audio, length: int | None) -> bytes:
    """A hash of all bytes of a recording's file, or of `length` bytes from its middle."""
    with _open(audio) as file:
        if length:
            file.seek(file.seek(0, os.SEEK_END) // 2)
        return hashlib.blake2b(file.read(length) if length else file.read(), digest_size=16).digest()
