"""The features that a frozen front end computes, kept on the disk from the first epoch on.

A cache is one file for a front end and a training split. It holds a table of marks, then room for the
features of every utterance, at a place that follows from the lengths alone; what is not written takes no room
on the disk. A mark has a checksum of the features and of their audio, so that what is torn, or of other
audio, is computed anew. Features are always computed from one utterance at a time. What a run learns depends
neither on what the cache holds nor on whether there is one.
"""

import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from asr_exp.data.batch import Batch

log = logging.getLogger(__name__)

# How the type of the features is written in a mark; 0 says that there are none.
DTYPES = {1: torch.float32, 2: torch.bfloat16, 3: torch.float16}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MARK = struct.Struct("<II")  # checksum, code of the type
WIDEST = 4  # bytes of a feature


@dataclass(frozen=True)
class FeatureTable:
    """Where the features of each utterance lie in the file. frames: (utterances,); channels: of a frame."""

    frames: np.ndarray
    channels: int

    def offsets(self) -> np.ndarray:
        """(utterances + 1,) the first byte of each utterance, and the end."""
        rows = np.concatenate([[0], np.cumsum(self.frames, dtype=np.int64)])
        return MARK.size * len(self.frames) + WIDEST * self.channels * rows

    @property
    def nbytes(self) -> float:
        """Bytes of all features at their widest."""
        return WIDEST * self.channels * float(self.frames.sum())


class FeatureCache:
    """Features by the number of the utterance. budget: the bytes that this process may add to the file."""

    def __init__(self, path: Path, table: FeatureTable, budget: float):
        self.table = table
        self.left = budget
        self._offsets = table.offsets()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.utime(path)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._file)

    def attach(self, batch: Batch) -> Batch:
        """The batch with its cached features: (frames, channels) of each row, None for a row without any."""
        clips = zip(batch.indices, batch.audio, batch.lengths, strict=True)
        return replace(
            batch, features=[self.read(int(index), audio[:samples]) for index, audio, samples in clips]
        )

    def read(self, index: int, clip: torch.Tensor) -> torch.Tensor | None:
        """The features, (frames, channels), of the utterance with this int16 audio, (samples,); None where
        they are not cached.
        """
        mark = os.pread(self._file, MARK.size, MARK.size * index)
        checksum, code = MARK.unpack(mark) if len(mark) == MARK.size else (0, 0)
        if code not in DTYPES:
            return None
        shape = (int(self.table.frames[index]), self.table.channels)
        size = shape[0] * shape[1] * DTYPES[code].itemsize
        data = bytearray(os.pread(self._file, size, int(self._offsets[index])))
        if len(data) < size or _checksum(data, clip) != checksum:
            return None
        return torch.frombuffer(data, dtype=DTYPES[code]).view(shape)

    def write(self, index: int, clip: torch.Tensor, features: torch.Tensor) -> None:
        """Cache the features, (frames, channels), of the utterance with this int16 audio, (samples,), as long
        as the budget lasts. A full disk is logged once.
        """
        shape = (self.table.frames[index], self.table.channels)
        if features.nbytes > self.left or features.shape != shape:
            return
        data = _bytes(features)
        self.left -= len(data)
        try:
            os.pwrite(self._file, data, int(self._offsets[index]))
            os.pwrite(self._file, MARK.pack(_checksum(data, clip), CODES[features.dtype]), MARK.size * index)
        except OSError as why:
            self.left = 0
            log.warning("Features of the front end are kept no longer: %s.", why.strerror)


def cache_name(weights: Mapping[str, torch.Tensor], settings: str, samples: np.ndarray) -> str:
    """The name of a cache: a digest of everything that its features depend on.

    weights: the front end's, by name. settings: the rest that decides its output. samples: (utterances,) of
    the split.
    """
    digest = hashlib.blake2b(
        f"{settings} {torch.__version__} {torch.get_num_threads()}".encode(), digest_size=12
    )
    digest.update(samples.tobytes())
    for name, weight in weights.items():
        digest.update(name.encode() + _bytes(weight.detach()))
    return digest.hexdigest()


def open_cache(
    folder: Path, name: str, table: FeatureTable, budget: float, processes: int = 1
) -> FeatureCache:
    """The cache of this name; other caches, the longest unused first, are deleted to make room for it.

    Args:
        folder: of all caches.
        name: see `cache_name`.
        table: where the features of each utterance lie.
        budget: bytes of all caches together, but at most half of what the disk has free beside them.
        processes: that fill this cache side by side, each with an equal share of the budget.

    Returns:
        The cache, whose file is created where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.features"
    files = {}
    for file in folder.glob("*.features"):
        with suppress(FileNotFoundError):  # another run is making room too
            files[file] = file.stat()
    disk = os.statvfs(folder)
    budget = min(budget, _room(files.values()) + disk.f_bavail * disk.f_frsize / 2)
    own = files.pop(path, None)
    needed = min(budget, table.nbytes)
    for file in sorted(files, key=lambda file: files[file].st_mtime):
        if _room(files.values()) + needed > budget:
            file.unlink(missing_ok=True)  # a run that has it open goes on with it
            del files[file]
    left = budget - _room(files.values()) - (_room([own]) if own else 0)
    return FeatureCache(path, table, left / processes)


def _room(files: Iterable[os.stat_result]) -> int:
    """Bytes that files take on the disk."""
    return sum(512 * file.st_blocks for file in files)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _checksum(data: bytes | bytearray, clip: torch.Tensor) -> int:
    return zlib.crc32(data, zlib.crc32(_bytes(clip)))
