"""Rules for capitals and small letters, in the languages' own ways."""

import re

from asr_exp.data.text.registry import Example, Rule, primary_subtag, register_rule

# Languages that have an i with a dot (capital İ) and one without (ı, capital I): those that `lower` knows,
_DOTLESS = ("tr", "az", "turkish", "azerbaijani", "azeri")
# all of them, and those that are written in Cyrillic script too, where an I is no letter of theirs.
DOTLESS = frozenset({*_DOTLESS, "tur", "aze", "azj", "crh", "crimean", "gag", "gagauz"})
DOTLESS_IN_LATIN = frozenset({"kk", "kaz", "kazakh", "tt", "tat", "tatar"})
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_DOT = "\u0307"
# A sigma ends a word where a letter stands before it, and neither a letter nor an apostrophe behind it.
_FINAL_SIGMA = re.compile(r"(?<=[^\W\d_])σ(?![\w'’\u0300-\u036f])")
_SIGMA_WITHIN = re.compile(r"ς(?=[^\W\d_])|(?<![\w'’\u0300-\u036f])ς")


@register_rule("lowercase", example=Example("Diyarbakır IŞIĞI", language="tr"))
def _lowercase(argument: None, language: str | None) -> Rule:
    """Small letters, by the language: an I of Turkish, Azeri, Crimean Tatar, Gagauz and of Kazakh and Tatar
    in Latin script is ı. Elsewhere İ is one letter, i. A sigma at the end of a word is ς, another is σ.
    """

    may_be_dotless = _may_be_dotless(language)

    def lower(text: str) -> str:
        if not may_be_dotless and text.isascii():
            return text.lower()
        text = _lowered(text, may_be_dotless and is_dotless(language, text))
        if "σ" in text or "ς" in text:
            text = _SIGMA_WITHIN.sub("σ", _FINAL_SIGMA.sub("ς", text))
        return text

    return lower


def _lowered(text: str, dotless: bool) -> str:
    text = text.replace(f"I{_DOT}", "i").replace("İ", "i").replace("I", "ı" if dotless else "i")
    return text.lower().replace(f"i{_DOT}", "i")


@register_rule("uppercase", example=Example("Diyarbakır ışığı", language="tr"))
def _uppercase(argument: None, language: str | None) -> Rule:
    """Capitals, by the language: an i of Turkish and its like (see lowercase) is İ, and İ is I elsewhere. ß
    and its capital are SS.
    """

    def upper(text: str) -> str:
        text = text.replace(f"i{_DOT}", "i").replace(f"I{_DOT}", "İ").replace("ẞ", "SS")
        dotted = is_dotless(language, text)
        return (text.replace("i", "İ") if dotted else text.replace("İ", "I")).upper()

    return upper


def is_dotless(language: str | None, text: str = "") -> bool:
    """Whether a text is in a language with a dotless i, ı.

    Kazakh has one in Latin script (the alphabet of 2021), and so has Tatar: a text of theirs with a Cyrillic
    letter is in Cyrillic script, whose і is another letter.
    """
    code = primary_subtag(language)
    return code in DOTLESS or _may_be_dotless(language) and not _CYRILLIC.search(text)


def _may_be_dotless(language: str | None) -> bool:
    code, *others = (language or "").lower().replace("_", "-").split("-")
    return code in DOTLESS or code in DOTLESS_IN_LATIN and "cyrl" not in others


# ------------------------------------------------------------------------------------------------------------
# as earlier versions had them; their scores depend on it


@register_rule("lower", example=Example("IŞIK İZMİR", language="tr"))
def _lower(argument: None, language: str | None) -> Rule:
    """Small letters, as Unicode has them but for Turkish and Azeri; see lowercase for other languages."""
    if primary_subtag(language) in _DOTLESS:
        return lambda text: text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı").lower()
    return str.lower


@register_rule("upper", example=Example("ışık izmir", language="tr"))
def _upper(argument: None, language: str | None) -> Rule:
    """Capitals, as Unicode has them but for Turkish and Azeri; see uppercase for other languages."""
    if primary_subtag(language) in _DOTLESS:
        return lambda text: text.replace("i", "İ").upper()
    return str.upper
