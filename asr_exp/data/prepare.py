"""From corpus rows to splits ready to batch: text rules, labels, decoded audio; what is left out is named,
with its reason.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.data.audio_store import SILENT, AudioStore, open_store
from asr_exp.data.corpora.base import Corpus, Rejected
from asr_exp.data.text import TextRules, chunks
from asr_exp.data.tokenizer import Tokenizer, frames_needed, sums
from asr_exp.data.utterances import PackedStrings, Utterances

log = logging.getLogger(__name__)


@dataclass
class Split:
    """The utterances of a split that can be used; their texts are those after the text rules. seconds:
    (utterances,) float64.
    """

    name: str
    utterances: Utterances
    tokenizer: Tokenizer
    seconds: np.ndarray
    rejected: list[Rejected]
    _store: AudioStore = field(repr=False)
    _rows: np.ndarray = field(repr=False)
    _named: set[int] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.utterances)

    def reference(self, index: int) -> str:
        """The transcript of an utterance as it is scored."""
        return self.tokenizer.scored(self.tokenizer.target(self.utterances.text(index)))

    def references(self, first: int) -> list[str]:
        """Those of the first so many utterances."""
        return [self.reference(index) for index in range(min(first, len(self)))]

    def labels(self, index: int) -> np.ndarray:
        """Label ids (int32) of an utterance."""
        return self.tokenizer.encode(self.tokenizer.target(self.utterances.text(index)))

    def samples(self, index: int) -> np.ndarray:
        """Audio of one utterance, int16, shape (samples,)."""
        return self.clips([index])[0]

    def clips(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Audio of several utterances; empty, and named in the log, where one of a lazy split turns out to be
        of no use.

        Raises UserError where that is so of every one.
        """
        rows = self._rows[indices]
        clips = self._store.read(rows)
        for index, row, clip in zip(indices, rows.tolist(), clips, strict=True):
            if not len(clip) and row not in self._named:
                self._named.add(row)
                log.warning("%s is left out: %s", self.utterances[index].id, self._store.late[row])
        if len(self._named) == len(self):
            raise _nothing_left(self.name, [*self.rejected, *self.late()])
        return clips

    def late(self) -> list[Rejected]:
        """Utterances of a lazy split that were found to be of no use when they were decoded, as far as is
        known.
        """
        why = self._store.late_by_now()
        return [
            Rejected(u.id, str(u.audio), why[row])
            for row, u in zip(self._rows.tolist(), self.utterances, strict=True)
            if row in why
        ]

    def filling(self) -> AbstractContextManager[None]:
        """Decode what the cache lacks, in the background, while the context lasts."""
        return self._store.filling()

    @property
    def sample_rate(self) -> int:
        """Samples a second of `samples` and `clips`."""
        return self._store.rate

    @property
    def hours(self) -> float:
        return float(self.seconds.sum()) / 3600

    @property
    def coverage(self) -> float:
        return len(self) / max(1, len(self) + len(self.rejected))

    @property
    def all_ids(self) -> str:
        """A hash of the ids of the whole split, rejected ones included: part of the protocol."""
        every = sorted(chain(self.utterances.ids(), (one.id for one in self.rejected)))
        return hashlib.blake2b("\n".join(every).encode(), digest_size=8).hexdigest()

    @property
    def audio_hash(self) -> str:
        """A hash of the recordings: what they are, at which rate, and which of them are used."""
        digest = hashlib.blake2b(self._rows.tobytes(), digest_size=8)
        for shard in self._store.shards:
            digest.update(shard.name.encode())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """A hash of what would be learned from: ids, labels and lengths. A resumed run must find the same."""
        digest = hashlib.blake2b(self.seconds.tobytes(), digest_size=8)
        for ids in chunks(self.utterances.ids()):
            digest.update("\t".join(ids).encode("utf-8", "surrogatepass"))
        for texts in chunks(self.utterances.texts()):
            labels, counts = self.tokenizer.encode_many([self.tokenizer.target(text) for text in texts])
            digest.update(labels.tobytes() + counts.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class LengthLimits:
    """What a clip must be to be used: seconds, for training and for scoring, and the frames a model makes of
    samples.
    """

    min_seconds: float
    max_seconds: float
    max_eval_seconds: float
    max_utterances: int | None
    frames: Callable[[int], int]


@dataclass(frozen=True)
class AudioSettings:
    """How the audio of a split is decoded (see `open_store`).

    cache: the folder that keeps it; rate: samples a second; workers: threads that decode (None: one a core);
    lazy: decode no more than it takes to know the lengths, and the rest when it is used.
    """

    cache: Path
    rate: int
    workers: int | None = None
    lazy: bool = False


def normalise(corpus: Corpus, rules: TextRules) -> Corpus:
    """The corpus with its transcripts after the text rules."""
    splits = {
        name: rows.with_texts(PackedStrings(rules.apply_many(rows.texts())))
        for name, rows in corpus.splits.items()
    }
    return Corpus(splits, corpus.rejected, corpus.subsets, corpus.source)


def prepare_split(
    name: str,
    corpus: Corpus,
    tokenizer: Tokenizer,
    limits: LengthLimits,
    audio: AudioSettings,
    progress: bool = False,
) -> Split:
    """Label a split of a corpus, decode its audio and leave out what cannot be used.

    Args:
        name: train, dev or test; training needs more of an utterance than scoring does.
        corpus: with texts after the text rules (see `normalise`).
        tokenizer: makes the labels.
        limits: lengths in seconds, and the frames of the model.
        audio: where decoded audio is kept, and at which rate.
        progress: whether a bar shows what is decoded.

    Returns:
        The usable utterances; `rejected` says of every other why it is left out.

    Raises:
        UserError: not one utterance can be used.
    """
    utterances = corpus.splits[name][: limits.max_utterances]
    label = f"decoding {name}" if progress else None
    store = open_store(utterances, audio.cache, audio.rate, audio.workers, label, audio.lazy)
    left_out, fit = list(corpus.rejected[name]), np.ones(len(utterances), dtype=bool)
    for row in _needs_check(name, utterances, store, tokenizer, limits):
        text = tokenizer.target(utterances.text(row))
        reason = store.reasons.get(row) or rejection_reason(
            name, int(store.lengths[row]), store.rate, text, tokenizer, limits
        )
        if not reason and name == "train" and not audio.lazy and row in store.silent:
            reason = SILENT
        if reason:
            left_out.append(Rejected(utterances[row].id, str(utterances.audio(row)), reason))
            fit[row] = False
    if not fit.any():
        raise _nothing_left(name, left_out)
    rows = np.flatnonzero(fit)
    return Split(
        name,
        utterances.take(rows),
        tokenizer,
        store.lengths[rows] / store.rate,
        left_out,
        store,
        rows.astype(np.int32),
    )


def _nothing_left(name: str, left_out: Sequence[Rejected]) -> UserError:
    first = f" The first, {left_out[0].file}: {left_out[0].reason}." if left_out else ""
    return UserError(
        f"No utterance of dataset.{name} can be used: {len(left_out)} left out.{first} Check its paths and"
        " transcripts."
    )


def _needs_check(
    name: str,
    utterances: Utterances,
    store: AudioStore,
    tokenizer: Tokenizer,
    limits: LengthLimits,
) -> list[int]:
    """The rows that have to be looked at one by one; all others are fit by far, which takes a hundredth of
    the time to see.
    """
    rate = store.rate
    grid = rate // 10
    fewest = np.array([limits.frames(n) for n in range(0, int(store.lengths.max(initial=0)) + 1, grid)])
    frames = fewest[store.lengths // grid] if len(fewest) else np.zeros(0)
    longest = rate * (limits.max_seconds if name == "train" else limits.max_eval_seconds)
    doubtful = (frames < 1) | (store.lengths < limits.min_seconds * rate) | (store.lengths > longest)
    doubtful[[*store.reasons, *store.silent]] = True
    first = 0
    for texts in chunks(utterances.texts()):
        here = slice(first, first + len(texts))
        labels, counts = tokenizer.encode_many([tokenizer.target(text) for text in texts])
        # counts a pair across two texts too: then it is looked at
        again = np.concatenate([[False], labels[1:] == labels[:-1]])
        doubtful[here] |= (counts + sums(again, counts) > frames[here]) | (
            sums(tokenizer.speech(labels), counts) == 0
        )
        first += len(texts)
    return np.flatnonzero(doubtful).tolist()


def rejection_reason(
    split: str,
    samples: int,
    rate: int,
    text: str,
    tokenizer: Tokenizer,
    limits: LengthLimits,
) -> str:
    """Why an utterance is left out of a split, or ''. Scoring keeps what training cannot use, as long as it
    can be scored.

    samples: its length at `rate`; text: its transcript after the text rules.
    """
    seconds = samples / rate
    frames = limits.frames(samples)
    training = split == "train"
    longest = limits.max_seconds if training else limits.max_eval_seconds
    if frames < 1:
        return f"too short: {seconds:.3f} s is less than one frame"
    if seconds > longest:
        return (
            f"too long: {seconds:.1f} s is more than"
            f" dataset.{'max_seconds' if training else 'max_eval_seconds'}={longest:g}"
        )
    if not text.strip():
        return "empty transcript after the text rules"
    if not training:
        return ""
    if seconds < limits.min_seconds:
        return f"too short: {seconds:.3f} s is less than dataset.min_seconds={limits.min_seconds:g}"
    labels = tokenizer.encode(text)
    if tokenizer.known(labels) == 0:
        return "no character of the transcript is in the vocabulary"
    needed = frames_needed(labels)
    if needed > frames:
        return (
            f"labels longer than frames: {needed} frames needed for {len(labels)} labels, the audio gives"
            f" {frames}"
        )
    return ""
