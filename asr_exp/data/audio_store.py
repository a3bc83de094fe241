"""Audio decoded, mixed down and resampled once, to int16 shards on the disk.

A shard holds consecutive utterances; its name is a hash of what they are (path, size, modification time,
segment) and of the sample rate, so an unchanged corpus is found again in a second, and a changed file makes
its shard anew. A shard is a raw `.i16` file and a `.json` index, which is renamed into place last: a shard
with an index is whole.

A lazy store goes by headers, where they tell lengths exactly, and decodes what is asked for. What it says of
lengths and reasons does not depend on what is in the cache: a file that turns out broken only when it is
decoded keeps its length, gives no samples, and is named in `late`, on the first run as on any other.
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

from asr_exp.data.audio import decode, read_clip
from asr_exp.data.corpora import Utterance

SHARD = 128  # utterances; small enough to spread a small corpus over the cores
VERSION = "2"  # of the shards' contents; another number makes all of them anew
SILENT = "silent: every sample is zero"


class AudioStore:
    """Random access to the decoded audio of a list of utterances, from a file that is read piece by piece:
    memory stays flat.

    lengths: samples of each, 0 where `reasons` says why; late: why an utterance of a lazy store gives no
    samples all the same, as far as is known; silent: those whose samples are all zero, as far as is known.
    """

    def __init__(
        self, utterances: Sequence[Utterance], shards: Sequence[Path], rate: int, lazy: bool, workers: int
    ):
        self.rate, self.lazy = rate, lazy
        self.lengths = np.zeros(len(utterances), dtype=np.int32)
        self.reasons: dict[int, str] = {}
        self.late: dict[int, str] = {}
        self.silent: set[int] = set()
        self.shards = list(shards)
        self._utterances = utterances
        self._workers = workers
        self._held = np.zeros(len(utterances), dtype=np.int32)  # samples that the shard has of each
        self._made = np.zeros(len(shards), dtype=bool)
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples of one utterance, int16, shape (length,)."""
        shard = index // SHARD
        # first of all: it may tell that the utterance is of no use
        made = self._made[shard] or self.look(shard)
        if not self.lengths[index] or index in self.late:
            return np.zeros(0, dtype=np.int16)
        if not made:
            return self._decoded(index)
        if not self._held[index]:
            return np.zeros(0, dtype=np.int16)
        start = self._held[shard * SHARD : index].sum(dtype=np.int64)
        return np.fromfile(self.shards[shard], np.int16, self._held[index], offset=2 * int(start))

    def read(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Samples of several utterances; those that have to be decoded are, side by side."""
        if self._made.all():
            return [self[int(i)] for i in indices]
        self._pool = self._pool or ThreadPoolExecutor(self._workers)
        return list(self._pool.map(lambda i: self[int(i)], indices))

    def late_by_now(self) -> dict[int, str]:
        """`late`, with what the shards that have been made since then say."""
        for shard in np.flatnonzero(~self._made).tolist():
            self.look(shard)
        return self.late

    def look(self, shard: int) -> bool:
        """Whether a shard is there; what its index says is known from then on."""
        try:
            index = json.loads(self.shards[shard].with_suffix(".json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        self.take(shard, index)
        self._made[shard] = True
        return True

    def take(self, shard: int, index: dict[str, Any]) -> None:
        """Take over what the index of a shard says: {lengths, reasons, late, silent}, by the number of the
        utterance in the shard.
        """
        first = shard * SHARD
        here = slice(first, first + len(index["lengths"]))
        reasons, late = (
            {first + int(i): why for i, why in index[kind].items()} for kind in ("reasons", "late")
        )
        held = np.array(index["lengths"], dtype=np.int32)
        self.lengths[here] = held
        held[[i - first for i in late]] = 0
        self._held[here] = held  # in one go: another thread may be reading
        silent = [first + i for i in index["silent"]]
        if self.lazy:
            late |= dict.fromkeys(silent, SILENT)
        else:
            reasons |= late
            self.lengths[list(late)] = 0
            late = {}
        self.reasons |= reasons
        self.late |= late
        self.silent.update(silent)

    def _decoded(self, index: int) -> np.ndarray:
        """An utterance of a shard that is not there yet."""
        clip = decode(self._utterances[index].audio, self.rate)
        why = clip.reason or (SILENT if clip.samples is not None and not clip.samples.any() else "")
        if why or clip.samples is None:
            self.late[index] = why
            return np.zeros(0, dtype=np.int16)
        return clip.samples

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Make the shards that are missing, in the background and in the order of the utterances, while the
        context lasts.
        """
        shards = np.flatnonzero(~self._made).tolist()
        missing = iter(shards)
        turn = threading.Lock()
        over = threading.Event()

        def work() -> None:
            # on Linux a thread has a niceness of its own: training goes first
            with suppress(AttributeError, OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            while not over.is_set():
                with turn:
                    shard = next(missing, None)
                if shard is None:
                    return
                # another process is at it; what cannot be kept is decoded when it is asked for
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
            for thread in threads:  # none works on while Python ends; each brings its shard to an end
                thread.join()


def open_store(
    utterances: Sequence[Utterance],
    cache: Path,
    rate: int = 16000,
    workers: int | None = None,
    progress: str | None = None,
    lazy: bool = False,
) -> AudioStore:
    """The store of these utterances; what is not in the cache yet is decoded now, in parallel.

    Several processes may ask at once: each shard is made by one of them, the others wait for it. `progress`
    is the label of a progress bar (None: no bar). lazy: shards of which headers tell all lengths are not
    made, only looked at.
    """
    workers = workers or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    with ThreadPoolExecutor(workers) as pool:
        shards = list(
            pool.map(lambda n: _path(_group(utterances, n), cache, rate), range(-(-len(utterances) // SHARD)))
        )
        store = AudioStore(utterances, shards, rate, lazy, workers)
        missing = [n for n in range(len(shards)) if not store.look(n)]
        total = sum(len(_group(utterances, n)) for n in missing)
        with tqdm(
            total=total,
            desc=progress,
            unit="clip",
            disable=None if progress else True,
            leave=False,
            dynamic_ncols=True,
        ) as bar:

            def get(shard: int) -> None:
                group = _group(utterances, shard)
                index = _headers(group, rate) if lazy else None
                if index:
                    store.take(shard, index)
                    bar.update(len(group))
                else:
                    _make_shard(shards[shard], group, rate, bar.update)
                    store.look(shard)

            list(pool.map(get, missing))
    return store


def undecoded(utterances: Sequence[Utterance], cache: Path, rate: int) -> list[int]:
    """Indices of the utterances that `open_store` would decode: they are not in the cache yet."""
    shards = [
        _path(_group(utterances, n), cache, rate).with_suffix(".json").exists()
        for n in range(-(-len(utterances) // SHARD))
    ]
    return [i for i in range(len(utterances)) if not shards[i // SHARD]]


def _group(utterances: Sequence[Utterance], shard: int) -> Sequence[Utterance]:
    return utterances[shard * SHARD : (shard + 1) * SHARD]


def _path(group: Sequence[Utterance], cache: Path, rate: int) -> Path:
    """Where the shard of these utterances is, or will be."""
    digest = hashlib.blake2b(f"{VERSION} {rate}".encode(), digest_size=16)
    for utterance in group:
        try:
            identity: tuple = utterance.audio.identity()
        except OSError:
            identity = ("missing", str(utterance.audio))
        digest.update(repr(identity).encode())
    name = digest.hexdigest()
    return cache / "audio" / f"{rate}" / name[:2] / f"{name}.i16"


def _headers(group: Sequence[Utterance], rate: int) -> dict[str, Any] | None:
    """What will be the index of a shard as far as headers tell, or None where they do not tell every
    length.
    """
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
    """Decode a shard, unless it is there. Raises Timeout where another process is at it and is not to be
    waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    index_path = path.with_suffix(".json")
    with FileLock(path.with_suffix(".lock"), timeout=-1 if wait else 0):
        if index_path.exists():  # made by another process while this one waited
            advance(len(group))
            return
        index: dict[str, Any] = {"lengths": [], "reasons": {}, "late": {}, "silent": []}
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            for number, utterance in enumerate(group):
                clip = decode(utterance.audio, rate)
                samples = np.zeros(0, dtype=np.int16) if clip.samples is None else clip.samples
                late = clip.late and clip.exact
                index["lengths"].append(clip.length(rate) if late else len(samples))
                if clip.reason:
                    index["late" if late else "reasons"][number] = clip.reason
                elif not samples.any():
                    index["silent"].append(number)
                file.write(samples.tobytes())
                advance(1)
        os.replace(beside, path)
        beside_index = path.with_suffix(".json.new")
        beside_index.write_text(json.dumps(index), encoding="utf-8")
        os.replace(beside_index, index_path)
