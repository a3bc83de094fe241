"""Audio decoded, mixed down and resampled once, to int16 shards that are memory-mapped ever after.

A shard holds consecutive utterances; its name is a hash of what they are (path, size, modification time, segment) and of
the sample rate, so an unchanged corpus is found again in a second, and a changed file makes its shard anew. A shard is a
raw `.i16` file and a `.json` index, which is renamed into place last: a shard with an index is whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from filelock import FileLock
from tqdm import tqdm

from asr_exp.data.corpora import FileAudio, TableAudio, Utterance

SHARD = 128  # utterances; small enough to spread a small corpus over the cores
VERSION = "1"  # of the shards' contents; another number makes all of them anew
TOLERANCE = 0.25  # seconds; MP3 headers promise a little more than there is
LONGEST = 3600.0  # seconds of one clip; more is a recording to be segmented first

Audio = FileAudio | TableAudio


class AudioStore:
    """Random access to the decoded audio of a list of utterances. `lengths` (samples) is 0 where `reasons` says why."""

    def __init__(self, rate: int, shards: Sequence[Path], lengths: np.ndarray, reasons: dict[int, str]):
        self.rate, self.lengths, self.reasons = rate, lengths, reasons
        self._shards = list(shards)
        self._maps: dict[int, np.ndarray] = {}
        starts = np.zeros(len(lengths), dtype=np.int64)
        for first in range(0, len(lengths), SHARD):
            inside = lengths[first : first + SHARD]
            starts[first : first + SHARD] = np.cumsum(inside) - inside
        self._starts = starts

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples of one utterance, int16, shape (length,); a view of the memory map."""
        shard = index // SHARD
        if not self.lengths[index]:  # an empty file cannot be mapped
            return np.zeros(0, dtype=np.int16)
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._shards[shard], dtype=np.int16, mode="r")
        start = self._starts[index]
        return self._maps[shard][start : start + self.lengths[index]]


def open_store(utterances: Sequence[Utterance], cache: Path, rate: int = 16000, workers: int | None = None,
               progress: str | None = None) -> AudioStore:
    """The store of these utterances; what is not in the cache yet is decoded now, in parallel.

    Several processes may ask at once: each shard is made by one of them, the others wait for it. `progress` is the label
    of a progress bar (None: no bar).
    """
    groups = _groups(utterances)
    paths = _paths(groups, cache, rate)
    missing = [(p, g) for p, g in zip(paths, groups, strict=True) if not p.with_suffix(".json").exists()]
    if missing:
        total = sum(len(g) for _, g in missing)
        with (
            tqdm(total=total, desc=progress, unit="clip", disable=None if progress else True, leave=False, dynamic_ncols=True) as bar,
            ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        ):
            list(pool.map(lambda job: _make_shard(job[0], job[1], rate, bar.update), missing))
    lengths, reasons = np.zeros(len(utterances), dtype=np.int64), {}
    for number, path in enumerate(paths):
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        lengths[number * SHARD : number * SHARD + len(index["lengths"])] = index["lengths"]
        reasons.update({number * SHARD + int(i): why for i, why in index["reasons"].items()})
    return AudioStore(rate, paths, lengths, reasons)


