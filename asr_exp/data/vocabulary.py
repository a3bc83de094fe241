"""How a vocabulary covers transcripts: which units it lacks, how often they occur, and in how many
transcripts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asr_exp.data.text import TextRules, chunks
from asr_exp.data.tokenizer import Tokenizer, code_points, segment_sums

TOLERATED = 0.01  # share of the training split that may be left out without harm; of dev and test, none may
HARDLY = 0.2  # a transcript with at most this share of its units inside the vocabulary is called hollow


@dataclass(frozen=True)
class Coverage:
    """How a vocabulary covers transcripts. Spaces count neither as inside nor as outside.

    inside, outside: how often each unit occurs that the vocabulary has, or lacks; known, unknown: how many
    units of each transcript it has and lacks, (transcripts,) int64.
    """

    inside: Counter[str]
    outside: Counter[str]
    known: np.ndarray
    unknown: np.ndarray

    @property
    def spoken(self) -> int:
        """The number of transcripts that are not empty."""
        return int(np.sum(self.known + self.unknown > 0))

    @property
    def touched(self) -> int:
        """The number of transcripts that lose a unit."""
        return int(np.sum(self.unknown > 0))

    @property
    def lost(self) -> int:
        """The number of transcripts that lose every unit."""
        return int(np.sum((self.known == 0) & (self.unknown > 0)))

    @property
    def hollow(self) -> int:
        """The number of transcripts that lose nearly every unit (see `HARDLY`)."""
        return int(np.sum((self.unknown > 0) & (self.known <= HARDLY * (self.known + self.unknown))))

    @property
    def share(self) -> float:
        """The share of the units that is outside the vocabulary."""
        return float(self.unknown.sum() / max(1, self.known.sum() + self.unknown.sum()))


def coverage(texts: Iterable[str], tokenizer: Tokenizer) -> Coverage:
    """Count how the vocabulary of a tokenizer covers transcripts (after the text rules), in characters or in
    phones of the training inventory.
    """
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    emitted: dict[str, bool] = {}
    numbers: dict[str, int] = {}  # of phones, in the place of code points
    known, unknown = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for chunk in chunks(texts):
        targets = [tokenizer.target(text) for text in chunk]
        if tokenizer.unit == "phone":
            rows = [text.split() for text in targets]
            codes = np.array(
                [numbers.setdefault(unit, len(numbers)) for row in rows for unit in row], np.int64
            )
            counts, names = np.array([len(row) for row in rows]), list(numbers)
        else:
            codes = code_points("".join(targets))
            counts, names = np.array([len(text) for text in targets]), None
        occurrences = np.bincount(codes)
        units = {int(code): names[code] if names else chr(code) for code in np.flatnonzero(occurrences)}
        has, lacks = np.zeros(len(occurrences), bool), np.zeros(len(occurrences), bool)
        for code, unit in units.items():
            if unit not in emitted:
                emitted[unit] = _emitted(unit, tokenizer)
            has[code], lacks[code] = emitted[unit], not emitted[unit] and not unit.isspace()
            if has[code] or lacks[code]:
                (inside if has[code] else outside)[unit] += int(occurrences[code])
        known.append(segment_sums(has[codes], counts))
        unknown.append(segment_sums(lacks[codes], counts))
    return Coverage(inside, outside, np.concatenate(known), np.concatenate(unknown))


def _emitted(unit: str, tokenizer: Tokenizer) -> bool:
    """Whether the model can emit a unit."""
    labels = tokenizer.encode(unit)
    return tokenizer.known(labels) > 0 and tokenizer.blank not in labels


def mending_rules(
    texts: Sequence[str], tokenizer: Tokenizer, candidates: Mapping[str, TextRules]
) -> tuple[str, bool] | None:
    """The first of some text rules that at least halves the units outside the vocabulary -> its name, and
    whether no unit is left outside; None where no rules do.

    candidates: text rules by name.
    """
    before = coverage(texts, tokenizer)
    for name, rules in candidates.items():
        after = coverage(rules.apply_many(texts), tokenizer)
        if 2 * after.unknown.sum() <= before.unknown.sum() and after.known.sum() > before.known.sum():
            return name, not after.outside
    return None
