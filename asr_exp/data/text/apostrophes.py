"""The rule for apostrophes: which signs are one, and where they are a quotation mark, a prime or a letter.

Sources: Unicode's standard annex 29 (word boundaries), its list of characters confusable with ', and the
orthographies of the languages.
"""

import re
import unicodedata

from asr_exp.data.text.characters import APOSTROPHE_LETTERS, is_word
from asr_exp.data.text.registry import Example, Rule, primary_subtag, register_rule

# Signs that are typed for an apostrophe: beside letters and digits, and between letters alone (after a digit
# they are primes: 5′).
QUOTES = "'’‘‛＇ʼʻ"
APOSTROPHES = f"{QUOTES}{APOSTROPHE_LETTERS}`´΄′‵｀᾽᾿՚׳❛❜"
_RUN = re.compile(f"[{re.escape(APOSTROPHES)}]+")
# Uzbek: the letters oʻ and gʻ, which also end words.
_UZBEK = frozenset({"uz", "uzb", "uzn", "uzbek"})
# Hawaiian, Samoan, Tongan, Tahitian, Cook Islands Māori: a consonant, before a vowel, which begins words too.
_POLYNESIAN = frozenset(
    {"haw", "hawaiian", "sm", "smo", "samoan", "to", "ton", "tongan", "ty", "tah", "tahitian", "rar"}
)
_VOWELS = frozenset("aeiouāēīōūAEIOUĀĒĪŌŪ")
# Gershayim before the last letter of a Hebrew acronym, typed as a quotation mark.
_GERSHAYIM = re.compile('(?<=[\u05b0-\u05ea])["“”„](?=[\u05d0-\u05ea])')


@register_rule("unify_apostrophes", example=Example("don`t l´eau O‘zbek ‘quoted’ dogs' 5′3″"))
def _unify_apostrophes(argument: None, language: str | None) -> Rule:
    """Write every apostrophe inside a word as ', and remove what looks like one at its ends, where it is a
    quotation mark. Letters stay there (ʻokina), and so does any sign that the language has for one (Uzbek
    bog‘, Hawaiian ‘okina).
    """
    code = primary_subtag(language)
    ends_words, begins_words = code in _UZBEK, code in _POLYNESIAN

    def written(match: re.Match[str]) -> str:
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        signs = match.group()
        if is_word(before) and is_word(after):
            beside_digit = "N" in unicodedata.category(before) + unicodedata.category(after)
            one = len(signs) <= 2 and (not beside_digit or set(signs) <= set(QUOTES))
            return "'" if one else " "
        if (
            ends_words
            and before in tuple("oOgG")
            or begins_words
            and not is_word(before)
            and after in _VOWELS
        ):
            return "'"
        return "".join(sign for sign in signs if is_word(sign))

    def unify(text: str) -> str:
        if text.isascii() and "'" not in text and "`" not in text and '"' not in text:
            return text
        return _RUN.sub(written, _GERSHAYIM.sub("״", text))

    return unify
