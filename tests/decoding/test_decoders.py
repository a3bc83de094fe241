"""Greedy decoding against transformers' batch_decode, and decoders by name."""

import re

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer

from asr_exp.core.errors import UserError
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.decoders import make_decoder

TEXTS = [
    (["the cat sat", "ärger"], "character"),
    (["今天天气", "很好"], "character"),
    (["sh iy hh"], "phone"),
]


def one_space(text):
    return re.sub(" +", " ", text)


@pytest.mark.parametrize(("texts", "unit"), TEXTS)
def test_greedy_prints_what_transformers_prints(tmp_path, texts, unit):
    tokenizer = Tokenizer.build(texts, unit)
    tokenizer.save(tmp_path)
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    decoder = make_decoder("greedy", tokenizer, {})
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = torch.randn(5, 40, len(tokenizer), generator=generator)
        logits[..., tokenizer.blank] += 0.8  # repeats and blanks, as an emission has them
        logits = logits.repeat_interleave(2, dim=1)
        frames = rng.integers(0, 81, 5).tolist()
        best = logits.argmax(-1)
        expected = [one_space(theirs.decode(row[:n])) for row, n in zip(best, frames, strict=True)]
        assert decoder(logits, frames) == expected
        assert decoder(logits, [80] * 5) == [one_space(text) for text in theirs.batch_decode(best)]


def test_greedy_by_hand():
    tokenizer = Tokenizer.build(["ab c"])  # a b c | [UNK] [PAD]
    ids = torch.tensor([[0, 0, 5, 0, 1, 3, 3, 2, 2], [5, 5, 3, 1, 1, 5, 3, 0, 0]])
    logits = torch.nn.functional.one_hot(ids, 6).float()
    assert make_decoder("greedy", tokenizer, {})(logits, [9, 7]) == ["aab c", "b"]
    assert make_decoder("greedy", tokenizer, {})(logits, [0, 1]) == ["", ""]


def test_two_spaces_around_a_blank_are_one():
    """`a | blank | b`: jiwer counts no error in "a  b", so neither does the rate of characters."""
    tokenizer = Tokenizer.build(["a b"])  # a b | [UNK] [PAD]
    ids = torch.tensor([[0, 2, 4, 2, 1], [2, 4, 2, 0, 2]])
    assert make_decoder("greedy", tokenizer, {})(torch.nn.functional.one_hot(ids, 5).float(), [5, 5]) == [
        "a b",
        "a",
    ]
    assert tokenizer.scored(" a  b\u3000c ") == "a b c"


def test_an_unknown_decoder_is_an_error_with_the_nearest_name():
    with pytest.raises(UserError, match=r"decode\.name=greedi .*'greedy'"):
        make_decoder("greedi", Tokenizer.build(["a"]), {})
