"""Rules for punctuation, apostrophes, digits, invisible characters and white space."""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.data.text.registry import Example, Rule, register_rule

_TYPOGRAPHIC_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})
# Marks that some scripts write inside a word, which stays one word without them: Catalan l·l, Hebrew צה״ל,
# Armenian ինչո՞ւ.
_INSIDE_WORDS = frozenset("·‧״׳՚՛՜՝՞՟")
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")  # there, · is a semicolon
APOSTROPHE_LETTERS = "ʻʼʹʽꞌꞋ"  # letters to Unicode
_JOINERS = "\u200c\u200d"


@functools.cache
def _characters(belongs: Callable[[str], bool]) -> str:
    """A regular expression for a run of characters that belong to a class."""
    # Outside these blocks only ideographs are assigned. There are two classes because `re` uses a table only
    # for a class that lies below U+10000: in one class, each character of a text would be compared with
    # hundreds of ranges.
    blocks = range(0x10000), (*range(0x10000, 0x20000), *range(0xE0000, 0xE0200))
    low, high = ("".join(_ranges([n for n in block if belongs(chr(n))])) for block in blocks)
    return f"(?:[{low}]|(?=[\U00010000-\U0010ffff])[{high}])+"


def _ranges(codes: Sequence[int]) -> Iterator[str]:
    """Ascending code points as the ranges of a character class."""
    first = 0
    for i, code in enumerate(codes, 1):
        if i == len(codes) or codes[i] != code + 1:
            yield f"{re.escape(chr(codes[first]))}-{re.escape(chr(code))}"
            first = i


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def is_invisible(character: str) -> bool:
    """Whether a character is a format or control character other than white space, a variation selector, or
    the grapheme joiner.
    """
    return (
        unicodedata.category(character) in ("Cf", "Cc")
        and not character.isspace()
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or character == "\u034f"
    )


def is_word(character: str) -> bool:
    """Whether a character is a letter, a mark or a digit, of which words are made; "" is none."""
    return character != "" and unicodedata.category(character)[0] in "LMN"


@register_rule("remove", argument=str, example=Example("Why? Because!", "?!"))
def _remove(characters: str, language: str | None) -> Rule:
    """Remove each of these characters."""
    return lambda text: text.translate(dict.fromkeys(map(ord, characters)))


@register_rule("replace", argument=dict, example=Example("salt & pepper", {"&": "and"}))
def _replace(pairs: dict[Any, Any], language: str | None) -> Rule:
    """Replace all pairs at once, the longest first: no pair changes what another has put in."""
    table = {str(old): str(new) for old, new in pairs.items()}
    if not table or "" in table:
        raise UserError(f"text.rules: replace was given {pairs!r}; each pair needs something to look for.")
    pattern = re.compile("|".join(re.escape(old) for old in sorted(table, key=len, reverse=True)))
    return lambda text: pattern.sub(lambda match: table[match.group()], text)


@register_rule("remove_punctuation", example=Example("Don’t! A well-known ‘yes’."))
def _remove_punctuation(argument: None, language: str | None) -> Rule:
    """Remove punctuation and symbols. Between letters they become a space (well-known, yes/no), but an
    apostrophe stays (don't).
    """
    pattern = re.compile(_characters(_is_punctuation))

    def run(match: re.Match[str]) -> str:
        text = match.string
        start, end = match.span()
        marks = match.group()
        if not (is_word(text[start - 1 : start]) and is_word(text[end : end + 1])):
            return ""
        return marks if marks == "'" else "" if _INSIDE_WORDS.issuperset(marks) else " "

    return lambda text: pattern.sub(run, text.translate(_TYPOGRAPHIC_APOSTROPHES))


def _is_punctuation_but_apostrophe(character: str) -> bool:
    return character != "'" and _is_punctuation(character)


@register_rule("remove_punctuation_but_apostrophes", example=Example("Don't! A well-known “yes” col·lecció."))
def _remove_punctuation_but_apostrophes(argument: None, language: str | None) -> Rule:
    """Remove punctuation and symbols other than ', which unify_apostrophes has left where it is spelling.
    Between letters they become a space (well-known, yes/no), but for marks of spelling (col·lecció).
    """
    pattern = re.compile(_characters(_is_punctuation_but_apostrophe))

    def run(match: re.Match[str]) -> str:
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        if not all(c == "'" or is_word(c) for c in (before, after)):
            return ""
        spelling = _INSIDE_WORDS.issuperset(match.group()) and not _GREEK.match(before)
        joined = spelling and not {before, after} & set(f"'{APOSTROPHE_LETTERS}")
        return "" if joined else " "

    return lambda text: pattern.sub(run, text)


@register_rule("remove_invisible", example=Example("Auf\u00adla\u200bge"))
def _remove_invisible(argument: None, language: str | None) -> Rule:
    """Remove zero-width characters, soft hyphens and byte-order marks. Joiners stay where they are spelling:
    in Arabic script and beside a virama.
    """
    pattern = re.compile(_characters(is_invisible))

    def run(match: re.Match[str]) -> str:
        joiner = next((c for c in match.group() if c in _JOINERS), "")
        before, after = match.string[: match.start()], match.string[match.end() :][:1]
        return joiner if joiner and _joins(before, after) else ""

    return lambda text: text if text.isascii() and text.isprintable() else pattern.sub(run, text)


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between two texts is spelling."""
    virama, arabic = 9, "AL"
    base = before.rstrip("".join(c for c in set(before) if unicodedata.category(c)[0] == "M"))
    if virama in map(unicodedata.combining, before[len(base) :] + after):
        return True
    return arabic == unicodedata.bidirectional(base[-1:] or " ") == unicodedata.bidirectional(after or " ")


@register_rule("digits", argument=("keep", "remove"), example=Example("room 101", "remove"))
def _digits(choice: str, language: str | None) -> Rule:
    """Keep or remove the decimal digits of every script."""
    return (lambda text: text) if choice == "keep" else (lambda text: re.sub(r"\d", "", text))


@register_rule("apostrophes", ("keep", "remove", "unify"), Example("don’t", "remove"))
def _apostrophes(choice: str, language: str | None) -> Rule:
    """Keep or remove apostrophes, or (unify) make the typographic ones '."""
    if choice == "keep":
        return lambda text: text
    unify = lambda text: text.translate(_TYPOGRAPHIC_APOSTROPHES)  # noqa: E731
    return unify if choice == "unify" else (lambda text: unify(text).replace("'", ""))


@register_rule("collapse_whitespace", example=Example(" two   words\u00a0here "))
def _collapse_whitespace(argument: None, language: str | None) -> Rule:
    """One space between words, whatever white space there was, and none before and after them."""
    return lambda text: " ".join(text.split())
