"""n-gram language models: estimated by modified Kneser-Ney smoothing, written and read as ARPA files.

They are estimated here, although KenLM's lmplz does the same, because no wheel has lmplz: flashlight-text
brings the part of KenLM that queries a model, and lmplz would have to be compiled with Boost on every
machine.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr_exp.core.errors import UserError
from asr_exp.core.files import file_checksum, write_text

log = logging.getLogger(__name__)
UNKNOWN = "<unk>"
BEGIN = "<s>"
END = "</s>"
MAX_ORDER = 6  # of the KenLM that comes with flashlight-text
NEVER = -99.0  # the logarithm that stands for a probability of zero


class NGram(NamedTuple):
    """A line of an ARPA file. log10: of the probability of the last word after the others; backoff: a log10
    too.
    """

    words: tuple[str, ...]
    log10: float
    backoff: float


@dataclass(frozen=True)
class Model:
    """An n-gram model. The n-grams of n + 1 words are grams[n], ids of words, (count, n + 1), with log10[n]
    and backoff[n], (count,).
    """

    words: list[str]
    grams: list[np.ndarray]
    log10: list[np.ndarray]
    backoff: list[np.ndarray]

    def __iter__(self) -> Iterator[NGram]:
        for parts in zip(self.grams, self.log10, self.backoff, strict=True):
            for first in range(
                0, len(parts[0]), 10_000
            ):  # numbers of Python take ten times the memory of an array
                for row, log10, backoff in zip(
                    *(part[first : first + 10_000].tolist() for part in parts), strict=True
                ):
                    yield NGram(tuple(self.words[i] for i in row), log10, backoff)


def estimate(sentences: Iterable[Sequence[str]], order: int) -> Model:
    """Estimate the interpolated modified Kneser-Ney model of sentences (Chen and Goodman 1998, section 3).
    Unigrams are interpolated with the uniform distribution.

    The words <s> and </s> of a sentence are ignored. Raises ValueError where there is no word at all.
    """
    words, text = _numbered(sentences)
    if len(words) <= 3:
        raise ValueError("the text has no words")
    ids, levels = text, []
    for n in range(1, order + 1):
        ids, level = _count(text, ids, n, len(words))
        levels.append(level)
    log10s = []
    backoffs = [np.zeros(len(level.grams)) for level in levels]
    probabilities = np.zeros(0)  # of the n-grams of the level before
    for n, level in enumerate(levels):
        counts = level.counts
        if n < order - 1:  # the number of distinct words before it, except at the start of a sentence
            continuations = np.bincount(levels[n + 1].suffix, minlength=len(counts))
            counts = np.where(level.grams[:, 0] == 1, counts, continuations)
        counts[level.grams[:, -1] == 1] = 0  # <s> is never predicted
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        total = np.bincount(level.prefix, counts)
        total[total == 0] = 1.0
        weight = np.bincount(level.prefix, discounts) / total  # of the lower order
        lower = probabilities[level.suffix] if n else np.full(len(counts), 1.0 / (len(words) - 1))
        probabilities = (counts - discounts) / total[level.prefix] + weight[level.prefix] * lower
        probabilities[level.grams[:, -1] == 1] = 10**NEVER
        log10s.append(np.log10(probabilities))
        if n:
            contexts = np.flatnonzero(np.bincount(level.prefix))
            backoffs[n - 1][contexts] = np.log10(weight[contexts])
    return Model(words, [level.grams for level in levels], log10s, backoffs)


@dataclass(frozen=True)
class _Counts:
    """The distinct n-grams of a text. grams: ids of words, (count, n); counts: how often each occurs; prefix,
    suffix: the numbers of the (n - 1)-grams of its first and its last words.
    """

    grams: np.ndarray
    counts: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray


def _numbered(sentences: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The vocabulary (<unk>, <s>, </s>, then words in the order of the text) and the text as ids, int64,
    (tokens,).
    """
    numbers = {UNKNOWN: 0, BEGIN: 1, END: 2}
    rows: list[np.ndarray] = []
    for sentence in sentences:
        row = [numbers.setdefault(word, len(numbers)) for word in sentence if word not in (BEGIN, END)]
        rows.append(np.array([1, *row, 2], dtype=np.int32))
    return list(numbers), np.concatenate(rows).astype(np.int64) if rows else np.zeros(0, dtype=np.int64)


