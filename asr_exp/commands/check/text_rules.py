"""What text rules do to words: the apostrophes, digits, letters and signs that go, with examples."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from asr_exp.commands.check.findings import NOTE, WARN, Finding
from asr_exp.data.text import TextRules

_APOSTROPHES = "'’ʼ"
_SPOKEN = "%&€$£+=@°"  # signs that are read out
# What goes, how bad that is, how to say it, and what to do about it.
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


def changes(texts: Iterable[str], rules: TextRules) -> Iterator[Finding]:
    """What the rules take from the words of raw transcripts, word by word; capitals, and punctuation about
    words, do not count.
    """
    words = Counter(word for text in texts for word in text.split())
    listed = list(words)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    digits: Counter[str] = Counter()
    for word, after in zip(listed, rules.apply_many(listed), strict=True):
        after = " ".join(after.split())
        for kind in _gone(word, after):
            found[kind][f"{word} -> {after or '(nothing)'}"] += words[word]
        if any(c.isdecimal() for c in after):
            digits[word] += words[word]
    for kind, (level, what, advice) in _KINDS.items():
        if found[kind]:
            text = f"{what}: {_words(found[kind])}"
            yield Finding(level, f"rules-delete-{kind}", text[0].upper() + text[1:], advice)
    if digits:
        yield Finding(
            NOTE,
            "digits",
            "Digits, which are spoken as words, stay digits:"
            f" {', '.join(w for w, _ in digits.most_common(4))} ({sum(digits.values()):,} in all)",
            "Spell them out in the transcripts.",
        )


def _words(counts: Counter[str], shown: int = 4) -> str:
    total = sum(counts.values())
    return (
        f"{total:,} word{'s' * (total > 1)} change"
        f" ({', '.join(example for example, _ in counts.most_common(shown))})"
    )


def _gone(word: str, after: str) -> Iterator[str]:
    """The kinds of characters of a word that are not there any more."""
    if any(sign in word for sign in _SPOKEN) and not any(sign in after for sign in _SPOKEN):
        yield "signs"
    before, kept = _core(_folded(word)), _folded(after)
    gone = Counter(before) - Counter(kept)
    if "'" in gone:
        yield "apostrophes"
    if any(unicodedata.category(c)[0] == "N" for c in gone):
        yield "digits"
    if any(unicodedata.category(c)[0] in "LM" for c in gone):
        yield "letters"
    joint = any(not c.isalnum() and unicodedata.category(c) == "Pd" for c in gone)
    if joint and not any(c.isspace() for c in kept) and kept:
        yield "joints"


def _folded(text: str) -> str:
    """Without what capitals, composition and the kind of apostrophe make of a letter (the Turkish dot of an i
    included).
    """
    for mark in _APOSTROPHES:
        text = text.replace(mark, "'")
    return unicodedata.normalize("NFC", text).casefold().replace("\u0307", "").replace("ı", "i")


def _core(word: str) -> str:
    """A word without the punctuation before and after it."""
    inside = [i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LMN"]
    return word[inside[0] : inside[-1] + 1] if inside else ""
