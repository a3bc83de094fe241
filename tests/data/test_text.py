"""Text rules, against values written by hand and, for the old script's rule, its own expression."""

import random
import re
import sys
import unicodedata
from pathlib import Path

import pytest
import yaml

from asr_exp.core.errors import UserError
from asr_exp.data.text import build_rules, register_rule
from asr_exp.data.text.registry import RULES

TEXTS = Path(__file__).parents[2] / "conf" / "text"


def recipe(name, language=None):
    return build_rules(
        yaml.safe_load((TEXTS / f"{name}.yaml").read_text(encoding="utf-8"))["rules"], language
    )


def apply(rule, text, language=None):
    return build_rules([rule], language)(text)


@pytest.mark.parametrize(
    ("language", "text", "lower"),
    [
        (None, "IŞIK İZMİR", "işik i̇zmi̇r"),
        ("tr", "IŞIK İZMİR", "ışık izmir"),
        ("az", "QIZIL İ", "qızıl i"),
        ("tr-TR", "I\u0307 I", "i ı"),
        ("turkish", "I", "ı"),
        ("de", "STRASSE ÄÖ", "strasse äö"),
        ("el", "ΟΔΟΣ", "οδος"[:-1] + "ς"),
    ],
)
def test_lower_knows_the_language(language, text, lower):
    assert apply("lower", text, language) == lower


@pytest.mark.parametrize(
    ("language", "text", "upper"),
    [("tr", "ışık izmir", "IŞIK İZMİR"), ("en", "it is", "IT IS"), ("de", "straße", "STRASSE")],
)
def test_upper_knows_the_language(language, text, upper):
    assert apply("upper", text, language) == upper


@pytest.mark.parametrize(
    ("rule", "text", "wanted"),
    [
        ("nfc", "e\u0301", "é"),
        ("nfkc", "ﬁ²", "fi2"),
        ({"remove": ",?."}, "a,b?.", "ab"),
        ({"remove": "[]^-"}, "[a^-b]", "ab"),
        ({"replace": {"&": "and", "a": "b", "b": "a"}}, "a&b", "banda"),
        ({"replace": {"a": "1", "ab": "2"}}, "aba", "21"),
        ({"digits": "remove"}, "a1٣b", "ab"),
        ({"digits": "keep"}, "a1", "a1"),
        ({"apostrophes": "keep"}, "don’t", "don’t"),
        ({"apostrophes": "unify"}, "don’t kʼk", "don't k'k"),
        ({"apostrophes": "remove"}, "don’t 'a'", "dont a"),
        ("strip_accents", "Élève Ñandú йод ångström", "Eleve Nandu иод angstrom"),
        ("strip_accents", "हिन्दी", "हिन्दी"),
        ("strip_accents", "각", "각"),
        ("collapse_whitespace", "\u00a0a\t\u3000b\r\n\u2009", "a b"),
    ],
)
def test_a_rule(rule, text, wanted):
    assert apply(rule, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello, world!", "Hello world"),
        ("don’t 'quote' dogs' rock 'n' roll", "don't quote dogs rock n roll"),
        ("well-known yes/no", "well known yes no"),
        ("wait...what – no", "wait what  no"),
        ("¿Qué? «Oui»", "Qué Oui"),
        ("5 € + 3%", "5   3"),
        ("e-mail—now", "e mail now"),
        ("_a_b", "a b"),
        ("col·lecció", "collecció"),
        ("צה״ל", "צהל"),
        ("ինչո՞ւ", "ինչու"),
        ("नमस्ते।", "नमस्ते"),
        ("كتاب، مدرسة؟", "كتاب مدرسة"),
        ("你好，世界。", "你好 世界"),
        ("ሰላም፡ዓለም", "ሰላም ዓለም"),
        ("สวัสดี ค่ะ", "สวัสดี ค่ะ"),
        ("a\u0301-b", "a\u0301 b"),
        ("it''s", "it s"),
        ("", ""),
        ("...", ""),
    ],
)
def test_remove_punctuation(text, wanted):
    assert apply("remove_punctuation", text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\ufeffAuf\u00adla\u200bge\u200e", "Auflage"),
        ("Auf\u200clage", "Auflage"),
        ("a\x00b\tc", "ab\tc"),
        ("❤\ufe0f", "❤"),
        ("a\u034fb", "ab"),
        ("葛\U000e0100城", "葛城"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("می\u200c خواهم", "می خواهم"),
        ("می\u200c\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("ശ്രീ\u200dകല", "ശ്രീകല"),
        ("അവര്\u200d", "അവര്\u200d"),
        ("র\u200d্য", "র\u200d্য"),
    ],
)
def test_remove_invisible_keeps_joiners_where_they_spell(text, wanted):
    assert apply("remove_invisible", text) == wanted


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("en", "  “Don’t,” she said -\u00a0twice.", "don't she said twice"),
        ("tr", "IĞDIR'da İki-üç", "ığdır'da iki üç"),
        ("fr", "L’été, c'est\u202f: 20 °C", "l'été c'est 20 c"),
        ("sv-SE", "Jag sa ju, batterierna är dåliga.", "jag sa ju batterierna är dåliga"),
        ("fa", "می\u200cخواهم!", "می\u200cخواهم"),
        ("de", "re\u0301sume\u0301", "résumé"),
    ],
)
def test_standard(language, text, wanted):
    assert recipe("standard", language)(text) == recipe("standard-1", language)(text) == wanted