def undecoded(utterances: Sequence[Utterance], cache: Path, rate: int) -> list[int]:
    """Indices of the utterances that `open_store` would decode: they are not in the cache yet."""
    paths = _paths(_groups(utterances), cache, rate)
    return [i for i in range(len(utterances)) if not paths[i // SHARD].with_suffix(".json").exists()]


def _groups(utterances: Sequence[Utterance]) -> list[Sequence[Utterance]]:
    return [utterances[i : i + SHARD] for i in range(0, len(utterances), SHARD)]


def _paths(groups: Sequence[Sequence[Utterance]], cache: Path, rate: int) -> list[Path]:
    """Where the shard of each group is, or will be."""
    folder = cache / "audio" / f"{rate}"
    return [folder / name[:2] / f"{name}.i16" for name in (_shard_name(group, rate) for group in groups)]


def _shard_name(group: Sequence[Utterance], rate: int) -> str:
    digest = hashlib.blake2b(f"{VERSION} {rate}".encode(), digest_size=16)
    for utterance in group:
        try:
            identity: tuple = utterance.audio.identity()
        except OSError:
            identity = ("missing", str(utterance.audio))
        digest.update(repr(identity).encode())
    return digest.hexdigest()


def _make_shard(path: Path, group: Sequence[Utterance], rate: int, advance: Callable[[int], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    index_path = path.with_suffix(".json")
    with FileLock(path.with_suffix(".lock")):
        if index_path.exists():  # made by another process while this one waited
            advance(len(group))
            return
        lengths: list[int] = []
        reasons: dict[int, str] = {}
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            for number, utterance in enumerate(group):
                samples, reason = decode(utterance.audio, rate)
                if reason:
                    reasons[number] = reason
                lengths.append(len(samples))
                file.write(samples.tobytes())
                advance(1)
        os.replace(beside, path)
        beside_index = path.with_suffix(".json.new")
        beside_index.write_text(json.dumps({"lengths": lengths, "reasons": reasons}), encoding="utf-8")
        os.replace(beside_index, index_path)


@dataclass(frozen=True)
class Clip:
    """What a file says of a clip. frames: of the segment, at its own `rate`; reason: why it cannot be used, or ''; samples:
    (frames, channels) float32, full scale at 1, or None where they were not asked for."""

    reason: str
    rate: int = 0
    frames: int = 0
    channels: int = 0
    format: str = ""
    samples: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        return self.frames / self.rate if self.rate else 0.0


def read_clip(audio: Audio, header_only: bool = False) -> Clip:
    """A clip as its file holds it. Its header alone tells all but whether a compressed file is cut short."""
    try:
        with soundfile.SoundFile(audio.open()) as file:
            if file.frames == 0:
                return Clip("empty: the file holds no audio")
            found, promised = file.samplerate, _promised(audio, file)
            wanted = _segment(audio, file)
            about = found, wanted, file.channels, f"{file.format} {file.subtype}"
            if wanted > LONGEST * found:
                return Clip(f"{wanted / found:.0f} s long; cut it into segments first", *about)
            samples = None if header_only else file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError, TypeError) as why:
        if isinstance(audio, FileAudio) and not os.path.exists(audio.path):
            return Clip("no such file")
        return Clip(f"unreadable: {getattr(why, 'error_string', why)}")
    there = file.frames if samples is None else len(samples)
    if (samples is not None and wanted - there > TOLERANCE * found) or promised > file.frames:
        return Clip(f"truncated: {there} samples where the header promises {max(wanted, promised)}", *about)
    if samples is not None and not np.isfinite(samples).all():
        return Clip("unreadable: samples that are not finite", *about)
    return Clip("", *about, samples)


def decode(audio: Audio, rate: int) -> tuple[np.ndarray, str]:
    """One clip as int16 mono at `rate` -> (samples, reason it cannot be used, or '')."""
    clip = read_clip(audio)
    if clip.samples is None:
        return np.zeros(0, dtype=np.int16), clip.reason
    mono = clip.samples.mean(axis=1)
    if clip.rate != rate:
        mono = soxr.resample(mono, clip.rate, rate)
    return np.clip(np.rint(mono * 32768.0), -32768, 32767).astype(np.int16), ""


def _promised(audio: Audio, file: soundfile.SoundFile) -> int:
    """Samples the header speaks of, where libsndfile quietly goes by the size of the file instead (WAV, NIST SPHERE)."""
    if file.format == "NIST":
        source = audio.open()
        with open(source, "rb") if isinstance(source, str) else source as start:
            head = start.read(1024)
        count = re.search(rb"sample_count -i (\d+)", head)
        return int(count.group(1)) if count else 0
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)
    said, found = map(int, sizes.groups()) if sizes else (0, 0)
    return file.frames * said // found if found and said < 0x7FFFFFFF else 0  # a stream's header says 'as long as can be'


def _segment(audio: Audio, file: soundfile.SoundFile) -> int:
    """Move to the segment's start -> its length in the file's own samples."""
    start = round((audio.start or 0.0) * file.samplerate)
    end = file.frames if audio.end is None else round(audio.end * file.samplerate)
    if not 0 <= start < min(end, file.frames) or end > file.frames + file.samplerate // 10:
        raise ValueError(f"the segment {audio.start}-{audio.end} s lies outside the file of {file.frames / file.samplerate:.2f} s")
    if start:
        file.seek(start)
    return min(end, file.frames) - start
