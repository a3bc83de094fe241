"""The rules of Whisper and of the Open ASR Leaderboard: values by hand, and transformers' own classes where
the two coincide.
"""

import builtins
import random

import pytest
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishNumberNormalizer,
    EnglishTextNormalizer,
)

from asr_exp.core.errors import UserError
from asr_exp.data.text import build_rules
from asr_exp.data.text.english import language_code, spellings


def apply(rule: str, text: str, language: str | None = "en") -> str:
    return build_rules([rule], language)(text)


# what the leaderboard's code (d1e99b2) gives for each
LEADERBOARD = {
    "Don't you know? He's late.": "do not you know he is late",
    "John's dog isn't here, it's there.": "john s dog is not here it is there",
    "Mr. Smith met Dr. Jones on Main St.": "mister smith met doctor jones on main saint",
    "twenty five dollars and two hundred and one": "$25 and 201",
    "The colour of aluminium, uh, um, ok": "the color of aluminum okay",
    "[noise] so (laughs) naïve café": "so naive cafe",
    "Wi-Fi and e-mail, all right?": "wifi and email alright",
    "the B B C and 5 G of a b": "the bbc and 5g of a b",
    "Kathryn and Jon saw Stephen": "catherine and john saw steven",
    "10,000 people, 50% at 3.5": "10000 people 50% at 3.5",
    "  ": "",
    "[noise]": "",
}


@pytest.mark.parametrize("text", LEADERBOARD)
def test_the_leaderboards_english(text):
    assert apply("open_asr_english", text) == LEADERBOARD[text]


OTHERS = "we're they've I'd can't Mrs. Capt. £5 1,000 30% café the cats sat (oh) <unk> hmm well-known"


def sentences(count: int) -> list[str]:
    """Sentences of number words, British spellings, contractions and signs, of which the leaderboard makes
    what Whisper does.
    """
    rng, theirs = random.Random(11), spellings(leaderboard=True)
    known = [word for word, american in spellings().items() if theirs.get(word) == american]
    kinds = [known, sorted(EnglishNumberNormalizer().words - {"o"}), OTHERS.split()]
    lengths = [rng.randint(0, 12) for _ in range(count)]
    return [" ".join(rng.choice(rng.choice(kinds)) for _ in range(length)) for length in lengths]


def test_where_they_coincide_the_leaderboards_english_is_transformers_own():
    whisper = EnglishTextNormalizer(spellings())
    for text in sentences(2000):
        expected = " ".join(whisper(text).split())
        assert apply("whisper", text) == expected
        assert apply("open_asr_english", text) == expected


def test_whisper_is_basic_in_other_languages():
    text = "Straße (lacht) l'eau, Ça va? 25%"
    assert (
        apply("whisper", text, "de")
        == " ".join(BasicTextNormalizer()(text).split())
        == "straße l eau ça va 25"
    )
    with pytest.raises(UserError, match="score.language=en"):
        apply("whisper", text, None)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("de", "Über 21 Häuser (lacht), 1 000 Euro!", "über einundzwanzig häuser eintausend euro"),
        ("german", "Über 21", "über einundzwanzig"),
        ("fr", "Aujourd'hui, l'été 80", "aujourd hui l été quatre vingts"),
        ("xx", "a 12", "a 12"),
        (None, "a 12, b", "a 12 b"),
        ("en", "Don't, 21", "do not 21"),
    ],
)
def test_other_languages(language, text, expected):
    pytest.importorskip("num2words")
    assert apply("open_asr_multilingual", text, language).replace("-", " ") == expected


def test_turkish_keeps_its_i():
    """The leaderboard writes "i stanbul isparta", with a dot on both."""
    for rule in ("whisper", "open_asr_multilingual"):
        assert apply(rule, "İstanbul, Isparta!", "tr") == "istanbul ısparta"
        assert apply(rule, "ISPARTA", "de") == "isparta"


def test_numbers_need_num2words_and_say_so(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "num2words":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert apply("open_asr_multilingual", "keine", "de") == "keine"
    with pytest.raises(UserError, match="pip install num2words"):
        apply("open_asr_multilingual", "12", "de")


def test_english_rules_are_of_english():
    with pytest.raises(UserError, match="open-asr-multilingual"):
        build_rules(["open_asr_english"], "tr")
    assert [language_code(one) for one in ("en-US", "English", "tr_TR", "german", "", None)] == [
        "en",
        "en",
        "tr",
        "de",
        None,
        None,
    ]
