"""Hot words: words and phrases that get a bonus, in the score of a text or inside an ARPA file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_exp.decoding.ngram import BEGIN, END, NEVER, UNKNOWN, NGram, read_arpa, write_arpa

Phrase = tuple[str, ...]
# In the place of a language model: the probability of every word is 1.
NO_MODEL = [NGram((UNKNOWN,), 0.0, 0.0), NGram((BEGIN,), NEVER, 0.0), NGram((END,), 0.0, 0.0)]


def completes(words: Sequence[str], phrases: set[Phrase]) -> bool:
    """Whether words end with one of the phrases."""
    return any(tuple(words[-n:]) in phrases for n in {len(phrase) for phrase in phrases})


def occurrences(words: Sequence[str], phrases: set[Phrase]) -> int:
    """The number of words of a text at which one of the phrases ends."""
    return sum(completes(words[:end], phrases) for end in range(1, len(words) + 1)) if phrases else 0


def boost(source: Path | None, target: Path, phrases: set[Phrase], bonus: float) -> None:
    """Write an ARPA file in which words that complete one of the phrases are favoured by `bonus`, in log10.

    No probability may exceed one, so every other word has `bonus` less than in `source`; whoever uses the
    model adds it to each word. source: None for a model in which the probability of every word is 1. A phrase
    may be longer than the n-grams of the model. The file has bigrams in any case, as KenLM requires. Raises
    UserError for a broken file.
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
    # a model without <unk> allows no other words: a new one gets the probability of its rarest
    known.setdefault((UNKNOWN,), NGram((UNKNOWN,), rarest, 0.0))
    added: dict[int, list[NGram]] = {n: [] for n in range(1, max(len(sizes), *map(len, parts)) + 1)}
    for words in sorted(parts - known.keys()):
        added[len(words)].append(NGram(words, _conditional(words, known), 0.0))
    sizes = [(sizes[n - 1] if n <= len(sizes) else 0) + len(new) for n, new in added.items()]

    last = {phrase[-1] for phrase in phrases}

    def boosted() -> Iterator[NGram]:
        for words, log10, backoff in _in_order(_grams(source), added):
            unchanged = words[-1] in (BEGIN, END) or words[-1] in last and completes(words, phrases)
            yield NGram(words, log10 if unchanged else log10 - bonus, backoff)

    write_arpa(target, sizes, boosted())


def _grams(source: Path | None) -> Iterator[list[int] | NGram]:
    if source is not None:
        yield from read_arpa(source)
    else:
        yield [len(NO_MODEL)]
        yield from NO_MODEL


def _in_order(grams: Iterator[list[int] | NGram], added: dict[int, list[NGram]]) -> Iterator[NGram]:
    """The n-grams of a file and the added ones, in the order of their length."""
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
    """log10 of the probability of the last word after the others, by backing off. known: all n-grams of the
    model that are parts of the phrases.
    """
    if words in known:
        return known[words].log10
    if len(words) == 1:
        return known[(UNKNOWN,)].log10
    return (known[words[:-1]].backoff if words[:-1] in known else 0.0) + _conditional(words[1:], known)
