"""Shards of decoded audio on the disk: int16 samples of consecutive utterances, made of their recordings.

A shard is a raw `.i16` file and a `.json` index, each flushed to the disk before it is renamed into place,
the index last. Its name is a hash of the recordings (path, size, modification time, segment) and of the
sample rate: the shards of an unchanged corpus are found again in a second, and that of a changed file is made
anew. The index has a checksum of itself and one of the samples of each utterance, so that damage is found:
that of the index and of the file's size when a shard is opened, that of samples when they are read.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.core.files import read_sealed_json, replacing, write_sealed_json
from asr_exp.core.locks import FileLock
from asr_exp.data.audio import can_be_read_now, decode, read_clip
from asr_exp.data.corpora import Utterance

SHARD = 128  # utterances; small enough to spread a small corpus over the cores
VERSION = "3"  # of the contents of shards; with another number all are made anew

Group = Sequence[Utterance]  # the utterances of a shard
Index = dict[str, Any]  # lengths, reasons, late, silent, sums (see `make_shard`)


class DamagedShard(Exception):
    """A shard on the disk is not as it was written."""


def group_of(utterances: Sequence[Utterance], shard: int) -> Group:
    """The utterances of a shard, by its number."""
    return utterances[shard * SHARD : (shard + 1) * SHARD]


def shard_name(group: Group, rate: int) -> str:
    """The name of the shard of these utterances, whether it is on the disk yet or not."""
    digest = hashlib.blake2b(f"{VERSION} {rate}".encode(), digest_size=16)
    for utterance in group:
        try:
            identity: tuple = utterance.audio.identity()
        except OSError:
            identity = ("missing", str(utterance.audio))
        digest.update(repr(identity).encode())
    return digest.hexdigest()


def shard_path(group: Group, cache: Path, rate: int) -> Path:
    """The `.i16` file of the shard of these utterances."""
    name = shard_name(group, rate)
    return cache / "audio" / f"{rate}" / name[:2] / f"{name}.i16"


def read_index(path: Path, utterances: int) -> Index | None:
    """The index of a shard, of which the samples are not read; None where the shard is not on the disk, or
    where more of it can be read now.

    Raises DamagedShard where the index is not whole, or the file of samples has another size than it says.
    """
    index_path = path.with_suffix(".json")
    if not index_path.exists():
        return None
    index = read_sealed_json(index_path)
    if index is None or len(index["lengths"]) != utterances:
        raise DamagedShard(index_path)
    try:
        size = path.stat().st_size
    except OSError:
        raise DamagedShard(path) from None
    if size != 2 * sum(stored_lengths(index)):
        raise DamagedShard(path)
    return None if can_be_read_now(index["reasons"]) else index


def stored_lengths(index: Index) -> list[int]:
    """The number of samples of each utterance in the file; 0 where decoding showed it to be broken."""
    return [0 if str(number) in index["late"] else length for number, length in enumerate(index["lengths"])]


def read_samples(path: Path, start: int, count: int, checksum: int) -> np.ndarray:
    """Samples of one utterance, int16, (count,), from number `start` of the file on. Raises DamagedShard."""
    try:
        samples = np.fromfile(path, np.int16, count, offset=2 * start)
    except OSError:
        raise DamagedShard(path) from None
    if len(samples) != count or zlib.crc32(samples.data) != checksum:
        raise DamagedShard(path)
    return samples


def is_whole(path: Path, utterances: int) -> bool:
    """Whether a shard is on the disk as it was written, its samples included."""
    try:
        index = read_index(path, utterances)
        if index is None:
            return False
        start = 0
        for count, checksum in zip(stored_lengths(index), index["sums"], strict=True):
            read_samples(path, start, count, checksum)
            start += count
    except DamagedShard:
        return False
    return True


def index_of_headers(group: Group, rate: int) -> Index | None:
    """The index of a shard as far as headers give it; None where they do not give every length exactly."""
    clips = [read_clip(utterance.audio, header_only=True) for utterance in group]
    if not all(clip.reason or clip.exact for clip in clips):
        return None
    return {
        "lengths": [0 if clip.reason else clip.length(rate) for clip in clips],
        "reasons": {str(i): clip.reason for i, clip in enumerate(clips) if clip.reason},
        "late": {},
        "silent": [],
        "sums": [0] * len(clips),
    }


def make_shard(
    path: Path, group: Group, rate: int, advance: Callable[[int], object], wait: bool = True
) -> None:
    """Decode the utterances of a shard and write it, unless it is whole on the disk.

    The index has, by the number of the utterance in the shard: `lengths` and checksums (`sums`, CRC-32) of
    the samples; `reasons` why one has no audio; `late`, reasons that only decoding showed; `silent`, those
    whose samples are all zero.

    Args:
        path: of the shard.
        group: its utterances.
        rate: samples a second.
        advance: called with the number of utterances that are done.
        wait: whether to wait for another process that makes the shard.

    Raises:
        Timeout: another process makes it, and `wait` is false.
        UserError: the recordings are no longer those that gave the shard its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=-1 if wait else 0):
        if is_whole(path, len(group)):  # made by another process while this one waited
            advance(len(group))
            return
        index: Index = {"lengths": [], "reasons": {}, "late": {}, "silent": [], "sums": []}
        with replacing(path) as file:
            for number, utterance in enumerate(group):
                clip = decode(utterance.audio, rate)
                samples = np.zeros(0, dtype=np.int16) if clip.samples is None else clip.samples
                late = clip.decode_failure and clip.exact  # a lazy store knows its length by the header
                index["lengths"].append(clip.length(rate) if late else len(samples))
                index["sums"].append(zlib.crc32(samples.data))
                if clip.reason:
                    index["late" if late else "reasons"][str(number)] = clip.reason
                elif not samples.any():
                    index["silent"].append(number)
                file.write(samples.data)
                advance(1)
            if shard_name(group, rate) != path.stem:
                raise UserError(
                    f"{path} is missing or damaged, and of its {len(group)} recordings, from"
                    f" {group[0].audio} on, some have changed or gone since this command began; bring them"
                    " back, and give it again."
                )
        write_sealed_json(path.with_suffix(".json"), index)
