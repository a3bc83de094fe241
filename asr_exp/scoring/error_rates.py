"""Word and character error rates: counts of edits, rates, and 95 % intervals."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr_exp.scoring.intervals import Estimate, jackknife, rates_left_out

READ_CER = (
    "The references have no spaces between words: the WER counts whole sentences, so the CER is the figure to"
    " read."
)
# Thai, Lao, Burmese, Khmer, kana, Han
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_MAX_WORD_LENGTH = 6.0  # mean length in letters; words in these scripts are shorter where a text has spaces


@dataclass(frozen=True)
class ErrorCounts:
    """The edits that turn a reference into a hypothesis with the fewest errors."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors over the length of the reference, a fraction that may exceed 1; None without a reference."""
        return self.errors / self.reference_length if self.reference_length else None


def count_errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    """Count the edits between two sequences of units: words, phones or characters.

    They are the fewest possible (Levenshtein), as in jiwer. NIST's sclite gives a substitution the weight 4
    and other edits 3: of several alignments it takes the one with fewer substitutions, and at high rates it
    has sometimes one error more.
    """
    kinds = [edit.tag for edit in Levenshtein.editops(reference, hypothesis)]
    return ErrorCounts(kinds.count("replace"), kinds.count("delete"), kinds.count("insert"), len(reference))


def error_places(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[int]:
    """The places of the edits of `count_errors`: 2i + 1 for unit i of the reference, 2i for an insertion
    before it.
    """
    return [2 * edit.src_pos + (edit.tag != "insert") for edit in Levenshtein.editops(reference, hypothesis)]


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Count the edits between units that white space separates: words, or phones."""
    return count_errors(reference.split(), hypothesis.split())


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Count the edits between characters, spaces between words included."""
    return count_errors(reference.strip(), hypothesis.strip())


def unspaced(references: Iterable[str]) -> bool:
    """Whether texts are in a script without spaces between words (Chinese, Japanese, Thai ...), and have
    none. Then `READ_CER` applies.
    """
    text = " ".join(references)
    return len(_WITHOUT_SPACES.findall(text)) > _MAX_WORD_LENGTH * max(1, len(text.split()))


def clustered_rate(clusters: Iterable[tuple[int, int]]) -> Estimate | None:
    """A rate with its 95 % interval, by the jackknife of `intervals`; None without a reference.

    clusters: (errors, reference length) of each speaker, or of each utterance where speakers are not known.
    The estimate has no interval where fewer than two clusters have a reference, or all have the same rate.
    """
    # sorted: the result is the same to the last digit in whatever order clusters come
    table = np.array(sorted(clusters), dtype=np.float64).reshape(-1, 2)
    if not table[:, 1].any():
        return None
    rates, left_out = rates_left_out(table[:, :1].T, table[:, 1])
    return jackknife(float(rates[0]), left_out, table[:, 1], lower_bound=0.0)


class Tally:
    """Adds up the error counts of a split, one utterance after the other.

    Memory holds two numbers for each speaker and each utterance. phones: whether the units are phones.
    """

    def __init__(self, phones: bool):
        self.phones = phones
        self.words = ErrorCounts()
        self.characters = ErrorCounts()
        self.utterances = 0
        self._speakers: dict[str, list[int]] = {}
        # (errors, reference length) of every utterance, and of those whose speaker is not known
        self._utterances: list[tuple[int, int]] = []
        self._without_speaker: list[tuple[int, int]] = []

    def add(self, words: ErrorCounts, characters: ErrorCounts, speaker: str | None) -> None:
        self.words = self.words + words
        self.characters = self.characters + characters
        self.utterances = self.utterances + 1
        self._utterances.append((words.errors, words.reference_length))
        if speaker:
            totals = self._speakers.setdefault(speaker, [0, 0])
            totals[0] += words.errors
            totals[1] += words.reference_length
        else:
            self._without_speaker.append(self._utterances[-1])

    def summary(self) -> Mapping[str, object]:
        """The entries of result.json for a split. ci95 is Student's interval of the WER, or of the PER for
        phones.
        """
        by_speaker = len(self._speakers) > 1
        rates = (
            {s: e / n if n else None for s, (e, n) in sorted(self._speakers.items())} if by_speaker else None
        )
        clusters = (
            [*((e, n) for e, n in self._speakers.values()), *self._without_speaker]
            if by_speaker
            else self._utterances
        )
        estimate = clustered_rate(clusters)
        interval = estimate.interval if estimate else None
        return {
            "wer": None if self.phones else self.words.rate,
            "cer": None if self.phones else self.characters.rate,
            "per": self.words.rate if self.phones else None,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "reference_length": self.words.reference_length,
            "utterances": self.utterances,
            "ci95": interval,
            "ci95_degrees": estimate.degrees if estimate and interval else None,
            "ci95_clusters": "speaker" if by_speaker else "utterance",
            "rate_by_speaker": rates,
        }
