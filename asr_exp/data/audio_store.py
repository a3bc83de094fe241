"""Decode, mix down and resample audio once, and keep it on the disk in shards of int16 samples.

A shard holds consecutive utterances. Its name is a hash of their files (path, size, modification time,
segment) and of the sample rate: the shards of an unchanged corpus are found again in a second, and that of a
changed file is made anew. A shard is a raw `.i16` file and a `.json` index. The index is renamed into place
last, so a shard that has one is whole.

A lazy store takes lengths from headers, where headers give them exactly, and decodes an utterance when it is
read. Its lengths and reasons do not depend on what is in the cache: a file that only decoding shows to be
broken keeps its length, has no samples, and is named in `decode_failures`, on the first run as on any other.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from asr_exp.data.audio import can_be_read_now, decode, read_clip
from asr_exp.data.corpora import Utterance
from asr_exp.runtime.cores import usable_cores

SHARD = 128  # utterances; small enough to spread a small corpus over the cores
VERSION = "2"  # of the contents of shards; with another number all are made anew
SILENT = "silent: every sample is zero"


class AudioStore:
    """Random access to the decoded audio of a list of utterances. Samples are read from the shards when they
    are needed.

    lengths: samples of each utterance, 0 where `reasons` says why there are none; decode_failures: why
    utterances of a lazy store that have a length have no samples, as far as is known; silent: the utterances
    whose samples are all zero, as far as is known.
    """

    def __init__(
        self, utterances: Sequence[Utterance], shards: Sequence[Path], rate: int, lazy: bool, workers: int
    ):
        self.rate, self.lazy = rate, lazy
        self.lengths = np.zeros(len(utterances), dtype=np.int32)
        self.reasons: dict[int, str] = {}
        self.decode_failures: dict[int, str] = {}
        self.silent: set[int] = set()
        self.shards = list(shards)
        self._utterances = utterances
        self._workers = workers
        self._stored = np.zeros(len(utterances), dtype=np.int32)  # samples of each in its shard
        self._complete = np.zeros(len(shards), dtype=bool)  # shards that are on the disk
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples of one utterance, int16, shape (length,)."""
        shard = index // SHARD
        # first of all: the index may say that the utterance cannot be used
        complete = self._complete[shard] or self.load_index(shard)
        if not self.lengths[index] or index in self.decode_failures:
            return np.zeros(0, dtype=np.int16)
        if not complete:
            return self._decode(index)
        if not self._stored[index]:
            return np.zeros(0, dtype=np.int16)
        start = self._stored[shard * SHARD : index].sum(dtype=np.int64)
        return np.fromfile(self.shards[shard], np.int16, self._stored[index], offset=2 * int(start))

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Samples of several utterances; those that no shard has yet are decoded in parallel."""
        if self._complete.all():
            return [self[int(i)] for i in indices]
        self._pool = self._pool or ThreadPoolExecutor(self._workers)
        return list(self._pool.map(lambda i: self[int(i)], indices))

    def refresh_decode_failures(self) -> dict[int, str]:
        """`decode_failures`, after loading the indices of the shards that have been made meanwhile."""
        for shard in np.flatnonzero(~self._complete).tolist():
            self.load_index(shard)
        return self.decode_failures

    def load_index(self, shard: int) -> bool:
        """Load the index of a shard; False where the shard is not on the disk yet."""
        try:
            index = json.loads(self.shards[shard].with_suffix(".json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        if not can_be_read_now(index["reasons"]):
            self.apply_index(shard, index)
            self._complete[shard] = True
        return bool(self._complete[shard])

    def apply_index(self, shard: int, index: dict[str, Any]) -> None:
        """Apply the index of a shard: {lengths, reasons, late, silent}, by the number of the utterance in the
        shard. `late` are reasons that only decoding showed.
        """
        first = shard * SHARD
        rows = slice(first, first + len(index["lengths"]))
        reasons = {first + int(i): reason for i, reason in index["reasons"].items()}
        failures = {first + int(i): reason for i, reason in index["late"].items()}
        stored = np.array(index["lengths"], dtype=np.int32)
        self.lengths[rows] = stored
        stored[[i - first for i in failures]] = 0
        self._stored[rows] = stored  # in one go: another thread may be reading
        silent = [first + i for i in index["silent"]]
        if self.lazy:
            failures |= dict.fromkeys(silent, SILENT)
        else:
            reasons |= failures
            self.lengths[list(failures)] = 0
            failures = {}
        self.reasons |= reasons
        self.decode_failures |= failures
        self.silent.update(silent)

    def _decode(self, index: int) -> np.ndarray:
        """Decode an utterance whose shard is not on the disk yet."""
        clip = decode(self._utterances[index].audio, self.rate)
        reason = clip.reason or (SILENT if clip.samples is not None and not clip.samples.any() else "")
        if reason or clip.samples is None:
            self.decode_failures[index] = reason
            return np.zeros(0, dtype=np.int16)
        return clip.samples

    @contextmanager
    def decoding_in_background(self) -> Iterator[None]:
        """Make the missing shards in background threads while the context lasts, in the order of the
        utterances.
        """
        shards = np.flatnonzero(~self._complete).tolist()
        missing = iter(shards)
        turn = threading.Lock()
        over = threading.Event()

        def work() -> None:
            # training goes first; on Linux each thread has a niceness of its own
            with suppress(AttributeError, OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            while not over.is_set():
                with turn:
                    shard = next(missing, None)
                if shard is None:
                    return
                # Timeout: another process makes it. OSError: it is not written, but decoded when it is read.
                with suppress(Timeout, OSError):
                    _make_shard(
                        self.shards[shard],
                        _group(self._utterances, shard),
                        self.rate,
                        lambda done: None,
                        wait=False,
                    )

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self._workers, len(shards)))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:  # each finishes its shard: a thread must not work on while Python ends
                thread.join()


def open_store(
    utterances: Sequence[Utterance],
    cache: Path,
    rate: int = 16000,
    workers: int | None = None,
    progress: str | None = None,
    lazy: bool = False,
) -> AudioStore:
    """Open the store of these utterances. What is not in the cache yet is decoded now, in parallel.

    Several processes may open a store at once: one of them makes a shard, the others wait for it.

    Args:
        utterances: in any number; their order decides which shard they are in.
        cache: the folder that keeps shards.
        rate: samples a second.
        workers: threads that decode; None: the cores, shared among the ranks of this machine.
        progress: the label of a progress bar; None: no bar.
        lazy: shards whose lengths headers give exactly are not made.

    Returns:
        The store; `reasons` says why utterances have no audio.
    """
    workers = workers or max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    with ThreadPoolExecutor(workers) as pool:
        shards = list(
            pool.map(lambda n: _path(_group(utterances, n), cache, rate), range(-(-len(utterances) // SHARD)))
        )
        store = AudioStore(utterances, shards, rate, lazy, workers)
        missing = [n for n in range(len(shards)) if not store.load_index(n)]
        total = sum(len(_group(utterances, n)) for n in missing)
        silent = None if progress else True  # None: silent where there is no terminal
        with tqdm(
            total=total, desc=progress, unit="clip", disable=silent, leave=False, dynamic_ncols=True
        ) as bar:

            def make(shard: int) -> None:
                group = _group(utterances, shard)
                index = _index_of_headers(group, rate) if lazy else None
                if index:
                    store.apply_index(shard, index)
                    bar.update(len(group))
                else:
                    _make_shard(shards[shard], group, rate, bar.update)
                    store.load_index(shard)

            list(pool.map(make, missing))
    return store


def undecoded(utterances: Sequence[Utterance], cache: Path, rate: int) -> list[int]:
    """Indices of the utterances that `open_store` would decode: those that are not in the cache yet."""
    cached = [
        _path(_group(utterances, n), cache, rate).with_suffix(".json").exists()
        for n in range(-(-len(utterances) // SHARD))
    ]
    return [i for i in range(len(utterances)) if not cached[i // SHARD]]


def _group(utterances: Sequence[Utterance], shard: int) -> Sequence[Utterance]:
    return utterances[shard * SHARD : (shard + 1) * SHARD]


def _path(group: Sequence[Utterance], cache: Path, rate: int) -> Path:
    """The path of the shard of these utterances, whether it is on the disk yet or not."""
    digest = hashlib.blake2b(f"{VERSION} {rate}".encode(), digest_size=16)
    for utterance in group:
        try:
            identity: tuple = utterance.audio.identity()
        except OSError:
            identity = ("missing", str(utterance.audio))
        digest.update(repr(identity).encode())
    name = digest.hexdigest()
    return cache / "audio" / f"{rate}" / name[:2] / f"{name}.i16"


def _index_of_headers(group: Sequence[Utterance], rate: int) -> dict[str, Any] | None:
    """The index of a shard as far as headers give it; None where they do not give every length exactly."""
    clips = [read_clip(utterance.audio, header_only=True) for utterance in group]
    if not all(clip.reason or clip.exact for clip in clips):
        return None
    return {
        "lengths": [0 if clip.reason else clip.length(rate) for clip in clips],
        "reasons": {i: clip.reason for i, clip in enumerate(clips) if clip.reason},
        "late": {},
        "silent": [],
    }


def _make_shard(
    path: Path, group: Sequence[Utterance], rate: int, advance: Callable[[int], object], wait: bool = True
) -> None:
    """Decode the utterances of a shard and write it, unless it is on the disk.

    Args:
        path: of the shard.
        group: its utterances.
        rate: samples a second.
        advance: called with the number of utterances that are done.
        wait: whether to wait for another process that makes the shard.

    Raises:
        Timeout: another process makes it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    index_path = path.with_suffix(".json")
    with FileLock(path.with_suffix(".lock"), timeout=-1 if wait else 0):
        if index_path.exists() and not can_be_read_now(json.loads(index_path.read_text())["reasons"]):
            advance(len(group))
            return
        index: dict[str, Any] = {"lengths": [], "reasons": {}, "late": {}, "silent": []}
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            for number, utterance in enumerate(group):
                clip = decode(utterance.audio, rate)
                samples = np.zeros(0, dtype=np.int16) if clip.samples is None else clip.samples
                late = clip.decode_failure and clip.exact  # a lazy store knows its length by the header
                index["lengths"].append(clip.length(rate) if late else len(samples))
                if clip.reason:
                    index["late" if late else "reasons"][number] = clip.reason
                elif not samples.any():
                    index["silent"].append(number)
                file.write(samples.tobytes())
                advance(1)
        os.replace(temporary, path)
        temporary = path.with_suffix(".json.new")
        temporary.write_text(json.dumps(index), encoding="utf-8")
        os.replace(temporary, index_path)
