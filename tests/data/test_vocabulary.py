"""What a vocabulary lacks of transcripts, against counts by hand, and which text rules mend it."""

import pytest

from asr_exp.data.text import build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.transformers_tokenizer import SpecialTokens
from asr_exp.data.vocabulary import coverage, mending_rules

UPPER = ["[PAD]", "[UNK]", "|", "'", *"ABC"]


@pytest.mark.parametrize("tokens", [UPPER, [t for t in UPPER if t != "[UNK]"]])
def test_characters(tokens):
    """Spaces are no matter, nor whether there is an [UNK]; a bar, which is written for a space, cannot be
    emitted as a bar.
    """
    found = coverage(["AB CA", "", "ab c", "A é|b'", " "], Tokenizer(tokens))
    assert found.known.tolist() == [4, 0, 0, 2, 0] and found.unknown.tolist() == [0, 0, 3, 3, 0]
    assert found.inside == {"A": 3, "B": 1, "C": 1, "'": 1} and found.outside == {
        "a": 1,
        "b": 2,
        "c": 1,
        "é": 1,
        "|": 1,
    }
    assert (found.spoken, found.touched, found.lost, found.hollow) == (3, 2, 1, 1) and found.share == 6 / 12


def test_hardly_anything_left():
    texts = ["aaaaA", "aaaA", "aA"]  # a fifth, a quarter and a half can be written
    assert coverage(texts, Tokenizer(UPPER)).hollow == 1


def test_phones():
    """By the inventory that is trained on: timit61's ax-h folds to ax, the glottal stop q to nothing."""
    named = Tokenizer.build([], "phone", "timit48")
    assert coverage(["sh ax-h q", "sh"], named).outside == {}
    own = Tokenizer(["sh", "iy", "[UNK]", "[PAD]"], "phone")
    found = coverage(["sh iy", "SH iy", "SH IY SH"], own)
    assert found.outside == {"SH": 3, "IY": 1} and found.lost == 1 and found.known.tolist() == [2, 1, 0]
    rules = {name: build_rules([name], None) for name in ("upper", "lower")}
    assert mending_rules(["sh iy", "SH iy", "SH IY SH"], own, rules) == ("lower", True)


def test_a_blank_that_is_a_hyphen_is_not_emitted():
    assert coverage(["A-B"], Tokenizer(["-", "|", "A", "B"], special=SpecialTokens("-"))).outside == {"-": 1}


def test_many_transcripts_of_many_characters():
    """More than are looked at together, of which each part has characters of its own."""
    characters = [chr(0x4E00 + i) for i in range(6000)]
    texts = [
        characters[i % 6000] + characters[(7 * i) % 6000] + "\U00020000" * (i % 3 == 0) for i in range(25_000)
    ]
    found = coverage(texts, Tokenizer(["[PAD]", "[UNK]", *characters[:5000]]))
    has = set(characters[:5000])
    lacking = [sum(c not in has for c in text) for text in texts]
    assert found.unknown.tolist() == lacking and (found.known + found.unknown).tolist() == [
        len(text) for text in texts
    ]
    assert (
        found.outside["\U00020000"] == len(range(0, 25_000, 3))
        and len(found.outside) == 1001
        and len(found.inside) == 5000
    )


def test_the_first_rules_that_mend():
    tokenizer, tried = (
        Tokenizer(UPPER),
        {name: build_rules([name], None) for name in ("lower", "upper", "strip_accents")},
    )
    assert mending_rules(["abc", "ab"], tokenizer, tried) == ("upper", True)
    assert mending_rules(["abc", "ax"], tokenizer, tried) == ("upper", False)
    assert mending_rules(["ÀB"], tokenizer, tried) == ("strip_accents", True)
    assert mending_rules(["AX", "B"], tokenizer, tried) is None
    emptied = {"remove": build_rules([{"remove": "abx"}], None)}
    assert mending_rules(["ab", "x"], tokenizer, emptied) is None  # what is taken away is not mended