APOSTROPHES = "'’‘‛＇ʼʻ`´΄′‵｀᾽᾿ʹʽ՚׳ꞌꞋ❛❜\x91\x92"


@pytest.mark.parametrize("sign", APOSTROPHES, ids=ascii)
def test_an_apostrophe_inside_a_word_is_one_sign_whatever_was_typed(sign):
    standard = recipe("standard")
    assert standard(f"Don{sign}t l{sign}eau O{sign}zbek м{sign}я c{sign}h") == "don't l'eau o'zbek м'я c'h"
    assert standard(f"SQL{sign}{sign}s") == "sql's"
    assert recipe("upper")(f"don{sign}t") == "DON'T"


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        (
            "en",
            "‘quoted’ `code` ´so´ ′this′ ‛that’ 'it' dogs’ rock ’n’ roll",
            "quoted code so this that it dogs rock n roll",
        ),
        ("en", "5′ 3″ 5′3″ 6'2 90’s 1’000", "5 3 5 3 6'2 90's 1'000"),
        ("en", "word'''word it'`s a’— b’. ’’ '", "word word it's a b"),
        ("uz", "Bog‘ bog' bog` bog´ bogʻ, o‘g‘li tog’!", "bog' bog' bog' bog' bog' o'g'li tog'"),
        ("uz-Cyrl", "тоғ ‘гап’", "тоғ гап"),
        ("haw", "‘Okina 'okina `okina ʻOkina, Hawai’i ‘Ōlelo", "'okina 'okina 'okina 'okina hawai'i 'ōlelo"),
        ("sm", "fa‘afetai", "fa'afetai"),
        (None, "ʻokina bogʻ haʼátʼííʼ", "ʻokina bogʻ ha'át'ííʼ"),  # letters of Unicode stay
        ("uk", "м’ята п`ять об'єкт", "м'ята п'ять об'єкт"),
        ("hy", "կ՚երթամ ինչո՞ւ", "կ'երթամ ինչու"),
        ("he", 'צה"ל צה״ל צה”ל ג׳ירפה ג\'ירפה רח׳ "כן"', "צהל צהל צהל ג'ירפה ג'ירפה רח כן"),
        ("af", "ŉ man, 'n man", "n man n man"),
        ("ca", "col·lecció coŀlecció", "collecció collecció"),
        ("el", "αυτό·και", "αυτό και"),
    ],
)
def test_where_an_apostrophe_is_one(language, text, wanted):
    assert recipe("standard", language)(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("oﬃce ﬁnd ﬂow ﬀ ﬅ ſo", "office find flow ff st so"),
        ("Ĳsland ĳs ǆ ǈ ŉ", "IJsland ijs dž Lj 'n"),
        ("ＡＢＣ １２３ ｶﾞｷﾞｸﾞ ﾊﾟﾝ ﾡ", "ABC 123 ガギグ パン ㄱ"),
        ("كتـــاب ﻣﺮﺣﺒﺎ ﻻ ﷲ", "كتاب مرحبا لا الله"),
        ("ﺗﹷﻢ", "تَم"),
        ("Ⅳ ⅻ ℵ", "IV xii ℵ"),
        ("𝐁𝐨𝐥𝐝 𝒮 ℬ ℓ", "Bold S B l"),
        ("µ Ω K Å", "μ Ω K Å"),
        ("ﬓ և", "մն և"),
        ("don\x92t c\x9cur na\x85", "don’t cœur na\x85"),
        ("m² 10³ x₂ 1º 2ª ½ … ﷺ ① ™ ㈱ ℃", "m² 10³ x₂ 1º 2ª ½ … ﷺ ① ™ ㈱ ℃"),  # as they are
        ("œuf æther ß ẞ Ə ı İ", "œuf æther ß ẞ Ə ı İ"),
        ("٣ ३ 3", "٣ ३ 3"),
    ],
)
def test_unify_forms(text, wanted):
    assert apply("unify_forms", text) == wanted


