"""Make splits that can be batched out of the rows of a corpus: text rules, labels, decoded audio. Each
utterance that is left out is named, with the reason.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.data.audio_store import SILENT, AudioStore, open_store
from asr_exp.data.columns import PackedStrings
from asr_exp.data.corpora.base import Corpus, Rejected
from asr_exp.data.filtering import LengthLimits, needs_check, rejection_reason
from asr_exp.data.formats.ffmpeg import MISSING as FFMPEG_MISSING
from asr_exp.data.text import TextRules, chunks
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.utterances import Utterances

log = logging.getLogger(__name__)


@dataclass
class Split:
    """The usable utterances of a split.

    utterances: with texts after the text rules; seconds: of audio, (utterances,) float64; rejected: the
    utterances that are left out.
    """

    name: str
    utterances: Utterances
    tokenizer: Tokenizer
    seconds: np.ndarray
    rejected: list[Rejected]
    _store: AudioStore = field(repr=False)
    _rows: np.ndarray = field(repr=False)
    _warned_of: set[int] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.utterances)

    def reference(self, index: int) -> str:
        """The transcript of an utterance as it is scored."""
        return self.tokenizer.scored(self.tokenizer.target(self.utterances.text(index)))

    def original_reference(self, index: int) -> str:
        """The transcript of an utterance as the corpus has it, before the text rules."""
        return self.utterances.original_text(index)

    def references(self, first: int) -> list[str]:
        """The references of the first utterances. first: how many."""
        return [self.reference(index) for index in range(min(first, len(self)))]

    def labels(self, index: int) -> np.ndarray:
        """Label ids of an utterance, int32, shape (labels,)."""
        return self.tokenizer.encode(self.tokenizer.target(self.utterances.text(index)))

    def samples(self, index: int) -> np.ndarray:
        """Audio of one utterance, int16, shape (samples,)."""
        return self.clips([index])[0]

    def clips(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Audio of several utterances, each int16, shape (samples,).

        A clip of a lazy split that cannot be decoded is empty, and the log names it once. Raises UserError
        where that has happened to every utterance of the split.
        """
        rows = self._rows[indices]
        clips = self._store.read(rows)
        for index, row, clip in zip(indices, rows.tolist(), clips, strict=True):
            if not len(clip) and row not in self._warned_of:
                self._warned_of.add(row)
                reason = self._store.decode_failures[row]
                log.warning("%s is left out: %s", self.utterances[index].id, reason)
        if len(self._warned_of) == len(self):
            raise _nothing_left(self.name, [*self.rejected, *self.decode_failures()])
        return clips

    def decode_failures(self) -> list[Rejected]:
        """The utterances of a lazy split that decoding showed to be unusable, as far as is known."""
        reasons = self._store.refresh_decode_failures()
        return [
            Rejected(utterance.id, str(utterance.audio), reasons[row])
            for row, utterance in zip(self._rows.tolist(), self.utterances, strict=True)
            if row in reasons
        ]

    def decoding_in_background(self) -> AbstractContextManager[None]:
        """Decode what the cache lacks, in background threads, while the context lasts."""
        return self._store.decoding_in_background()

    @property
    def sample_rate(self) -> int:
        """Samples a second of `samples` and `clips`."""
        return self._store.rate

    @property
    def hours(self) -> float:
        return float(self.seconds.sum()) / 3600

    @property
    def coverage(self) -> float:
        """The share of the utterances that is usable."""
        return len(self) / max(1, len(self) + len(self.rejected))

    @property
    def all_ids(self) -> str:
        """A hash of the ids of the whole split, rejected ones included: part of the protocol."""
        ids = sorted(chain(self.utterances.ids(), (rejected.id for rejected in self.rejected)))
        return hashlib.blake2b("\n".join(ids).encode(), digest_size=8).hexdigest()

    @property
    def audio_hash(self) -> str:
        """A hash of the recordings, their sample rate, and which of them are used."""
        digest = hashlib.blake2b(self._rows.tobytes(), digest_size=8)
        for shard in self._store.shards:
            digest.update(shard.name.encode())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """A hash of what is learned from: ids, labels and lengths. It must be the same when a run resumes."""
        digest = hashlib.blake2b(self.seconds.tobytes(), digest_size=8)
        for ids in chunks(self.utterances.ids()):
            digest.update("\t".join(ids).encode("utf-8", "surrogatepass"))
        for texts in chunks(self.utterances.texts()):
            labels, counts = self.tokenizer.encode_many([self.tokenizer.target(text) for text in texts])
            digest.update(labels.tobytes() + counts.tobytes())
        return digest.hexdigest()


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


def normalise(corpus: Corpus, rules: TextRules, keep: Sequence[str] = ()) -> Corpus:
    """Apply the text rules to the transcripts of a corpus. keep: splits whose own transcripts are kept
    beside, see `Utterances.original_text`.
    """
    splits = {
        name: rows.with_texts(PackedStrings(rules.apply_many(rows.texts())), name in keep)
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
    for row in needs_check(name, utterances, store, tokenizer, limits):
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
    if needing := [row for row in left_out if FFMPEG_MISSING in row.reason]:
        others = f" (and {len(needing) - 1:,} others of dataset.{name})" if len(needing) > 1 else ""
        log.warning("%s%s is left out: %s, or convert it.", needing[0].file, others, FFMPEG_MISSING)
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
