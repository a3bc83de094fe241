"""Rules for letters that Unicode has in several forms."""

import functools
import re
import unicodedata
from collections.abc import Iterator

from asr_exp.data.text.registry import Example, Rule, register_rule

# Where letters stand again in another width, font or position in the word.
_BLOCKS = (
    *range(0x2102, 0x2140),  # letterlike symbols
    *range(0xFB1D, 0xFE00),  # Hebrew, Arabic presentation forms A
    *range(0xFE70, 0xFEFD),  # Arabic presentation forms B
    *range(0xFF01, 0xFFEF),  # full and half width
    *range(0x1D400, 0x1D800),  # mathematical alphabets
    *range(0x1EE00, 0x1EEF2),  # the same in Arabic
    *range(0x1FBF0, 0x1FBFA),  # digits of a display
)
_FORMS = ("<wide>", "<narrow>", "<font>", "<initial>", "<medial>", "<final>", "<isolated>")
# Two letters in one character, the long s, the micro sign, and Roman numerals, which Unicode (section 22.3)
# would rather have written in letters.
_LIGATURES = frozenset(
    "ĳĲŀĿſµǆǅǄǉǈǇǌǋǊǳǲǱﬀﬁﬂﬃﬄﬅﬆﬓﬔﬕﬖﬗﭏ" + "".join(map(chr, (*range(0x2160, 0x2170), *range(0x2170, 0x2180))))
)
# Presentation forms of whole phrases, such as ﷺ, and the sign of the rial. ﷲ is a word.
_PHRASES = frozenset(map(chr, range(0xFDF0, 0xFDFE))) - {"ﷲ"}
_TATWEEL = "ـ"


@register_rule("unify_forms", example=Example("ﬁnd ＡＢ ｶﾞ Ⅳ m² كتـــاب"))
def _unify_forms(argument: None, language: str | None) -> Rule:
    """Write a letter one way: ligatures (ﬁ, ĳ), full-width and half-width letters, Arabic presentation forms,
    letters of another font and Roman numerals as plain letters; no tatweel. ², ½, …, ﷺ, œ and ß stay.
    """

    def unify(text: str) -> str:
        if text.isascii() or not _any_form().search(text):  # which is faster than to translate it
            return text
        return unicodedata.normalize("NFC", text.translate(_forms()))

    return unify


@functools.cache
def _forms() -> dict[int, str]:
    """The plain form of each character that has one, by its code point."""
    # What was written in Windows-1252 and read as Latin-1 has ’ as a control character.
    controls = {code: _of_windows(code) for code in range(0x80, 0xA0)}
    plain = {code: _plain(chr(code)) for code in {*_BLOCKS, *map(ord, _LIGATURES)}}
    table = {code: text for code, text in {**controls, **plain}.items() if text != chr(code)}
    return {**table, ord(_TATWEEL): "", ord("ŉ"): "'n", ord("ẛ"): "ṡ"}


@functools.cache
def _any_form() -> re.Pattern[str]:
    low = "".join(chr(code) for code in _forms() if code < 0x10000)  # `re` has a table for these alone
    return re.compile(f"[{re.escape(low)}]|[\U00010000-\U0010ffff]")


def _of_windows(code: int) -> str:
    text = bytes([code]).decode("cp1252", "replace")
    return chr(code) if text == "\ufffd" or chr(code).isspace() else text


def _plain(character: str) -> str:
    """The plain form of a character, the character itself where it has none."""
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    if character in _PHRASES or tag not in _FORMS and character not in _LIGATURES:
        return character
    # forms of Arabic vowel signs have a space or a tatweel to stand on
    return "".join(_plain(chr(int(code, 16))) for code in codes).replace(" ", "").replace(_TATWEEL, "")


@register_rule("nfc", example=Example("e\u0301"))
def _nfc(argument: None, language: str | None) -> Rule:
    """One code point for a letter and its accents, where Unicode has one (normalisation form C)."""
    return functools.partial(unicodedata.normalize, "NFC")


@register_rule("nfkc", example=Example("ﬁ x² ½ …"))
def _nfkc(argument: None, language: str | None) -> Rule:
    """Unicode's normalisation form KC, which also makes 2 of ² and three dots of …: see unify_forms."""
    return functools.partial(unicodedata.normalize, "NFKC")


@register_rule("strip_accents", example=Example("Élève йод हिन्दी"))
def _strip_accents(argument: None, language: str | None) -> Rule:
    """é -> e, й -> и. The vowel signs of Arabic and Indic scripts, which are also combining marks, stay."""

    def strip(text: str) -> str:
        return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))

    return strip


def forms_in(text: str) -> Iterator[str]:
    """The characters of a text that `unify_forms` writes otherwise."""
    return (character for character in text if ord(character) in _forms())
