"""Text rules: small named functions that are applied in order to every transcript, in training, scoring and
serving alike.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.registry import Registry

Rule = Callable[[str], str]
# What a rule takes after its colon: nothing (None), a type, or one of a tuple of words.
Argument = None | type | tuple[str, ...]
_RULES: Registry[tuple[Callable[[Any, str | None], Rule], Argument]] = Registry("text.rules")


class TextRules:
    """Rules in order, as one function."""

    def __init__(self, rules: Iterable[Rule]):
        self._rules = list(rules)

    def __call__(self, text: str) -> str:
        for rule in self._rules:
            text = rule(text)
        return text

    def apply_many(self, texts: Iterable[str]) -> Iterator[str]:
        """Apply the rules to each text. A rule with a method `many(texts)`, such as espeak, gets lists of
        texts, which is faster.
        """
        for chunk in chunks(texts):
            for rule in self._rules:
                many = getattr(rule, "many", None)
                chunk = many(chunk) if many else [rule(text) for text in chunk]
            yield from chunk


def chunks(texts: Iterable[str], size: int = 10_000) -> Iterator[list[str]]:
    """Yield lists of `size` texts: enough to work on at once, and little memory."""
    remaining = iter(texts)
    while chunk := list(islice(remaining, size)):
        yield chunk


def register_rule(name: str, argument: Argument = None) -> Callable:
    """Register `factory(argument, language) -> rule` as the text rule `name`.

    argument: what the rule takes after the colon: nothing (None), a type (str, dict), or one of a tuple of
    words.
    """

    def register(factory: Callable[[Any, str | None], Rule]) -> Callable[[Any, str | None], Rule]:
        _RULES.register(name)((factory, argument))
        return factory

    return register


def build_rules(rules: Iterable[Any], language: str | None) -> TextRules:
    """Build the rules of a `text` section: names (`lower`) and one-key mappings (`remove: ",?."`).

    language: of the dataset. Raises UserError for an unknown rule and for an argument that does not fit.
    """
    return TextRules(_build(rule, language) for rule in rules)


def _build(rule: Any, language: str | None) -> Rule:
    if isinstance(rule, Mapping):
        if len(rule) != 1:
            raise UserError(
                f"text.rules: {dict(rule)} is not one rule; write each rule on a line of its own, `- name:"
                " argument`."
            )
        ((name, argument),) = rule.items()
    else:
        name, argument = rule, None
    factory, accepted = _RULES.find(name)
    if isinstance(argument, Mapping):
        argument = dict(argument)
    if accepted is None and argument is not None:
        raise UserError(
            f"text.rules: {name} takes no argument, and was given {argument!r}; write `- {name}`."
        )
    if isinstance(accepted, tuple) and argument not in accepted:
        raise UserError(
            f"text.rules: {name}: {argument!r} is not one of"
            f" {', '.join(accepted)}.{nearest(argument, accepted)}"
        )
    if isinstance(accepted, type) and not isinstance(argument, accepted):
        example = '{"from": "to"}' if accepted is dict else '",?."'
        raise UserError(
            f"text.rules: {name} was given {argument!r}; it takes a {accepted.__name__}, such as `- {name}:"
            f" {example}`."
        )
    return factory(argument, language)


# ------------------------------------------------------------------------------------------------------------
# case and form

# Languages that have an i with a dot (capital İ) and one without (ı, capital I).
_DOTLESS = ("tr", "az", "turkish", "azerbaijani", "azeri")


@register_rule("lower")
def _lower(argument: None, language: str | None) -> Rule:
    if _has_dotless(language):
        return lambda text: text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı").lower()
    return str.lower


@register_rule("upper")
def _upper(argument: None, language: str | None) -> Rule:
    if _has_dotless(language):
        return lambda text: text.replace("i", "İ").upper()
    return str.upper


def _has_dotless(language: str | None) -> bool:
    return re.split("[-_]", (language or "").lower())[0] in _DOTLESS


@register_rule("nfc")
def _nfc(argument: None, language: str | None) -> Rule:
    return functools.partial(unicodedata.normalize, "NFC")


@register_rule("nfkc")
def _nfkc(argument: None, language: str | None) -> Rule:
    return functools.partial(unicodedata.normalize, "NFKC")


@register_rule("strip_accents")
def _strip_accents(argument: None, language: str | None) -> Rule:
    """é -> e, й -> и. The vowel signs of Arabic and Indic scripts, which are also combining marks, stay."""

    def strip(text: str) -> str:
        return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))

    return strip


# ------------------------------------------------------------------------------------------------------------
# characters

_TYPOGRAPHIC_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})
# Marks that some scripts write inside a word, which stays one word without them: Catalan l·l, Hebrew צה״ל,
# Armenian ինչո՞ւ.
_INSIDE_WORDS = frozenset("·‧״׳՚՛՜՝՞՟")
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


def _is_invisible(character: str) -> bool:
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


def _is_word(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] in "LMN"


@register_rule("remove", argument=str)
def _remove(characters: str, language: str | None) -> Rule:
    return lambda text: text.translate(dict.fromkeys(map(ord, characters)))


@register_rule("replace", argument=dict)
def _replace(pairs: dict[Any, Any], language: str | None) -> Rule:
    """Replace all pairs at once, the longest first: no pair changes what another has put in."""
    table = {str(old): str(new) for old, new in pairs.items()}
    if not table or "" in table:
        raise UserError(f"text.rules: replace was given {pairs!r}; each pair needs something to look for.")
    pattern = re.compile("|".join(re.escape(old) for old in sorted(table, key=len, reverse=True)))
    return lambda text: pattern.sub(lambda match: table[match.group()], text)


@register_rule("remove_punctuation")
def _remove_punctuation(argument: None, language: str | None) -> Rule:
    """Remove punctuation and symbols. Between letters they become a space (well-known, yes/no), but an
    apostrophe stays (don't).
    """
    pattern = re.compile(_characters(_is_punctuation))

    def run(match: re.Match[str]) -> str:
        text = match.string
        start, end = match.span()
        marks = match.group()
        if not (_is_word(text[start - 1 : start]) and _is_word(text[end : end + 1])):
            return ""
        return marks if marks == "'" else "" if _INSIDE_WORDS.issuperset(marks) else " "

    return lambda text: pattern.sub(run, text.translate(_TYPOGRAPHIC_APOSTROPHES))


@register_rule("remove_invisible")
def _remove_invisible(argument: None, language: str | None) -> Rule:
    """Remove zero-width characters, soft hyphens and byte-order marks. Joiners stay where they are spelling:
    in Arabic script and beside a virama.
    """
    pattern = re.compile(_characters(_is_invisible))

    def run(match: re.Match[str]) -> str:
        joiner = next((c for c in match.group() if c in _JOINERS), "")
        before, after = match.string[: match.start()], match.string[match.end() :][:1]
        return joiner if joiner and _joins(before, after) else ""

    return lambda text: pattern.sub(run, text)


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between two texts is spelling."""
    virama, arabic = 9, "AL"
    base = before.rstrip("".join(c for c in set(before) if unicodedata.category(c)[0] == "M"))
    if virama in map(unicodedata.combining, before[len(base) :] + after):
        return True
    return arabic == unicodedata.bidirectional(base[-1:] or " ") == unicodedata.bidirectional(after or " ")


@register_rule("digits", argument=("keep", "remove"))
def _digits(choice: str, language: str | None) -> Rule:
    """Keep or remove the decimal digits of every script."""
    return (lambda text: text) if choice == "keep" else (lambda text: re.sub(r"\d", "", text))


@register_rule("apostrophes", argument=("keep", "remove", "unify"))
def _apostrophes(choice: str, language: str | None) -> Rule:
    """Keep or remove apostrophes, or (unify) make the typographic ones '."""
    if choice == "keep":
        return lambda text: text
    unify = lambda text: text.translate(_TYPOGRAPHIC_APOSTROPHES)  # noqa: E731
    return unify if choice == "unify" else (lambda text: unify(text).replace("'", ""))


@register_rule("collapse_whitespace")
def _collapse_whitespace(argument: None, language: str | None) -> Rule:
    return lambda text: " ".join(text.split())


# ------------------------------------------------------------------------------------------------------------
# whole recipes


@register_rule("hf_compat")
def _hf_compat(argument: None, language: str | None) -> Rule:
    """Do what the training script of the published rows did. Its character class has the range `!-;`, so that
    apostrophes and digits are removed too.

    The trailing space is part of the training target, as it was in that script. References and hypotheses are
    stripped before they are scored.
    """
    ignored = re.compile('[,?.!-;:"“%‘”�]')
    return lambda text: ignored.sub("", text).lower() + " "


@register_rule("espeak")
def _espeak(argument: None, language: str | None) -> Rule:
    """Turn text into IPA phones separated by single spaces, without stress or word boundaries."""
    from asr_exp.data.espeak import Phonemiser

    return Phonemiser(language)
