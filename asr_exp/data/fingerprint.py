"""What was read of a corpus, as checksums: a run keeps them, so that data that has changed since is noticed,
and what has changed can be said.

The checksums are of what a reader gave (ids, transcripts, speakers, recordings with their sizes, segments),
not of files, so they cover every reader alike, a plugin's too. Of recordings the content is not read.
"""

import hashlib
import json
import os
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr_exp.core.console import counted
from asr_exp.core.files import read_json, write_text
from asr_exp.data.corpora.base import SPLITS, Corpus, Rejected, as_list
from asr_exp.data.utterances import FileAudio, TableAudio, Utterances

SUMMARY = "data.json"  # in a run folder: the hashes of each split, and the index files as they were
ROWS = "data.npz"  # beside it: the checksums of each utterance
ID, TEXT, REST = range(3)  # columns of the checksums
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph", ".m4a", ".aac", ".webm", ".mp4", ".i16", ".aiff")
LARGE = 20_000  # utterances; a folder with more of them is not searched for index files


@dataclass(frozen=True)
class SplitFingerprint:
    """One split. hash: of everything; references: of the ids and transcripts alone; rows: the checksums,
    (utterances, 3) uint32, or None where they are not known any more.
    """

    utterances: int
    hash: str
    references: str
    rows: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, utterances: Utterances, rejected: list[Rejected]) -> "SplitFingerprint":
        """Of the utterances of a split, and the rows that its reader rejected. The order counts in training
        alone.
        """
        rows = _checksums(utterances)
        left_out = "\n".join(sorted(one.id for one in rejected)).encode("utf-8", "surrogatepass")
        ordered = rows if name == "train" else rows[np.lexsort(rows.T)]
        references = rows[:, : TEXT + 1]
        references = references[np.lexsort(references.T)]
        return cls(len(rows), _hash(ordered.tobytes(), left_out), _hash(references.tobytes()), rows)

    @property
    def summary(self) -> dict[str, Any]:
        """As result.json has it."""
        return {"utterances": self.utterances, "hash": self.hash, "references": self.references}


