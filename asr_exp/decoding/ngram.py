"""n-gram language models in the ARPA format: made from text by modified Kneser-Ney smoothing, written, and
read line by line.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr_exp.core.errors import UserError

UNKNOWN = "<unk>"
BEGIN = "<s>"
END = "</s>"
MAX_ORDER = 6  # of the KenLM that comes with flashlight-text
NEVER = -99.0  # the logarithm that stands for a probability of zero


class NGram(NamedTuple):
    """A line of an ARPA file. log10: of the last word's probability after the others; backoff: log10 too."""

    words: tuple[str, ...]
    log10: float
    backoff: float


@dataclass(frozen=True)
class Model:
    """An n-gram model. Of order n + 1: grams[n] (count, n + 1) ids of words, log10[n] and backoff[n]
    (count,).
    """

    words: list[str]
    grams: list[np.ndarray]
    log10: list[np.ndarray]
    backoff: list[np.ndarray]

    def __iter__(self) -> Iterator[NGram]:
        for parts in zip(self.grams, self.log10, self.backoff, strict=True):
            for first in range(0, len(parts[0]), 10_000):  # as Python's numbers, they take ten times the room
                for row, log10, backoff in zip(
                    *(part[first : first + 10_000].tolist() for part in parts), strict=True
                ):
                    yield NGram(tuple(self.words[i] for i in row), log10, backoff)


def estimate(sentences: Iterable[Sequence[str]], order: int) -> Model:
    """The interpolated modified Kneser-Ney model of sentences (Chen and Goodman 1998, section 3; unigrams
    with the uniform one).

    <s> and </s> in a sentence are left out of it. Raises ValueError where there is no word at all.
    """
    words, text = _numbered(sentences)
    if len(words) <= 3:
        raise ValueError("the text has no words")
    ids, found = text, []
    for n in range(1, order + 1):
        ids, counted = _counted(text, ids, n, len(words))
        found.append(counted)
    log10s = []
    backoffs = [np.zeros(len(one.grams)) for one in found]
    below = np.zeros(0)
    for n, one in enumerate(found):
        counts = one.counts
        if n < order - 1:  # how many words it follows, as far as there is a word before it
            counts = np.where(
                one.grams[:, 0] == 1, counts, np.bincount(found[n + 1].suffix, minlength=len(counts))
            )
        counts[one.grams[:, -1] == 1] = 0  # <s> is given, never predicted
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        total, left = np.bincount(one.prefix, counts), np.bincount(one.prefix, discounts)
        total[total == 0] = 1.0
        weight = left / total
        lower = below[one.suffix] if n else np.full(len(counts), 1.0 / (len(words) - 1))
        below = (counts - discounts) / total[one.prefix] + weight[one.prefix] * lower
        below[one.grams[:, -1] == 1] = 10**NEVER
        log10s.append(np.log10(below))
        if n:
            has = np.flatnonzero(np.bincount(one.prefix))
            backoffs[n - 1][has] = np.log10(weight[has])
    return Model(words, [one.grams for one in found], log10s, backoffs)


@dataclass(frozen=True)
class _Counted:
    """The distinct n-grams of a text: (count, n) ids, how often each is there, and the numbers of its first
    and last n - 1 words.
    """

    grams: np.ndarray
    counts: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray


