"""Decode, mix down and resample audio once, and keep it on the disk in shards (see `audio_shards`).

A shard that is damaged on the disk is made again from its recordings. A lazy store takes lengths from
headers, where headers give them exactly, and decodes an utterance when it is read. Its lengths and reasons do
not depend on what is in the cache: a file that only decoding shows to be broken keeps its length, has no
samples, and is named in `decode_failures`, on the first run as on any other.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asr_exp.core.errors import UserError
from asr_exp.core.locks import Timeout
from asr_exp.data.audio import decode
from asr_exp.data.audio_shards import (
    SHARD,
    DamagedShard,
    Index,
    group_of,
    index_of_headers,
    make_shard,
    read_index,
    read_samples,
    shard_path,
    stored_lengths,
)
from asr_exp.data.corpora import Utterance
from asr_exp.runtime.cores import usable_cores

log = logging.getLogger(__name__)
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
        self._sums = np.zeros(len(utterances), dtype=np.uint32)  # checksums of these samples
        self._complete = np.zeros(len(shards), dtype=bool)  # shards that are on the disk
        self._mending = threading.Lock()
        self.damaged: set[int] = set()  # shards that were found so when their index was loaded
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
        with suppress(DamagedShard):
            return self._read(index)
        with self._mending:  # another thread may have found the damage first
            with suppress(DamagedShard):
                return self._read(index)
            if not self._mend(shard):
                return self._decode(index)
        return self._read(index)

    def _read(self, index: int) -> np.ndarray:
        """Samples of one utterance from its shard. Raises DamagedShard."""
        first = index // SHARD * SHARD
        start = int(self._stored[first:index].sum(dtype=np.int64))
        return read_samples(
            self.shards[index // SHARD], start, int(self._stored[index]), int(self._sums[index])
        )

    def _mend(self, shard: int) -> bool:
        """Make a damaged shard again from its recordings; False where it cannot be written. Raises UserError
        where the recordings are not what they were.
        """
        path, group = self.shards[shard], group_of(self._utterances, shard)
        log.warning("%s is damaged: its %d recordings are decoded again.", path, len(group))
        try:
            make_shard(path, group, self.rate, lambda done: None)
            index = read_index(path, len(group))
        except (OSError, DamagedShard) as why:
            log.warning("%s cannot be written again: %s", path, why)
            return False
        rows = slice(shard * SHARD, shard * SHARD + len(group))
        if not index or stored_lengths(index) != self._stored[rows].tolist():
            raise UserError(
                f"{path} was damaged, and its recordings have another length now than when this command"
                " began; give it again."
            )
        self.apply_index(shard, index)
        return True

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
        """Load the index of a shard; False where the shard is not on the disk yet, or damaged there."""
        try:
            index = read_index(self.shards[shard], len(group_of(self._utterances, shard)))
        except DamagedShard:
            self.damaged.add(shard)
            return False
        if index:
            self.apply_index(shard, index)
            self._complete[shard] = True
        return bool(index)

    def apply_index(self, shard: int, index: Index) -> None:
        """Apply the index of a shard (see `make_shard`). `late` are reasons that only decoding showed."""
        first = shard * SHARD
        rows = slice(first, first + len(index["lengths"]))
        reasons = {first + int(i): reason for i, reason in index["reasons"].items()}
        failures = {first + int(i): reason for i, reason in index["late"].items()}
        self.lengths[rows] = index["lengths"]
        self._stored[rows] = stored_lengths(index)  # in one go: another thread may be reading
        self._sums[rows] = index["sums"]
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
                # Timeout: another process makes it. Else it is not written, but decoded when it is read.
                with suppress(Timeout, OSError, UserError):
                    make_shard(
                        self.shards[shard],
                        group_of(self._utterances, shard),
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
        numbers = range(-(-len(utterances) // SHARD))
        shards = list(pool.map(lambda n: shard_path(group_of(utterances, n), cache, rate), numbers))
        store = AudioStore(utterances, shards, rate, lazy, workers)
        missing = [n for n in range(len(shards)) if not store.load_index(n)]
        if store.damaged:
            log.warning(
                "%d of %d files of decoded audio are damaged, such as %s: what is in them is decoded again.",
                len(store.damaged),
                len(shards),
                shards[min(store.damaged)],
            )
        total = sum(len(group_of(utterances, n)) for n in missing)
        silent = None if progress else True  # None: silent where there is no terminal
        with tqdm(
            total=total, desc=progress, unit="clip", disable=silent, leave=False, dynamic_ncols=True
        ) as bar:

            def make(shard: int) -> None:
                group = group_of(utterances, shard)
                index = index_of_headers(group, rate) if lazy else None
                if index:
                    store.apply_index(shard, index)
                    bar.update(len(group))
                else:
                    make_shard(shards[shard], group, rate, bar.update)
                    store.load_index(shard)

            list(pool.map(make, missing))
    return store


def undecoded(utterances: Sequence[Utterance], cache: Path, rate: int) -> list[int]:
    """Indices of the utterances that `open_store` would decode: those that are not in the cache yet."""
    cached = set()
    for shard in range(-(-len(utterances) // SHARD)):
        group = group_of(utterances, shard)
        with suppress(DamagedShard):
            if read_index(shard_path(group, cache, rate), len(group)):
                cached.add(shard)
    return [i for i in range(len(utterances)) if i // SHARD not in cached]
