"""Findings about the text rules: what they take from words and write otherwise, and the language that they
would have to know.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from asr_exp.commands.check.findings import NOTE, WARN, Finding
from asr_exp.data.text import TextRules, build_rules
from asr_exp.data.text.apostrophes import APOSTROPHES, QUOTES
from asr_exp.data.text.case import is_dotless
from asr_exp.data.text.characters import APOSTROPHE_LETTERS, is_invisible, is_word
from asr_exp.data.text.forms import forms_in

_SPOKEN_SIGNS = "%&€$£+=@°"
# What rules may do to words: kind to (level, text, advice).
_KINDS = {
    "delete-apostrophes": (
        WARN,
        "your rules delete apostrophes",
        "text=standard keeps them inside words.",
    ),
    "cut-apostrophes": (
        WARN,
        "your rules take apostrophes for spaces",
        "text=standard, or the rule unify_apostrophes, knows them.",
    ),
    "delete-digits": (
        WARN,
        "your rules delete digits, which are spoken",
        "Spell numbers out in the transcripts.",
    ),
    "delete-letters": (
        WARN,
        "your rules delete letters or accents",
        "Drop `remove` or `strip_accents` from text.rules, unless that is meant.",
    ),
    "delete-signs": (
        NOTE,
        "your rules delete signs that are spoken",
        "Spell them out in the transcripts: percent, and, euros.",
    ),
    "delete-joints": (NOTE, "your rules join the parts of words", "text=standard puts a space there."),
    "unify-apostrophes": (NOTE, "your rules write these apostrophes as '", ""),
    "unify-forms": (NOTE, "your rules write these letters in their plain form", ""),
    "delete-invisible": (NOTE, "your rules delete characters that nobody sees", ""),
    "keep-forms": (
        NOTE,
        "letters stand here in several forms, and your rules keep them apart",
        "text=standard, or the rule unify_forms, writes a letter one way.",
    ),
    "keep-signs": (
        NOTE,
        "other signs than ' stand for apostrophes, and your rules keep them apart",
        "text=standard, or the rule unify_apostrophes, writes all of them as '.",
    ),
    "keep-apostrophes": (
        NOTE,
        "letters that look like apostrophes begin or end words, and are another sign there than inside",
        "Give dataset.language (uz, haw, sm, to, ty), whose rules know them.",
    ),
}
_PLAIN = build_rules(["nfc", "unify_forms"], None)
_AS_APOSTROPHE = str.maketrans(dict.fromkeys(APOSTROPHES, "'"))
MIN_SHARE = 0.02  # of the words, from which on letters of Turkish tell the language; where another is given:
MIN_SHARE_OF_ANOTHER = 0.2


def rule_findings(texts: Iterable[str], rules: TextRules, language: str | None = None) -> Iterator[Finding]:
    """What the rules do to words, with the most frequent examples, and the digits that they leave.

    texts: transcripts before the rules. Capitals, and punctuation before and after a word, do not count.
    language: of the dataset.
    """
    words = Counter(word for text in texts for word in text.split())
    distinct = list(words)
    examples: dict[str, Counter[str]] = defaultdict(Counter)
    with_digits: Counter[str] = Counter()
    for word, result in zip(distinct, rules.apply_many(distinct), strict=True):
        result = " ".join(result.split())
        for kind in (*_deleted_kinds(word, result), *_rewritten_kinds(word, result, rules)):
            examples[kind][f"{_visible(word)} -> {result or '(nothing)'}"] += words[word]
        if any(c.isdecimal() for c in result):
            with_digits[word] += words[word]
    for kind, (level, title, advice) in _KINDS.items():
        if examples[kind]:
            text = f"{title}: {_described(examples[kind])}"
            yield Finding(level, f"rules-{kind}", text[0].upper() + text[1:], advice)
    if with_digits:
        yield Finding(
            NOTE,
            "digits",
            "Digits, which are spoken as words, stay digits:"
            f" {', '.join(word for word, _ in with_digits.most_common(4))} ({with_digits.total():,} in all)",
            "Spell them out in the transcripts.",
        )
    yield from _language_asked(words, rules, language)


def _language_asked(words: Mapping[str, int], rules: TextRules, language: str | None) -> Iterator[Finding]:
    """Whether the words are of a language with a dotless i, as Turkish, which the rules do not know of."""
    small, capital = rules("aIa").strip() == "aia", rules("AiA").strip() == "AIA"
    affected = "Iİ" if small else "i" if capital else ""
    telling = Counter({word: n for word, n in words.items() if set(word) & set("ıİğĞəƏ")})
    lost = Counter({word: n for word, n in words.items() if set(word) & set(affected)})
    least = MIN_SHARE_OF_ANOTHER if language else MIN_SHARE
    if lost and telling.total() >= max(1, least * sum(words.values())):
        letters = set("".join(words))
        guess = "az" if letters & set("əƏ") else "kk" if letters & set("ŋŊūŪ") else "tr"
        known = f"dataset.language={language}" if language else "no dataset.language"
        yield Finding(
            WARN,
            "dotless-i",
            f"Words such as {', '.join(word for word, _ in telling.most_common(3))} are of a language with ı"
            f" and İ, and with {known} the rules do not tell them from i and I:"
            f" {_described(Counter({f'{word} -> {rules(word).strip()}': n for word, n in lost.items()}))}",
            "The rules lowercase and uppercase (text=standard) know this language; yours do not."
            if language and is_dotless(language)
            else f"Give dataset.language={guess} (tr, az, kk: Turkish, Azeri, Kazakh in Latin letters).",
        )


def _inner_apostrophes(word: str) -> set[str]:
    """The signs in a word that may be its apostrophe; beside a digit, only those that are no primes."""
    return {
        sign
        for before, sign, after in zip(word, word[1:], word[2:], strict=False)
        if sign in APOSTROPHES
        and is_word(before)
        and is_word(after)
        and (sign in QUOTES or not (before.isdigit() or after.isdigit()))
    }


def _visible(word: str) -> str:
    """A word with escapes for what nobody sees."""
    return "".join(f"\\u{ord(c):04x}" if is_invisible(c) else c for c in word)


def _rewritten_kinds(word: str, result: str, rules: TextRules) -> Iterator[str]:
    """What becomes of signs that are typed for apostrophes, and of letters that have several forms."""
    if inner := _inner_apostrophes(word):
        unmarked = " ".join(rules("".join(c for c in word if c not in inner)).split())
        if result.count(" ") > unmarked.count(" "):
            yield "cut-apostrophes"
        elif "'" in Counter(_without_outer_punctuation(_folded(word))) - Counter(_folded(result)):
            yield "delete-apostrophes"
        elif inner - {"'", "’"} and "'" in result and not inner & set(result) - {"'"}:
            yield "unify-apostrophes"
        elif inner & set(result) - {"'"}:
            yield "keep-signs"
    if word.isascii():
        return
    if result and {result[0], result[-1]} & set(APOSTROPHE_LETTERS):
        yield "keep-apostrophes"
    if any(forms_in(word)):
        yield "keep-forms" if any(forms_in(result)) else "unify-forms"
    elif "İ" in word and rules("aIa").strip() == "aia" and "\u0307" not in result:
        yield "unify-forms"
    if any(map(is_invisible, word)) and not any(map(is_invisible, result)) and "\u200c" not in word:
        yield "delete-invisible"


def _described(examples: Counter[str], shown: int = 4) -> str:
    total = examples.total()
    return (
        f"{total:,} word{'s' * (total > 1)} change"
        f" ({', '.join(example for example, _ in examples.most_common(shown))})"
    )


def _deleted_kinds(word: str, result: str) -> Iterator[str]:
    """The kinds of characters that are in a word and not in the result of the rules."""
    if any(sign in word for sign in _SPOKEN_SIGNS) and not any(sign in result for sign in _SPOKEN_SIGNS):
        yield "delete-signs"
    kept = _folded(result)
    deleted = Counter(_without_outer_punctuation(_folded(word))) - Counter(kept)
    if any(unicodedata.category(c)[0] == "N" for c in deleted):
        yield "delete-digits"
    if any(unicodedata.category(c)[0] in "LM" for c in deleted):
        yield "delete-letters"
    has_dash = any(unicodedata.category(c) == "Pd" for c in deleted)
    if has_dash and kept and not any(c.isspace() for c in kept):
        yield "delete-joints"


def _folded(text: str) -> str:
    """A text without differences of case, Unicode composition and kind of apostrophe.

    The dot of the Turkish İ and the missing dot of ı count as differences of case.
    """
    return _PLAIN(text).translate(_AS_APOSTROPHE).casefold().replace("\u0307", "").replace("ı", "i")


def _without_outer_punctuation(word: str) -> str:
    inside = [i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LMN"]
    return word[inside[0] : inside[-1] + 1] if inside else ""