def test_what_unify_forms_folds_is_what_unicode_says():
    """By its normalisation form KC, which knows nothing of our table; tatweel apart, which it leaves."""
    forms = build_rules(["unify_forms"], None)
    folded = 0
    for code in range(0xA0, sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) == "Cs" or character.isspace() or character in "ـŉ":
            continue
        once = forms(character)
        if once != unicodedata.normalize("NFC", character):
            folded += 1
            plain = unicodedata.normalize("NFKC", character).replace(" ", "").replace("ـ", "")
            assert unicodedata.normalize("NFKC", once).replace(" ", "") == plain, ascii(character)
            assert " " not in once and forms(once) == once
    assert folded > 1500


@pytest.mark.parametrize(
    ("language", "lower", "upper"),
    [
        (None, "izmir ii", "IZMIR II"),
        ("en", "izmir ii", "IZMIR II"),
        ("tr", "izmir iı", "İZMİR İI"),
        ("tur", "izmir iı", "İZMİR İI"),
        ("kk", "izmir iı", "İZMİR İI"),
        ("kk-Latn", "izmir iı", "İZMİR İI"),
        ("kk-Cyrl", "izmir ii", "IZMIR II"),
        ("crh", "izmir iı", "İZMİR İI"),
    ],
)
def test_a_dotted_capital_i_is_one_letter(language, lower, upper):
    assert apply("lowercase", "İZMİR I\u0307I", language) == lower
    assert apply("uppercase", "i̇zmir İI", language) == upper
    assert recipe("standard", language)("İ") == "i"


def test_kazakh_in_cyrillic_letters_has_no_dotless_i():
    assert apply("lowercase", "ҚАЗАҚ IT І", "kk") == "қазақ it і"
    assert apply("lowercase", "QAZAQ TILI", "kk") == "qazaq tılı"


def test_greek_and_german_letters():
    assert apply("lowercase", "ΟΔΟΣ ΟΔΟΣ. ΣΑΣ Σ' Α.Σ. οδοσ ςα", "el") == "οδος οδος. σας σ' α.σ. οδος σα"
    assert apply("uppercase", "straße STRAẞE", "de") == "STRASSE STRASSE"
    assert apply("lowercase", "STRAẞE", "de") == "straße"


def test_standard_is_idempotent_and_leaves_only_words():
    draw = random.Random(0)
    alphabet = [
        chr(c) for c in range(1, 0x3100) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")
    ] + list("''’‘`ʻ′·՞ΣσςaогoеﬁｶﾞЖ-. \u200c\u200d\u00adIİiı") * 60
    recipes = [("standard", one) for one in (None, "tr", "kk", "uz", "haw", "el")] + [("upper", None)]
    for name, language in [*recipes, ("standard-1", None), ("standard-1", "tr")]:
        standard = recipe(name, language)
        for _ in range(1000):
            text = "".join(draw.choices(alphabet, k=draw.randint(0, 12)))
            once = standard(text)
            assert standard(once) == once, ascii(text)
            assert once == once.strip() and "  " not in once
            assert all(unicodedata.category(c)[0] not in "PSZC" for c in once if c not in " '\u200c\u200d"), (
                ascii(text)
            )
            marks = [
                sum(unicodedata.category(c) == "Mc" for c in unicodedata.normalize("NFC", t))
                for t in (text, once)
            ]
            if name == "standard-1":  # the others write some of them otherwise
                assert marks[0] == marks[1], ascii(text)


