"""What an ARPA file says of a sentence, worked out by the definition of the format."""

from asr_exp.decoding.ngram import BEGIN, END, NGram, read_arpa


def table(path) -> dict[tuple, tuple[float, float]]:
    return {gram.words: (gram.log10, gram.backoff) for gram in read_arpa(path) if isinstance(gram, NGram)}


def conditional(found, words) -> float:
    """log10 P(last word | the others) as an ARPA file is to be read."""
    if words in found:
        return found[words][0]
    if len(words) == 1:
        return found[("<unk>",)][0]
    return found.get(words[:-1], (0, 0.0))[1] + conditional(found, words[1:])


def score(found, words, order) -> float:
    known = [word if (word,) in found else "<unk>" for word in words]
    text = [BEGIN, *known, END]
    return sum(conditional(found, tuple(text[max(0, i - order + 1) : i + 1])) for i in range(1, len(text)))
