"""What a vocabulary lacks of transcripts: which units, how often, and in how many of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asr_exp.data.text import TextRules, chunks
from asr_exp.data.tokenizer import Tokenizer, segment_sums

TOLERATED = 0.01  # share of the training split that may be left out without harm; of dev and test, none may
# share of its units inside the vocabulary, up to which hardly anything of a transcript can be written
HARDLY = 0.2


@dataclass(frozen=True)
class Coverage:
    """How a vocabulary covers transcripts. inside, outside: how often each unit is there, by whether the
    vocabulary has it; known, unknown: how many of each transcript it has and lacks, (transcripts,) int64.
    Spaces are neither."""

    inside: Counter[str]
    outside: Counter[str]
    known: np.ndarray
    unknown: np.ndarray

    @property
    def spoken(self) -> int:
        """Transcripts that are not empty."""
        return int(np.sum(self.known + self.unknown > 0))

    @property
    def touched(self) -> int:
        """Transcripts that lose something."""
        return int(np.sum(self.unknown > 0))

    @property
    def lost(self) -> int:
        """Transcripts of which nothing is left."""
        return int(np.sum((self.known == 0) & (self.unknown > 0)))

    @property
    def hollow(self) -> int:
        """Transcripts of which nothing or hardly anything is left."""
        return int(np.sum((self.unknown > 0) & (self.known <= HARDLY * (self.known + self.unknown))))

    @property
    def share(self) -> float:
        """Of the units, those outside."""
        return float(self.unknown.sum() / max(1, self.known.sum() + self.unknown.sum()))


def coverage(texts: Iterable[str], tokenizer: Tokenizer) -> Coverage:
    """How a tokenizer's vocabulary covers transcripts (after the text rules): characters, or phones of the
    training inventory.
    """
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    emitted: dict[str, bool] = {}
    numbers: dict[str, int] = {}  # of phones
    known, unknown = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for some in chunks(texts):
        targets = [tokenizer.target(text) for text in some]
        if tokenizer.unit == "phone":
            rows = [text.split() for text in targets]
            codes = np.array(
                [numbers.setdefault(unit, len(numbers)) for row in rows for unit in row], np.int64
            )
            counts, names = np.array([len(row) for row in rows]), list(numbers)
        else:
            codes = np.frombuffer("".join(targets).encode("utf-32-le", "surrogatepass"), "<u4")
            counts, names = np.array([len(text) for text in targets]), None
        often = np.bincount(codes)
        there = {int(code): names[code] if names else chr(code) for code in np.flatnonzero(often)}
        has, lacks = np.zeros(len(often), bool), np.zeros(len(often), bool)
        for code, unit in there.items():
            if unit not in emitted:
                emitted[unit] = _emitted(unit, tokenizer)
            has[code], lacks[code] = emitted[unit], not emitted[unit] and not unit.isspace()
            if has[code] or lacks[code]:
                (inside if has[code] else outside)[unit] += int(often[code])
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
    """The first of the candidates, text rules by name, that leaves half of what is outside the vocabulary at
    the most, and whether it leaves nothing; None: none does."""
    before = coverage(texts, tokenizer)
    for name, rules in candidates.items():
        after = coverage(rules.apply_many(texts), tokenizer)
        if 2 * after.unknown.sum() <= before.unknown.sum() and after.known.sum() > before.known.sum():
            return name, not after.outside
    return None
