"""What a frozen front end makes of each utterance, kept on the disk from its first epoch on.

One file for a front end and a training split: a table of marks, then room for every utterance's features, at
a place that follows from the lengths alone; what is not there takes no room on the disk. A mark is a checksum
of the features and of the audio they are of, so what is torn, or of other audio, is made anew. Features are
made of one utterance at a time, whether they are kept or not: what a run learns does not depend on what the
cache holds, nor on whether there is one.
"""

import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asr_exp.data.batch import Batch

log = logging.getLogger(__name__)

KINDS = {1: torch.float32, 2: torch.bfloat16, 3: torch.float16}
CODES = {kind: code for code, kind in KINDS.items()}
MARK = struct.Struct("<II")  # checksum, kind (0: nothing there)
WIDEST = 4  # bytes of a feature


class FeatureCache:
    """Features by the number of the utterance. frames: (utterances,) of each; budget: bytes that this process
    may add.
    """

    def __init__(self, path: Path, frames: np.ndarray, channels: int, budget: float):
        self.frames = frames
        self.channels = channels
        self.left = budget
        self._starts = MARK.size * len(frames) + WIDEST * channels * np.concatenate(
            [[0], np.cumsum(frames, dtype=np.int64)]
        )
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.utime(path)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._file)

    def attach(self, batch: Batch) -> Batch:
        """The batch with the features that are there: (frames, channels) of each row, or None."""
        clips = zip(batch.indices, batch.audio, batch.lengths, strict=True)
        return replace(
            batch, features=[self.read(int(index), audio[:samples]) for index, audio, samples in clips]
        )

    def read(self, index: int, clip: torch.Tensor) -> torch.Tensor | None:
        """Features of the utterance with this audio (int16), or None."""
        mark = os.pread(self._file, MARK.size, MARK.size * index)
        checksum, code = MARK.unpack(mark) if len(mark) == MARK.size else (0, 0)
        if code not in KINDS:
            return None
        shape = (int(self.frames[index]), self.channels)
        size = shape[0] * shape[1] * KINDS[code].itemsize
        data = bytearray(os.pread(self._file, size, int(self._starts[index])))
        if len(data) < size or _checksum(data, clip) != checksum:
            return None
        return torch.frombuffer(data, dtype=KINDS[code]).view(shape)

    def write(self, index: int, clip: torch.Tensor, features: torch.Tensor) -> None:
        """Keep features, as long as there is room. A disk that is full is told of once."""
        if features.nbytes > self.left or features.shape != (self.frames[index], self.channels):
            return
        data = _bytes(features)
        self.left -= len(data)
        try:
            os.pwrite(self._file, data, int(self._starts[index]))
            os.pwrite(self._file, MARK.pack(_checksum(data, clip), CODES[features.dtype]), MARK.size * index)
        except OSError as why:
            self.left = 0
            log.warning("Features of the front end are kept no longer: %s.", why.strerror)


def open_cache(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    settings: str,
    samples: np.ndarray,
    frames: np.ndarray,
    channels: int,
    budget: float,
    processes: int = 1,
) -> FeatureCache:
    """The cache of a front end and a split; files of others, the longest unused first, are deleted to make
    room.

    weights: the front end's; settings: all else that features depend on; samples, frames: (utterances,) of
    the split; budget: bytes of all files together, at the most half of what the disk has free beside them;
    processes: that fill the file side by side.
    """
    digest = hashlib.blake2b(
        f"{settings} {torch.__version__} {torch.get_num_threads()}".encode(), digest_size=12
    )
    digest.update(samples.tobytes())
    for name, weight in weights.items():
        digest.update(name.encode() + _bytes(weight.detach()))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest.hexdigest()}.features"
    taken = {}
    for one in folder.glob("*.features"):
        with suppress(FileNotFoundError):  # another run is making room too
            taken[one] = one.stat()
    disk = os.statvfs(folder)
    budget = min(budget, _room(taken.values()) + disk.f_bavail * disk.f_frsize / 2)
    own = taken.pop(path, None)
    wanted = min(budget, WIDEST * channels * float(frames.sum()))
    for one in sorted(taken, key=lambda file: taken[file].st_mtime):
        if _room(taken.values()) + wanted > budget:
            one.unlink(missing_ok=True)  # a run that has it open goes on with it
            del taken[one]
    left = budget - _room(taken.values()) - (_room([own]) if own else 0)
    return FeatureCache(path, frames, channels, left / processes)


def _room(files: Iterable[os.stat_result]) -> int:
    return sum(512 * one.st_blocks for one in files)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _checksum(data: bytes | bytearray, clip: torch.Tensor) -> int:
    return zlib.crc32(data, zlib.crc32(_bytes(clip)))
