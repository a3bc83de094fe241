"""Findings about the text rules: which apostrophes, digits, letters and signs they take from words."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from asr_exp.commands.check.findings import NOTE, WARN, Finding
from asr_exp.data.text import TextRules

_APOSTROPHES = "'’ʼ"
_SPOKEN_SIGNS = "%&€$£+=@°"
# Kinds of characters that rules may delete: kind to (level, text, advice).
_KINDS = {
    "apostrophes": (WARN, "your rules delete apostrophes", "text=standard keeps them inside words."),
    "digits": (WARN, "your rules delete digits, which are spoken", "Spell numbers out in the transcripts."),
    "letters": (
        WARN,
        "your rules delete letters or accents",
        "Drop `remove` or `strip_accents` from text.rules, unless that is meant.",
    ),
    "signs": (
        NOTE,
        "your rules delete signs that are spoken",
        "Spell them out in the transcripts: percent, and, euros.",
    ),
    "joints": (NOTE, "your rules join the parts of words", "text=standard puts a space there."),
}


def deletions(texts: Iterable[str], rules: TextRules) -> Iterator[Finding]:
    """What the rules delete from words, with the most frequent examples, and the digits that they leave.

    texts: transcripts before the rules. Capitals, and punctuation before and after a word, do not count.
    """
    words = Counter(word for text in texts for word in text.split())
    distinct = list(words)
    examples: dict[str, Counter[str]] = defaultdict(Counter)
    with_digits: Counter[str] = Counter()
    for word, result in zip(distinct, rules.apply_many(distinct), strict=True):
        result = " ".join(result.split())
        for kind in _deleted_kinds(word, result):
            examples[kind][f"{word} -> {result or '(nothing)'}"] += words[word]
        if any(c.isdecimal() for c in result):
            with_digits[word] += words[word]
    for kind, (level, title, advice) in _KINDS.items():
        if examples[kind]:
            text = f"{title}: {_described(examples[kind])}"
            yield Finding(level, f"rules-delete-{kind}", text[0].upper() + text[1:], advice)
    if with_digits:
        yield Finding(
            NOTE,
            "digits",
            "Digits, which are spoken as words, stay digits:"
            f" {', '.join(word for word, _ in with_digits.most_common(4))} ({with_digits.total():,} in all)",
            "Spell them out in the transcripts.",
        )


def _described(examples: Counter[str], shown: int = 4) -> str:
    total = examples.total()
    return (
        f"{total:,} word{'s' * (total > 1)} change"
        f" ({', '.join(example for example, _ in examples.most_common(shown))})"
    )


def _deleted_kinds(word: str, result: str) -> Iterator[str]:
    """The kinds of characters that are in a word and not in the result of the rules."""
    if any(sign in word for sign in _SPOKEN_SIGNS) and not any(sign in result for sign in _SPOKEN_SIGNS):
        yield "signs"
    kept = _folded(result)
    deleted = Counter(_without_outer_punctuation(_folded(word))) - Counter(kept)
    if "'" in deleted:
        yield "apostrophes"
    if any(unicodedata.category(c)[0] == "N" for c in deleted):
        yield "digits"
    if any(unicodedata.category(c)[0] in "LM" for c in deleted):
        yield "letters"
    has_dash = any(unicodedata.category(c) == "Pd" for c in deleted)
    if has_dash and kept and not any(c.isspace() for c in kept):
        yield "joints"


def _folded(text: str) -> str:
    """A text without differences of case, Unicode composition and kind of apostrophe.

    The dot of the Turkish İ and the missing dot of ı count as differences of case.
    """
    for mark in _APOSTROPHES:
        text = text.replace(mark, "'")
    return unicodedata.normalize("NFC", text).casefold().replace("\u0307", "").replace("ı", "i")


def _without_outer_punctuation(word: str) -> str:
    inside = [i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LMN"]
    return word[inside[0] : inside[-1] + 1] if inside else ""
