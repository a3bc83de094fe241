"""The text rules `whisper`, `open_asr_english` and `open_asr_multilingual`: the normalisers by which Whisper
and the models of the Open ASR Leaderboard are scored, made of the classes that transformers has of Whisper's.

The leaderboard is followed as of its commit d1e99b2 (August 2026). Its own classes add to Whisper's: more
fillers, 's as a verb after a few words alone, compounds, spellings of names, and acronyms.
"""

import functools
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.data.text.registry import Example, Rule, register_rule
from asr_exp.data.text.rules import build_rules

TABLES = Path(__file__).parent / "english_tables"
# Languages by the names that MLS has for them.
_CODES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
    "turkish": "tr",
}
_DOTLESS = ("tr", "az")  # they write an i without a dot, whose capital is I
_FILLERS = "hmm|mm|mhm|mmm|uh|um|ah|aha|ahh|ahm|eh|ehehe|em|hm|huh|hum|mhum|uhm|umm|uhuh"
_BEFORE_IS = "it|he|she|what|that|who|here|there|how|when|where|why|this"
# words that are written as one, after punctuation is gone, in the order in which they are looked for
_COMPOUNDS = [
    ("et", "cetera", "etc"),
    ("al", "right", "alright"),
    ("all", "right", "alright"),
    ("how", "ever", "however"),
    ("wi", "fi", "wifi"),
    ("hi", "fi", "hifi"),
    ("lo", "fi", "lofi"),
    ("sci", "fi", "scifi"),
    ("e", "mail", "email"),
    ("e", "book", "ebook"),
    ("e", "commerce", "ecommerce"),
    ("x", "ray", "xray"),
    ("t", "shirt", "tshirt"),
    ("a", "m", "am"),
    ("p", "m", "pm"),
    ("o", "k", "okay"),
]


def language_code(language: str | None) -> str | None:
    """The code of a language that is given by its code or its English name: en for en-US, de for german."""
    if not language:
        return None
    base = re.split("[-_]", language.lower())[0]
    return _CODES.get(base, base)


EXAMPLE = Example("Mr. Colour won't, uh, pay twenty-one dollars [laughs]", language="en")


@register_rule("whisper", example=EXAMPLE)
def _whisper(argument: None, language: str | None) -> Rule:
    """Do what Whisper's paper did before scoring (Radford et al. 2022, appendix C): English by its English
    normaliser, other languages by its basic one. Turkish is lower-cased as Turkish is first.
    """
    code = language_code(language)
    if code is None:
        raise UserError(
            "The rule whisper is another one for English, and the language is not known; give"
            " score.language=en, or the language's own code."
        )
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normaliser = EnglishTextNormalizer(spellings()) if code == "en" else BasicTextNormalizer()
    return _stripped(_lowered(code, normaliser))


@register_rule("open_asr_english", example=EXAMPLE)
def _open_asr_english(argument: None, language: str | None) -> Rule:
    """Do what the Open ASR Leaderboard does to English. Raises UserError for another language."""
    if language_code(language) not in (None, "en"):
        raise UserError(
            f"The rule open_asr_english is of English, and the language is {language}; give"
            " score=open-asr-multilingual, or score.language=en."
        )
    return _stripped(_leaderboard_normaliser())


@register_rule("open_asr_multilingual", example=Example("Über die Straße, ja!", language="de"))
def _open_asr_multilingual(argument: None, language: str | None) -> Rule:
    """Do what the Open ASR Leaderboard does to languages other than English: numbers are written as words of
    the language, where num2words knows it. English is normalised as English, as in its `score_results`.

    Turkish and Azeri are lower-cased as such first. The leaderboard takes str.lower, which makes an I of
    another word a dotted i and cuts words at İ.
    """
    code = language_code(language)
    if code == "en":
        return _stripped(_leaderboard_normaliser())
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    basic = BasicTextNormalizer()

    def normalise(text: str) -> str:
        return _numbers_as_words(re.sub(r"[^\w\s]", "", basic(text)).strip(), code)

    return _stripped(_lowered(code, normalise))


