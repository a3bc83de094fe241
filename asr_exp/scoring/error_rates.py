"""Error counts of reference and hypothesis, their rates, and 95 % intervals: pure functions and one dataclass
of counts.
"""

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
_LONGEST_WORDS = 6.0  # letters, on average; where someone has parted the words, they have fewer


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn a reference into a hypothesis at the least cost, each edit costing one."""

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
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors over the reference's length, a fraction (may exceed 1); None without a reference."""
        return self.errors / self.reference_length if self.reference_length else None


def count_errors(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    """Counts between two sequences of units (words, phones, characters).

    The fewest errors there can be (Levenshtein), as jiwer counts them. NIST's sclite weighs a substitution 4
    and the others 3: where alignments tie it has fewer substitutions, and at high rates now and then an error
    more in all.
    """
    kinds = [edit.tag for edit in Levenshtein.editops(reference, hypothesis)]
    return ErrorCounts(kinds.count("replace"), kinds.count("delete"), kinds.count("insert"), len(reference))


def error_places(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> list[int]:
    """Where the edits of `count_errors` are: 2i + 1 for unit i of the reference, 2i for what is inserted
    before it.
    """
    return [2 * edit.src_pos + (edit.tag != "insert") for edit in Levenshtein.editops(reference, hypothesis)]


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over units parted by white space: words, or phones."""
    return count_errors(reference.split(), hypothesis.split())


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over characters, spaces between words included."""
    return count_errors(reference.strip(), hypothesis.strip())


def unspaced(references: Iterable[str]) -> bool:
    """Whether texts in a script that is written without spaces (Chinese, Japanese, Thai ...) have none: then
    see `READ_CER`.
    """
    text = " ".join(references)
    return len(_WITHOUT_SPACES.findall(text)) > _LONGEST_WORDS * max(1, len(text.split()))


def clustered_rate(clusters: Iterable[tuple[int, int]]) -> Estimate | None:
    """A rate with its 95 % interval, by the jackknife of `intervals`; None without a reference.

    clusters: (errors, reference length) of each speaker, or of each utterance where speakers cannot be told
    apart. There is no interval where they do not say how far the rate can be trusted: fewer than two have a
    reference, or all have the same rate.
    """
    # the same to the last digit in whatever order they came
    table = np.array(sorted(clusters), dtype=np.float64).reshape(-1, 2)
    if not table[:, 1].any():
        return None
    rates, left_out = rates_left_out(table[:, :1].T, table[:, 1])
    return jackknife(float(rates[0]), left_out, table[:, 1], least=0.0)


class Tally:
    """Adds up a split's counts utterance by utterance; holds two numbers per speaker and per utterance,
    nothing per word.
    """

    def __init__(self, phones: bool):
        self.phones = phones
        self.words = ErrorCounts()
        self.characters = ErrorCounts()
        self.utterances = 0
        self._speakers: dict[str, list[int]] = {}
        self._alone: list[tuple[int, int]] = []  # of every utterance
        self._unnamed: list[tuple[int, int]] = []  # of those whose speaker is not known

    def add(self, words: ErrorCounts, characters: ErrorCounts, speaker: str | None) -> None:
        self.words = self.words + words
        self.characters = self.characters + characters
        self.utterances = self.utterances + 1
        self._alone.append((words.errors, words.reference_length))
        if speaker:
            totals = self._speakers.setdefault(speaker, [0, 0])
            totals[0] += words.errors
            totals[1] += words.reference_length
        else:
            self._unnamed.append(self._alone[-1])

    def summary(self) -> Mapping[str, object]:
        """What result.json says of a split. ci95 belongs to WER, or to PER for phones; it is Student's."""
        by_speaker = len(self._speakers) > 1
        rates = (
            {s: e / n if n else None for s, (e, n) in sorted(self._speakers.items())} if by_speaker else None
        )
        clusters = (
            [*((e, n) for e, n in self._speakers.values()), *self._unnamed] if by_speaker else self._alone
        )
        estimate = clustered_rate(clusters)
        within = estimate.interval if estimate else None
        return {
            "wer": None if self.phones else self.words.rate,
            "cer": None if self.phones else self.characters.rate,
            "per": self.words.rate if self.phones else None,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "reference_length": self.words.reference_length,
            "utterances": self.utterances,
            "ci95": within,
            "ci95_degrees": estimate.degrees if estimate and within else None,
            "ci95_clusters": "speaker" if by_speaker else "utterance",
            "rate_by_speaker": rates,
        }