def _numbered(sentences: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The vocabulary (<unk>, <s>, </s>, then words as they come) and the text as one row of ids, (tokens,)
    int64.
    """
    numbers = {UNKNOWN: 0, BEGIN: 1, END: 2}
    rows: list[np.ndarray] = []
    for sentence in sentences:
        row = [numbers.setdefault(word, len(numbers)) for word in sentence if word not in (BEGIN, END)]
        rows.append(np.array([1, *row, 2], dtype=np.int32))
    return list(numbers), np.concatenate(rows).astype(np.int64) if rows else np.zeros(0, dtype=np.int64)


def _counted(text: np.ndarray, shorter: np.ndarray, n: int, words: int) -> tuple[np.ndarray, _Counted]:
    """The n-grams of a text, given the number of the (n - 1)-gram that begins at each place -> those of the
    n-grams (-1: none).
    """
    if n == 1:
        counts, zeros = np.bincount(text, minlength=words), np.zeros(words, dtype=np.int64)
        return text, _Counted(np.arange(words)[:, None], counts, zeros, zeros)
    # </s> ends a sentence
    places = np.flatnonzero((shorter[: len(text) - n + 1] >= 0) & (text[n - 2 : len(text) - 1] != 2))
    _, first, number, counts = np.unique(
        shorter[places] * words + text[places + n - 1],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    ids = np.full(len(text), -1, dtype=np.int64)
    ids[places] = number
    begin = places[first]
    return ids, _Counted(text[begin[:, None] + np.arange(n)], counts, shorter[begin], shorter[begin + 1])


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off a count of 0, 1, 2, and 3 or more. Where a text is too small to tell, 0.5, 1 and 1.5,
    as lmplz falls back to.
    """
    one, two, three, four = (np.count_nonzero(counts == k) for k in (1, 2, 3, 4))
    if one and two and three:
        share = one / (one + 2 * two)
        found = np.array(
            [0.0, 1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three]
        )
        if (found[1:] > 0).all():
            return found
    return np.array([0.0, 0.5, 1.0, 1.5])


# ------------------------------------------------------------------------------------------------------------
# ARPA files


def write_arpa(path: Path, sizes: Sequence[int], grams: Iterable[NGram]) -> None:
    """Write n-grams, in the order of their length, as an ARPA file. sizes: how many there are of each
    length.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
        length = 0
        for words, log10, backoff in grams:
            if len(words) != length:
                length = len(words)
                file.write(f"\n\\{length}-grams:\n")
            file.write(
                f"{log10:.7g}\t{' '.join(words)}" + (f"\t{backoff:.7g}\n" if length < len(sizes) else "\n")
            )
        file.write("\n\\end\\\n")
    os.replace(beside, path)


def is_arpa(path: Path) -> bool:
    """Whether a file begins as one of the ARPA format does, whatever it is called."""
    with suppress(OSError), path.open("rb") as file:
        return next((line.strip() for line in file if line.strip()), b"") == b"\\data\\"
    return False


def read_arpa(path: Path) -> Iterator[list[int] | NGram]:
    """How many n-grams there are of each length, then the n-grams of an ARPA file, one after the other.

    Raises UserError for a file that cannot be read, and for a line that does not belong, by its number.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _parsed(path, file)
    except (OSError, UnicodeDecodeError) as why:
        raise UserError(
            f"decode.lm={path} cannot be read ({getattr(why, 'strerror', None) or 'it is not text'}); "
            "give an ARPA file, a text file or train-text."
        ) from None


def _parsed(path: Path, lines: Iterable[str]) -> Iterator[list[int] | NGram]:
    sizes: list[int] = []
    section = -1  # section: -1 before \data\, 0 in it, n in \n-grams:
    seen = 0
    number = 0
    over = False

    def wrong(number: int, what: str) -> UserError:
        return UserError(
            f"Line {number} of {path} is not what an ARPA file has there: {what}. Make the file again."
        )

    for number, line in enumerate(lines, 1):
        text = line.strip(" \t\r\n")
        if not text or section < 0 and text != "\\data\\":
            continue
        if text == "\\data\\":
            section = 0
        elif text.startswith("\\") and text.endswith((":", "\\")) and " " not in text and "\t" not in text:
            if section == 0:
                yield sizes
            if section > 0 and seen != sizes[section - 1]:
                raise wrong(
                    number,
                    f"{seen} {section}-grams came before it, and the head of the file promises"
                    f" {sizes[section - 1]}",
                )
            if text == "\\end\\" and section == len(sizes):
                over = True
                break
            section, seen = section + 1, 0
            if text != f"\\{section}-grams:" or section > len(sizes):
                raise wrong(number, f"{text!r} where \\{section}-grams: is due")
        elif section == 0:
            if (
                not text.startswith(f"ngram {len(sizes) + 1}=")
                or not text.partition("=")[2].strip().isdigit()
            ):
                raise wrong(number, f"{text!r} where ngram {len(sizes) + 1}=NUMBER is due")
            sizes.append(int(text.partition("=")[2]))
        else:
            seen += 1
            try:
                yield _line(text, section)
            except ValueError:
                raise wrong(
                    number,
                    f"{text[:60]!r} is no {section}-gram with its logarithms (to the base 10, none above 0)",
                ) from None
    if not over:
        raise UserError(
            f"{path} is no whole ARPA file: it ends, at line {number}, without \\end\\. Make the file again."
        )


def _line(text: str, n: int) -> NGram:
    parts = text.replace("\t", " ").split(" ")
    parts = [part for part in parts if part] if "" in parts else parts
    if len(parts) not in (n + 1, n + 2) or float(parts[0]) > 0:
        raise ValueError(text)
    return NGram(
        tuple(parts[1 : n + 1]), float(parts[0]), float(parts[n + 1]) if len(parts) == n + 2 else 0.0
    )


def vocabulary(path: Path) -> list[str]:
    """The words of an ARPA file, without <unk>, <s> and </s>. Raises UserError as `read_arpa` does, as far as
    it has to read.
    """
    words = []
    for gram in read_arpa(path):
        if isinstance(gram, NGram):
            if len(gram.words) > 1:
                break
            words.append(gram.words[0])
    return [word for word in words if word not in (UNKNOWN, BEGIN, END)]