def _lowered(code: str | None, normaliser: Rule) -> Rule:
    """The normaliser, after the lower case of languages with a dotless i."""
    if code not in _DOTLESS:
        return normaliser
    lower = build_rules(["lower"], code)
    return lambda text: normaliser(lower(text))


def _stripped(normaliser: Rule) -> Rule:
    """The normaliser, with single spaces and none at the ends, which count as no word but as characters."""
    return lambda text: " ".join(normaliser(text).split())


def spellings(leaderboard: bool = False) -> dict[str, str]:
    """British spellings, and others of one word, by what Whisper or the leaderboard writes for them."""
    rows = ((row[0], row[-1] if leaderboard else row[1]) for row in _rows("spellings.tsv"))
    return {word: written for word, written in rows if written != "-"}


def _rows(name: str) -> Iterator[list[str]]:
    """The rows of a table, without its comments."""
    lines = (TABLES / name).read_text(encoding="utf-8").splitlines()
    return (line.split("\t") for line in lines if not line.startswith("#"))


# ------------------------------------------------------------------------------------------------------------
# the leaderboard's English


@functools.cache
def _leaderboard_normaliser() -> Rule:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normaliser: Any = EnglishTextNormalizer(spellings(leaderboard=True))
    normaliser.ignore_patterns = rf"\b({_FILLERS})\b"
    verb = rf"\b({_BEFORE_IS})'s\b", r"\1 is"
    normaliser.replacers = dict(
        verb if found == r"'s\b" else (found, written) for found, written in normaliser.replacers.items()
    )
    # Whisper's normaliser calls these two after each other: compounds come before, names and acronyms after.
    compounds = [(re.compile(rf"\b{first}\s+{second}\b"), written) for first, second, written in _COMPOUNDS]
    names = {row[0]: row[1] for row in _rows("names.tsv")}
    numbers, spelling = normaliser.standardize_numbers, normaliser.standardize_spellings
    normaliser.standardize_numbers = _after(functools.partial(_replace_all, compounds), numbers)
    normaliser.standardize_spellings = _after(
        spelling, lambda text: _join_letters([names.get(word, word) for word in text.split()])
    )
    return normaliser


def _after(first: Rule, second: Rule) -> Rule:
    return lambda text: second(first(text))


def _replace_all(pairs: list[tuple[re.Pattern[str], str]], text: str) -> str:
    for pattern, written in pairs:
        text = pattern.sub(written, text)
    return text


def _join_letters(words: list[str]) -> str:
    """The words, with runs of single letters and digits written as one word: b b c, 5 g. A run with a or i,
    which are words themselves, is joined from three on.
    """
    joined: list[str] = []
    for single, run in groupby(words, lambda word: len(word) == 1 and word.isalnum()):
        run_words = list(run)
        least = 3 if {"a", "i"} & set(run_words) else 2
        joined += ["".join(run_words)] if single and len(run_words) >= least else run_words
    return " ".join(joined)


# ------------------------------------------------------------------------------------------------------------
# numbers in other languages


def _numbers_as_words(text: str, code: str | None) -> str:
    """The text with its numbers in words, 10 000 as one number; as it is where no language is given.

    Raises UserError where there is a number, and num2words is not installed.
    """
    if code is None or not re.search(r"\d", text):
        return text
    text = re.sub(r"(\d)\s+(\d{3})\b", r"\1\2", text)
    return re.sub(r"\d+", functools.partial(_in_words, code=code, convert=_num2words()), text)


def _in_words(number: re.Match[str], code: str, convert: Callable[..., str]) -> str:
    try:
        return convert(int(number.group()), lang=code)
    except Exception:  # a language or a number that num2words does not know; it raises errors of many kinds
        return number.group()


def _num2words() -> Callable[..., str]:
    try:
        from num2words import num2words
    except ImportError as error:
        raise UserError(
            "score=open-asr-multilingual writes numbers as words by num2words, which is not installed: pip"
            " install num2words (or asr_exp[score])"
        ) from error
    return num2words
