"""Labels and text, against the tokenizer that transformers loads from the folder we save."""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoTokenizer, Wav2Vec2Config, Wav2Vec2CTCTokenizer

from asr_exp.core.errors import UserError
from asr_exp.data.phones import INVENTORIES
from asr_exp.data.tokenizer import Tokenizer, segment_sums
from asr_exp.data.transformers_tokenizer import SpecialTokens
from asr_exp.model.pretrained.vocabulary import read_tokenizer

TEXTS = {
    "english": ["the cat , sat .", "don't 's !", "it is n't ?"],
    "arabic": ["مَرْحَبًا بِكُمْ", "السَّلَامُ عَلَيْكُم"],
    "hindi": ["क्षत्रिय हिन्दी में", "ज़िंदगी की"],
    "thai": ["น้ำ ที่นี่", "ผู้ใหญ่"],
    "chinese": ["今天天气很好", "𠮷野家"],
    "phones": ["sh iy hh ae d", "h# q ax-h tcl"],
}


def make(name):
    return Tokenizer.build(TEXTS[name], "phone" if name == "phones" else "character")


def saved(tokenizer, folder):
    tokenizer.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert type(theirs) is Wav2Vec2CTCTokenizer
    return theirs


def head_of(outputs, folder):
    """As much of a fine-tuned checkpoint as says how many outputs it has."""
    Wav2Vec2Config().save_pretrained(folder)
    save_file({"lm_head.weight": np.zeros((outputs, 1), np.float32)}, folder / "model.safetensors")


# ------------------------------------------------------------------------------------------------------------
# making one


def test_build_sorts_characters_then_space_unknown_and_blank():
    tokenizer = Tokenizer.build(["ba  c", "é a"])
    assert tokenizer.tokens == ["a", "b", "c", "é", "|", "[UNK]", "[PAD]"]
    assert (tokenizer.blank, tokenizer.unknown, len(tokenizer)) == (6, 5, 7)


def test_build_without_spaces_has_no_space_token_and_a_bar_is_no_character():
    assert Tokenizer.build(["ba", "c|"]).tokens == ["a", "b", "c", "[UNK]", "[PAD]"]


def test_min_count_drops_rare_characters_but_never_the_space():
    tokenizer = Tokenizer.build(["aab", "a b", "c"], min_count=2)
    assert tokenizer.tokens == ["a", "b", "|", "[UNK]", "[PAD]"]
    assert tokenizer.encode("ac b").tolist() == [0, 3, 2, 1]


@pytest.mark.parametrize("texts", [[], ["", "  "], ["||"]])
def test_nothing_to_build_of(texts):
    with pytest.raises(UserError, match="training transcripts"):
        Tokenizer.build(texts)


@pytest.mark.parametrize(("inventory", "phones"), [("timit61", 61), ("timit48", 48), ("timit39", 39)])
def test_an_inventory_is_whole_whatever_was_heard(inventory, phones):
    tokenizer = Tokenizer.build(["sh"], "phone", inventory=inventory)
    assert len(tokenizer) == phones + 2
    assert [t.strip() for t in tokenizer.tokens[:-2]] == sorted(INVENTORIES[inventory])
    assert all(tokenizer.encode(p).size == 1 for p in INVENTORIES[inventory])


def test_phones_fold_to_the_inventory_trained_and_then_to_the_one_scored():
    tokenizer = Tokenizer.build([], "phone", inventory="timit48", score_inventory="timit39")
    target = tokenizer.target("h# q ao zh ix pcl h#")
    assert target == "sil ao zh ix cl sil"
    assert tokenizer.decode(tokenizer.encode(target)) == target
    assert tokenizer.scored(target) == "sil aa sh ih sil sil"


def test_characters_are_neither_folded_nor_changed():
    tokenizer = Tokenizer.build(["ao ix"])
    assert tokenizer.target("ao ix") == "ao ix" == tokenizer.scored(" ao ix ")


# ------------------------------------------------------------------------------------------------------------
# encoding and decoding


