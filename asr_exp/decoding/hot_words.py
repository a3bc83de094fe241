"""Words and phrases that are to be found more readily: a bonus for each, in the score of a text or inside an
ARPA file.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_exp.decoding.ngram import BEGIN, END, NEVER, UNKNOWN, NGram, read_arpa, write_arpa

Phrase = tuple[str, ...]
# every word is certain
NO_MODEL = [NGram((UNKNOWN,), 0.0, 0.0), NGram((BEGIN,), NEVER, 0.0), NGram((END,), 0.0, 0.0)]


def completes(words: Sequence[str], phrases: set[Phrase]) -> bool:
    """Whether words end with one of the phrases."""
    return any(tuple(words[-n:]) in phrases for n in {len(phrase) for phrase in phrases})


def occurrences(words: Sequence[str], phrases: set[Phrase]) -> int:
    """At how many places of a text one of the phrases is complete."""
    return sum(completes(words[:end], phrases) for end in range(1, len(words) + 1)) if phrases else 0


def boost(source: Path | None, target: Path, phrases: set[Phrase], bonus: float) -> None:
    """Write an ARPA file in which a word that completes one of the phrases has `bonus` more, in log10, than
    in `source`.

    No probability may be above one, so that every word has `bonus` less to begin with: what uses the model
    gives it back to each. source: None is a model in which every word is certain. A phrase may be longer than
    the model's n-grams; the file has bigrams, which KenLM wants, in any case. Raises UserError for a broken
    file.
    """
    parts = {
        phrase[i:j]
        for phrase in {*phrases, (BEGIN, END)}
        for i in range(len(phrase))
        for j in range(i + 1, len(phrase) + 1)
    }
    sizes: list[int] = []
    known: dict[Phrase, NGram] = {}
    rarest = 0.0
    for gram in _grams(source):
        if isinstance(gram, list):
            sizes = gram
            continue
        if gram.words in parts or gram.words == (UNKNOWN,):
            known[gram.words] = gram
        if len(gram.words) == 1 and gram.log10 > NEVER:
            rarest = min(rarest, gram.log10)
    # a model of no other words: a new one is as likely as its rarest
    known.setdefault((UNKNOWN,), NGram((UNKNOWN,), rarest, 0.0))
    added: dict[int, list[NGram]] = {n: [] for n in range(1, max(len(sizes), *map(len, parts)) + 1)}
    for words in sorted(parts - known.keys()):
        added[len(words)].append(NGram(words, _conditional(words, known), 0.0))
    sizes = [(sizes[n - 1] if n <= len(sizes) else 0) + len(more) for n, more in added.items()]

    last = {phrase[-1] for phrase in phrases}

    def moved() -> Iterator[NGram]:
        for words, log10, backoff in _in_order(_grams(source), added):
            stays = words[-1] in (BEGIN, END) or words[-1] in last and completes(words, phrases)
            yield NGram(words, log10 if stays else log10 - bonus, backoff)

    write_arpa(target, sizes, moved())


def _grams(source: Path | None) -> Iterator[list[int] | NGram]:
    if source is not None:
        yield from read_arpa(source)
    else:
        yield [len(NO_MODEL)]
        yield from NO_MODEL


def _in_order(grams: Iterator[list[int] | NGram], added: dict[int, list[NGram]]) -> Iterator[NGram]:
    """The n-grams of a file with those added, the shorter ones first."""
    length = 1
    for gram in grams:
        if isinstance(gram, NGram):
            for n in range(length, len(gram.words)):
                yield from added[n]
            length = len(gram.words)
            yield gram
    for n in range(length, len(added) + 1):
        yield from added[n]


def _conditional(words: Phrase, known: dict[Phrase, NGram]) -> float:
    """log10 of the probability of the last word after the others, by a model of which all that matters here
    is known.
    """
    if words in known:
        return known[words].log10
    if len(words) == 1:
        return known[(UNKNOWN,)].log10
    return (known[words[:-1]].backoff if words[:-1] in known else 0.0) + _conditional(words[1:], known)