def _count(text: np.ndarray, shorter: np.ndarray, n: int, words: int) -> tuple[np.ndarray, _Counts]:
    """Count the n-grams of a text -> (the number of the n-gram that begins at each token, -1 for none; the
    counts).

    shorter: the number of the (n - 1)-gram that begins at each token; words: size of the vocabulary.
    """
    if n == 1:
        counts, zeros = np.bincount(text, minlength=words), np.zeros(words, dtype=np.int64)
        return text, _Counts(np.arange(words)[:, None], counts, zeros, zeros)
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
    return ids, _Counts(text[begin[:, None] + np.arange(n)], counts, shorter[begin], shorter[begin + 1])


def _discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of a count of 0, 1, 2, and 3 or more. Where the text is too small to estimate them they
    are 0.5, 1 and 1.5, as lmplz has it.
    """
    one, two, three, four = (np.count_nonzero(counts == k) for k in (1, 2, 3, 4))
    if one and two and three:
        y = one / (one + 2 * two)
        discounts = np.array([0.0, 1 - 2 * y * two / one, 2 - 3 * y * three / two, 3 - 4 * y * four / three])
        if (discounts[1:] > 0).all():
            return discounts
    return np.array([0.0, 0.5, 1.0, 1.5])


# ------------------------------------------------------------------------------------------------------------
# ARPA files


def write_arpa(path: Path, sizes: Sequence[int], grams: Iterable[NGram]) -> None:
    """Write n-grams, in the order of their length, as an ARPA file. sizes: the number of n-grams of each
    length.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with temporary.open("w", encoding="utf-8") as file:
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
        file.flush()
        os.fsync(file.fileno())
    checksum = file_checksum(temporary)
    os.replace(temporary, path)
    write_text(path.with_name(f"{path.name}.crc32"), f"{checksum}\n")


def is_whole_arpa(path: Path) -> bool:
    """Whether a file that `write_arpa` wrote is there as it was written, by the checksum beside it; one of an
    earlier release has none, and its end decides. The log names a damaged one.
    """
    if not path.exists():
        return False
    try:
        kept = path.with_name(f"{path.name}.crc32").read_text(encoding="utf-8", errors="replace").strip()
        whole = kept == str(file_checksum(path))
    except FileNotFoundError:
        with path.open("rb") as file:
            file.seek(-min(100, path.stat().st_size), os.SEEK_END)
            whole = is_arpa(path) and file.read().rstrip().endswith(b"\\end\\")
    if not whole:
        log.warning("%s is damaged: it is made again.", path)
    return whole


def is_arpa(path: Path) -> bool:
    """Whether a file begins as an ARPA file does, whatever its name."""
    with suppress(OSError), path.open("rb") as file:
        return next((line.strip() for line in file if line.strip()), b"") == b"\\data\\"
    return False


def read_arpa(path: Path) -> Iterator[list[int] | NGram]:
    """Yield the numbers of n-grams of each length, then the n-grams of an ARPA file one by one.

    Raises UserError for a file that cannot be read, and for a line that is wrong, with its number.
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
    section = -1  # -1 before \data\, 0 in it, n in \n-grams:
    seen = 0  # n-grams of the section
    number = 0
    complete = False

    def wrong(number: int, problem: str) -> UserError:
        return UserError(
            f"Line {number} of {path} is not what an ARPA file has there: {problem}. Make the file again."
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
                complete = True
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
    if not complete:
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
    """The words of an ARPA file, without <unk>, <s> and </s>. Only unigrams are read; raises UserError as
    `read_arpa` does.
    """
    words = []
    for gram in read_arpa(path):
        if isinstance(gram, NGram):
            if len(gram.words) > 1:
                break
            words.append(gram.words[0])
    return [word for word in words if word not in (UNKNOWN, BEGIN, END)]