@pytest.mark.parametrize("name", TEXTS)
def test_what_was_encoded_decodes_to_itself(name):
    tokenizer = make(name)
    for text in TEXTS[name]:
        labels = tokenizer.encode(text)
        assert labels.dtype == np.int32 and tokenizer.unknown not in labels and tokenizer.blank not in labels
        assert tokenizer.decode(labels) == text
        # a combining mark is a label of its own
        assert len(labels) == (len(text.split()) if name == "phones" else len(text))


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_many_are_encoded_as_each_alone(name, unknown):
    tokens = [token for token in make(name).tokens if unknown or token.strip() != "[UNK]"]
    tokenizer = Tokenizer(
        tokens,
        "phone" if name == "phones" else "character",
        SpecialTokens(unknown="[UNK]" if unknown else "<none>"),
    )
    texts = [*TEXTS[name], "", "x?|\U0001f600 \ud800", *TEXTS["thai"], " "]
    labels, counts = tokenizer.encode_many(texts)
    assert len(counts) == len(texts) and labels.dtype == np.int32
    for text, row in zip(texts, np.split(labels, np.cumsum(counts)[:-1]), strict=True):
        units = [p + " " for p in text.split()] if name == "phones" else text.replace(" ", "|")
        found = [tokenizer.ids.get(u, tokenizer.unknown) for u in units]
        assert row.tolist() == tokenizer.encode(text).tolist() == [i for i in found if i is not None]


def test_sums_of_runs():
    assert segment_sums(np.array([1, 2, 3, 4]), np.array([0, 1, 0, 3, 0])).tolist() == [0, 1, 0, 9, 0]
    assert segment_sums(np.array([], dtype=bool), np.array([0, 0])).tolist() == [0, 0]


@pytest.mark.parametrize("name", TEXTS)
def test_encoding_is_that_of_transformers(name, tmp_path):
    tokenizer = make(name)
    theirs = saved(tokenizer, tmp_path)
    for text in TEXTS[name]:
        expected = (
            theirs.convert_tokens_to_ids([p + " " for p in text.split()])
            if name == "phones"
            else theirs(text).input_ids
        )
        assert tokenizer.encode(text).tolist() == expected


@pytest.mark.parametrize("name", TEXTS)
def test_decoding_is_that_of_transformers_for_any_emission(name, tmp_path):
    tokenizer = make(name)
    theirs = saved(tokenizer, tmp_path)
    rng, seen = np.random.default_rng(0), set()
    favoured = [tokenizer.blank, tokenizer.unknown, tokenizer.ids.get("|", 0)]
    for _ in range(300):
        ids = rng.integers(len(tokenizer), size=rng.integers(0, 30))
        ids = np.where(rng.random(len(ids)) < 0.4, rng.choice(favoured, len(ids)), ids).tolist()
        collapsed = [i for i, _ in itertools.groupby(ids)]
        assert tokenizer.decode(collapsed) == theirs.decode(ids)
        seen.add(tokenizer.decode(collapsed))
    assert len(seen) > 200


def test_repeated_spaces_apart_by_a_blank_stay_as_transformers_prints_them(tmp_path):
    tokenizer = make("english")
    space, blank, a = (tokenizer.ids[t] for t in ("|", "[PAD]", "a"))
    ids = [space, a, space, blank, space, a, blank, a, space]
    assert tokenizer.decode(ids) == "a  aa" == saved(tokenizer, tmp_path).decode(ids)


def test_a_phone_that_is_not_known_stays_a_phone_apart():
    tokenizer = make("phones")
    assert tokenizer.decode(tokenizer.encode("sh oops iy")) == "sh [UNK] iy"


def test_known_counts_units_of_speech_only():
    tokenizer = Tokenizer.build(["ab c"])
    assert tokenizer.known(tokenizer.encode("a ? b")) == 2
    assert tokenizer.known(tokenizer.encode("? !")) == 0


def test_the_saved_files_give_the_same_ids(tmp_path):
    for name in TEXTS:
        tokenizer = make(name)
        theirs = saved(tokenizer, tmp_path / name)
        assert theirs.convert_ids_to_tokens(list(range(len(tokenizer)))) == tokenizer.tokens
        assert (theirs.pad_token_id, theirs.unk_token_id) == (tokenizer.blank, tokenizer.unknown)
        head_of(len(tokenizer), tmp_path / name)
        kept = read_tokenizer(str(tmp_path / name), unit=tokenizer.unit)
        assert kept.tokens == tokenizer.tokens  # none beyond the head, where transformers adds a delimiter
        for text in TEXTS[name]:
            assert kept.encode(text).tolist() == tokenizer.encode(text).tolist()
            assert kept.decode(kept.encode(text)) == text