def test_hf_compat_is_the_old_script_bug_for_bug():
    def old_script(text):  # as run_speech_recognition_ctc.py joined its --chars_to_ignore
        ignored = f"[{''.join([',', '?', '.', '!', '-', ';', ':', chr(34), '“', '%', '‘', '”', '�'])}]"
        return re.sub(ignored, "", text).lower() + " "

    rules = recipe("hf_compat", "tr")
    assert rules("DON'T stop 42") == "dont stop  "
    for code in range(min(sys.maxunicode, 0x3000)):
        assert rules(f"A{chr(code)}I") == old_script(f"A{chr(code)}I")


def test_upper_phones_and_none():
    assert recipe("upper", "en-US")("I’d like, uh, twenty-one.") == "I'D LIKE UH TWENTY ONE"
    assert recipe("phones")(" h#  sh\tix h# ") == "h# sh ix h#"
    assert recipe("none")(" As It, is ") == " As It, is "


def test_apply_many_is_the_rules_one_by_one():
    rules = recipe("standard", "en")
    texts = ["A, b", "", "A, b", "…", "İ"]
    assert list(rules.apply_many(texts)) == [rules(text) for text in texts]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["lowr"], "text.rules=lowr is not known. Did you mean 'lower'"),
        ([{"remove": None}], "remove was given None"),
        (["remove"], "remove was given None"),
        ([{"lower": True}], "lower takes no argument"),
        ([{"digits": "spell"}], "'spell' is not one of keep, remove"),
        (["digits"], "None is not one of"),
        ([{"replace": "a"}], "takes a dict"),
        ([{"replace": {}}], "needs something to look for"),
        ([{"lower": None, "nfc": None}], "is not one rule"),
        ([3], "text.rules=3 is not known"),
    ],
)
def test_a_wrong_rule_is_named(rules, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build_rules(rules, "en")


def test_a_rule_of_ones_own(monkeypatch):
    monkeypatch.setattr(RULES, "_parts", {})
    register_rule("shout", argument=int)(lambda count, language: lambda text: text + "!" * count)
    assert apply({"shout": 2}, "hey") == "hey!!"


# ------------------------------------------------------------------------------------------------------------
# espeak


@pytest.fixture
def phonemizer():
    pytest.importorskip("phonemizer", reason="the demo extra is not installed")
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")


@pytest.mark.parametrize(
    ("language", "text", "first"),
    [
        ("en-US", "Hello, world!", "h ə l oʊ w ɜː l d"),
        ("german", "Straße", "ʃ t ɾ ɑː s ə"),
        ("tr", "Bu çok.", "b ʊ tʃ ɔ k"),
        ("it", "ciao", "tʃ a o"),
        ("sv-SE", "ja", "j ɑː"),
    ],
)
def test_espeak_gives_phones_apart_without_stress(phonemizer, language, text, first):
    phones = recipe("espeak", language)(text)
    assert phones == " ".join(phones.split()) and not set(phones) & set("ˈˌ,.!()")
    assert phones == first


def test_espeak_starts_without_a_word(phonemizer, caplog):
    from asr_exp.data import espeak

    espeak._library()
    with caplog.at_level("INFO", "asr_exp"):
        espeak._backend.__wrapped__("sv")
    assert caplog.records == []


def test_espeak_says_nothing_of_foreign_words_and_numbers(phonemizer, caplog):
    with caplog.at_level("INFO"):
        phones = recipe("espeak", "tr")("2100 weekend")  # more words than one, and one of them English
    assert phones and not caplog.messages


def test_espeak_many_keeps_the_order_repeats_and_blanks(phonemizer):
    rules = recipe("espeak", "it")
    texts = ["uno", "", "due\ntre", "uno", "...", "due tre"]
    together = list(rules.apply_many(texts))
    assert together == [rules(text) for text in texts]
    assert (
        together[1] == together[4] == "" and together[2] == together[5] and together[0] == together[3] != ""
    )


@pytest.mark.parametrize(
    ("language", "message"),
    [(None, "needs to know the language"), ("xx", "dataset.language=xx is not a language of espeak-ng")],
)
def test_espeak_needs_a_language_it_has(phonemizer, language, message):
    with pytest.raises(UserError, match=message):
        recipe("espeak", language)


def test_espeak_without_the_extra_says_what_to_install(monkeypatch):
    from asr_exp.data import espeak

    espeak._library.cache_clear()
    monkeypatch.setitem(sys.modules, "phonemizer.backend", None)
    with pytest.raises(UserError, match=re.escape('pip install "asr_exp[demo]"')):
        recipe("espeak", "tr")