@dataclass(frozen=True)
class DataFingerprint:
    """The splits that were read, by name; source: local, hub or generated; files: the size and modification
    time (ns) of the folders and index files of a local corpus, by path.
    """

    splits: Mapping[str, SplitFingerprint]
    source: str = "local"
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Any, corpus: Corpus, only: str | None = None) -> "DataFingerprint":
        """Of a corpus as it was read, before the text rules. dataset: the section of the config; only: the
        one split to take.
        """
        splits = {
            name: SplitFingerprint.of(name, rows[: dataset.max_utterances], corpus.rejected.get(name, []))
            for name, rows in corpus.splits.items()
            if only in (None, name)
        }
        generated = dataset.reader in ("demo", "voices")
        source = "generated" if generated else corpus.source
        files = _stats(_index_files(dataset, corpus)) if source == "local" else {}
        return cls(splits, source, files)

    @property
    def summary(self) -> dict[str, Any]:
        """The section `data` of result.json."""
        return {name: split.summary for name, split in self.splits.items()}

    def untouched(self) -> bool:
        """Whether no index file and no folder has another size or time than when the corpus was read."""
        return bool(self.files) and self.files_now() == self.files

    def files_now(self) -> dict[str, tuple[int, int]]:
        """The sizes and times of the same folders and index files now; those that are gone are missing."""
        return _stats(self.files)

    # ------------------------------------------------------------------------------------------------------
    # in a run folder

    def save(self, folder: Path) -> None:
        """Keep it in a run folder, beside what is known there of other splits."""
        before = self.load(folder)
        splits = {**(before.splits if before else {}), **self.splits}
        rows = {name: one.rows for name, one in splits.items() if one.rows is not None}
        beside = folder / f"{ROWS}.new"
        with beside.open("wb") as file:
            np.savez(file, **rows)  # type: ignore[arg-type]
        beside.replace(folder / ROWS)
        summary = {name: one.summary for name, one in splits.items()}
        files = {**(before.files if before else {}), **self.files}
        content = {"splits": summary, "source": self.source, "files": files}
        write_text(folder / SUMMARY, json.dumps(content, ensure_ascii=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "DataFingerprint | None":
        """What a run folder says of its data; None where it says nothing, as older runs do."""
        content = read_json(folder / SUMMARY)
        try:
            splits = {name: SplitFingerprint(**one) for name, one in content["splits"].items()}  # type: ignore[index]
            files = {path: (int(size), int(time)) for path, (size, time) in content["files"].items()}  # type: ignore[index]
            source = str(content["source"])  # type: ignore[index]
        except (TypeError, KeyError, ValueError, AttributeError):
            return None
        return cls({name: one for name, one in _with_rows(folder, splits)}, source, files)

    # ------------------------------------------------------------------------------------------------------
    # what has changed

    def changes(self, now: "DataFingerprint") -> dict[str, str]:
        """What has changed of each split, in words: {'test': '3 of 24 transcripts differ'}."""
        return {
            name: _difference(self.splits[name], now.splits[name])
            for name in SPLITS
            if name in self.splits and name in now.splits and self.splits[name] != now.splits[name]
        }


def in_words(changes: Mapping[str, str]) -> str:
    """'train: 3 of 100 transcripts differ; test: 1 utterance is new'."""
    return "; ".join(f"{name}: {text}" for name, text in changes.items())


def _checksums(utterances: Utterances) -> np.ndarray:
    """Of the id; the transcript; the speaker, recording and segment of each utterance: (utterances, 3)."""
    sums = array("I")
    audios = map(utterances.audio, range(len(utterances)))
    for id, text, speaker, audio in zip(
        utterances.ids(), utterances.texts(), utterances.speakers(), audios, strict=True
    ):
        sums.extend((_crc(id), _crc(text), _crc(f"{speaker}\t{_recording(audio)}")))
    return np.array(sums, np.uint32).reshape(-1, 3)


def _recording(audio: Any) -> str:
    """A recording in words that are the same wherever the corpus lies: the end of its path, its size, its
    segment. A plugin's own kind of audio is not looked at.
    """
    if isinstance(audio, TableAudio):
        return f"{audio.row}\t{audio.start}\t{audio.end}"
    if not isinstance(audio, FileAudio):
        return ""
    try:
        size = os.stat(audio.path).st_size
    except (OSError, ValueError):
        size = -1
    end = audio.path[audio.path.rfind("/", 0, max(0, audio.path.rfind("/"))) + 1 :]
    return f"{end}\t{size}\t{audio.start}\t{audio.end}"


def _crc(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def _hash(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()


def _with_rows(
    folder: Path, splits: Mapping[str, SplitFingerprint]
) -> Iterator[tuple[str, SplitFingerprint]]:
    """The splits with the checksums of their utterances, where those are whole."""
    try:
        with np.load(folder / ROWS, allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
    except Exception:  # a zip file may be torn in many ways
        rows = {}
    for name, one in splits.items():
        known = rows.get(name)
        whole = known is not None and known.shape == (one.utterances, 3)
        yield name, SplitFingerprint(one.utterances, one.hash, one.references, known if whole else None)


def _difference(before: SplitFingerprint, now: SplitFingerprint) -> str:
    """What has changed of one split, in words."""
    if before.rows is None or now.rows is None:
        what = "its transcripts" if before.references != now.references else "recordings or speakers"
        return f"{what} differ ({before.utterances:,} utterances before, {now.utterances:,} now)"
    old = {int(row[ID]): row for row in before.rows}
    new = {int(row[ID]): row for row in now.rows}
    both = [(old[id], row) for id, row in new.items() if id in old]
    texts = sum(int(a[TEXT] != b[TEXT]) for a, b in both)
    others = sum(int(a[REST] != b[REST]) for a, b in both)
    parts = [f"{texts:,} of {counted(len(old), 'transcript')} differ{'s' * (texts == 1)}"] * (texts > 0)
    parts += [f"the recording, segment or speaker of {counted(others, 'utterance')} differs"] * (others > 0)
    added, gone = len(new.keys() - old.keys()), len(old.keys() - new.keys())
    parts += [f"{counted(added, 'utterance')} {'is' if added == 1 else 'are'} new"] if added else []
    parts += [f"{counted(gone, 'utterance')} {'is' if gone == 1 else 'are'} gone"] if gone else []
    return ", ".join(parts) or "its rows are in another order, or other rows are rejected"


# ------------------------------------------------------------------------------------------------------------
# the index files of a local corpus


def _index_files(dataset: Any, corpus: Corpus) -> Iterator[str]:
    """The folders that hold a corpus's recordings, those above them up to its root, and every file in them
    that is no recording: transcripts, tables, lists of speakers. Manifests and corrections too.
    """
    for key in (*SPLITS, "corrections"):
        for path in as_list(dataset[key]):
            if os.path.isfile(full := os.path.abspath(os.path.expanduser(path))):
                yield full
    sizes = Counter(
        audio.path[: audio.path.rfind("/") + 1]
        for rows in corpus.splits.values()
        for audio in map(rows.audio, range(len(rows)))
        if isinstance(audio, FileAudio)
    )
    folders = Counter({os.path.abspath(folder): size for folder, size in sizes.items()})
    if dataset.root and dataset.reader != "manifest":
        root = os.path.realpath(os.path.expanduser(str(dataset.root)))
        for folder in [one for one in folders if one.startswith(root + os.sep)]:
            while len(folder) > len(root):
                folder = os.path.dirname(folder)
                folders[folder] += 0
    for folder, size in folders.items():
        yield folder
        if size <= LARGE and dataset.reader != "manifest":
            yield from _others_in(folder)


def _others_in(folder: str) -> Iterator[str]:
    """The files of a folder that are no recordings."""
    try:
        with os.scandir(folder) as entries:
            names = [one.path for one in entries if not one.is_dir()]
    except OSError:
        return
    yield from (name for name in names if not name.lower().endswith(AUDIO))


def _stats(paths: Any) -> dict[str, tuple[int, int]]:
    """The size and time of each path; a folder's size does not count, nor does a path that is not there."""
    stats = {}
    for path in paths:
        try:
            one = os.stat(path)
        except (OSError, ValueError):
            continue
        stats[str(path)] = (0 if os.path.isdir(path) else one.st_size, one.st_mtime_ns)
    return stats
