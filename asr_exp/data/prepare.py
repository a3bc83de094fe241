"""From corpus rows to splits ready to batch: text rules, labels, decoded audio; what is left out is named, with its reason."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr_exp.data.batching import frames_needed
from asr_exp.data.corpora.base import Corpus, Rejected, Utterance
from asr_exp.data.store import SILENT, AudioStore, open_store
from asr_exp.data.text import TextRules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class Split:
    """The utterances of a split that can be used. Row i of every member is the same utterance.

    references: transcripts after the text rules, as scored; labels: label ids (int32); seconds: (utterances,) float64.
    """

    name: str
    utterances: list[Utterance]
    references: list[str]
    labels: list[np.ndarray]
    seconds: np.ndarray
    rejected: list[Rejected]
    all_ids: str  # hash of the ids of the whole split, rejected ones included: part of the protocol
    _store: AudioStore = field(repr=False)
    _rows: np.ndarray = field(repr=False)
    _named: set[int] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> np.ndarray:
        """Audio of one utterance, int16, shape (samples,)."""
        return self.clips([index])[0]

    def clips(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Audio of several utterances; empty, and named in the log, where one of a lazy split turns out to be of no use."""
        rows = self._rows[indices]
        clips = self._store.read(rows)
        for index, row, clip in zip(indices, rows.tolist(), clips, strict=True):
            if not len(clip) and row not in self._named:
                self._named.add(row)
                log.warning("%s is left out: %s", self.utterances[index].id, self._store.late[row])
        return clips

    def late(self) -> list[Rejected]:
        """Utterances of a lazy split that were found to be of no use when they were decoded, as far as is known."""
        why = self._store.late_by_now()
        return [Rejected(u.id, str(u.audio), why[row]) for row, u in zip(self._rows.tolist(), self.utterances, strict=True) if row in why]

    def filling(self) -> AbstractContextManager[None]:
        """Decode what the cache lacks, in the background, while the context lasts."""
        return self._store.filling()

    @property
    def hours(self) -> float:
        return float(self.seconds.sum()) / 3600

    @property
    def coverage(self) -> float:
        return len(self) / max(1, len(self) + len(self.rejected))

    def fingerprint(self) -> str:
        """A hash of what would be learned from: ids, labels and lengths. A resumed run must find the same."""
        digest = hashlib.blake2b(digest_size=8)
        for utterance, labels, seconds in zip(self.utterances, self.labels, self.seconds, strict=True):
            digest.update(f"{utterance.id}\t{seconds}\t".encode() + labels.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Limits:
    """What a clip must be to be used: seconds, for training and for scoring, and the frames a model makes of samples."""

    min_seconds: float
    max_seconds: float
    max_eval_seconds: float
    max_utterances: int | None
    frames: Callable[[int], int]


def normalise(corpus: Corpus, rules: TextRules) -> dict[str, list[str]]:
    """The transcripts of each split after the text rules."""
    return {name: rules.apply_many([u.text for u in rows]) for name, rows in corpus.splits.items()}


def prepare_split(name: str, utterances: Sequence[Utterance], texts: Sequence[str], rejected: Sequence[Rejected], tokenizer: Tokenizer,
                  cache: Path, rate: int, limits: Limits, workers: int | None = None, progress: bool = False, lazy: bool = False) -> Split:
    """Label a split and decode it. Raises UserError where not one of its utterances can be used.

    lazy: decode no more than the lengths take; see `AudioStore`.
    """
    if limits.max_utterances:
        utterances, texts = utterances[: limits.max_utterances], texts[: limits.max_utterances]
    texts = [tokenizer.target(text) for text in texts]
    store = open_store(utterances, cache, rate, workers, f"decoding {name}" if progress else None, lazy)
    labels = [tokenizer.encode(text) for text in texts]
    left_out, keep = list(rejected), []
    for row, utterance in enumerate(utterances):
        reason = store.reasons.get(row) or unfit(name, int(store.lengths[row]), rate, texts[row], labels[row], tokenizer, limits)
        if not reason and name == "train" and not lazy and row in store.silent:
            reason = SILENT
        if reason:
            left_out.append(Rejected(utterance.id, str(utterance.audio), reason))
        else:
            keep.append(row)
    if not keep:
        first = f" The first, {left_out[0].file}: {left_out[0].reason}." if left_out else ""
        raise UserError(f"No utterance of dataset.{name} can be used: {len(left_out)} left out.{first} Check its paths and transcripts.")
    rows = np.array(keep, dtype=np.int64)
    every = sorted([u.id for u in utterances] + [r.id for r in rejected])
    ids = hashlib.blake2b("\n".join(every).encode(), digest_size=8).hexdigest()
    return Split(name, [utterances[i] for i in keep], [tokenizer.scored(texts[i]) for i in keep], [labels[i] for i in keep],
                 store.lengths[rows] / rate, left_out, ids, store, rows)


def unfit(split: str, samples: int, rate: int, text: str, labels: np.ndarray, tokenizer: Tokenizer, limits: Limits) -> str:
    """Why an utterance is left out of a split, or ''. Scoring keeps what training cannot use, as long as it can be scored.

    samples: its length at `rate`; text: its transcript after the text rules.
    """
    seconds, frames, training = samples / rate, limits.frames(samples), split == "train"
    longest = limits.max_seconds if training else limits.max_eval_seconds
    if frames < 1:
        return f"too short: {seconds:.3f} s is less than one frame"
    if seconds > longest:
        return f"too long: {seconds:.1f} s is more than dataset.{'max_seconds' if training else 'max_eval_seconds'}={longest:g}"
    if not text.strip():
        return "empty transcript after the text rules"
    if not training:
        return ""
    if seconds < limits.min_seconds:
        return f"too short: {seconds:.3f} s is less than dataset.min_seconds={limits.min_seconds:g}"
    if tokenizer.known(labels) == 0:
        return "no character of the transcript is in the vocabulary"
    needed = frames_needed(labels)
    if needed > frames:
        return f"labels longer than frames: {needed} frames needed for {len(labels)} labels, the audio gives {frames}"
    return ""