# ------------------------------------------------------------------------------------------------------------
# vocabularies of others


def vocabulary(folder, ids):
    path = folder / "vocab.json"
    path.write_text(ids if isinstance(ids, str) else json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    return path


def test_a_vocabulary_from_a_file_keeps_its_order(tmp_path):
    tokenizer = Tokenizer.from_vocabulary(
        vocabulary(tmp_path, {"b": 3, "<pad>": 0, "|": 2, "<unk>": 1, "a": 4})
    )
    assert tokenizer.tokens == ["<pad>", "<unk>", "|", "b", "a"] and (tokenizer.blank, tokenizer.unknown) == (
        0,
        1,
    )
    assert tokenizer.encode("ab ?").tolist() == [4, 3, 2, 1]
    assert tokenizer.decode([4, 0, 3, 2, 4]) == "ab a"


def test_without_an_unknown_token_what_is_not_known_is_left_out(tmp_path):
    tokenizer = Tokenizer.from_vocabulary(vocabulary(tmp_path, {"[PAD]": 0, "a": 1}))
    assert (
        tokenizer.unknown is None
        and tokenizer.encode("axa").tolist() == [1, 1]
        and tokenizer.known(tokenizer.encode("axa")) == 2
    )


def test_phones_from_a_file_print_apart_in_transformers_too(tmp_path):
    tokenizer = Tokenizer.from_vocabulary(
        vocabulary(tmp_path, {"[PAD]": 0, "sh": 1, "iy": 2, "[UNK]": 3}), "phone"
    )
    ids = tokenizer.encode("sh iy oops sh").tolist()
    assert ids == [1, 2, 3, 1]
    assert tokenizer.decode(ids) == "sh iy [UNK] sh" == saved(tokenizer, tmp_path / "saved").decode(ids)


@pytest.mark.parametrize(
    "ids",
    [
        "{",
        "[1]",
        "3",
        "{}",
        {"a": 0, "[PAD]": 2},
        {"a": 0, "[PAD]": 0},
        {"a": 0, "b": 1},
        {"a": "x", "[PAD]": 0},
        {"tur": {"a": 0}},
    ],
)
def test_a_vocabulary_that_cannot_be_used(tmp_path, ids):
    with pytest.raises(UserError, match=r"tokenizer\.vocabulary=.*vocab\.json"):
        Tokenizer.from_vocabulary(vocabulary(tmp_path, ids))


def test_a_vocabulary_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.json"):
        Tokenizer.from_vocabulary(tmp_path / "none.json")


def test_an_older_vocabulary_with_sentence_tokens_is_kept_whole(tmp_path):
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}
    theirs = Wav2Vec2CTCTokenizer(str(vocabulary(tmp_path, words)))
    theirs.save_pretrained(tmp_path / "model")
    head_of(len(words), tmp_path / "model")
    tokenizer = read_tokenizer(str(tmp_path / "model"))
    assert tokenizer.tokens == list(words) and (tokenizer.blank, tokenizer.unknown) == (0, 3)
    rng = np.random.default_rng(1)
    again = saved(tokenizer, tmp_path / "again")
    assert len(again) == len(words)
    for _ in range(100):
        ids = rng.integers(len(words), size=12).tolist()
        collapsed = [i for i, _ in itertools.groupby(ids)]
        assert tokenizer.decode(collapsed) == theirs.decode(ids) == again.decode(ids)


def test_a_checkpoint_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(UserError, match="no vocabulary .vocab.json."):
        read_tokenizer(str(tmp_path))


def test_a_checkpoint_whose_tokenizer_has_no_blank_in_the_head(tmp_path):
    make("english").save(tmp_path)
    head_of(5, tmp_path)
    with pytest.raises(UserError, match=r"blank .\[PAD\]. is not among the 5 outputs"):
        read_tokenizer(str(tmp_path))
