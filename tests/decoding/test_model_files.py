"""Files of language models and of words, told by their content: against KenLM's own build_binary, and against
files that are often given by mistake.
"""

import base64
import bz2
import gzip
import lzma
import os
import pickle
import zipfile
import zlib

import pytest
import torch

from asr_exp.core.errors import UserError
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.beam import Beam, spelled
from asr_exp.decoding.language_model import read_lexicon, text_file, words_beside
from asr_exp.decoding.model_files import find_model, is_kenlm, read_content, words_of
from asr_exp.decoding.ngram import estimate, is_whole_arpa, vocabulary, write_arpa

# What `build_binary trie` makes of the trigrams of SENTENCES (KenLM at commit 4cb443e60b).
SENTENCES = ["ba di go", "lu me ba", "go go di ba", "me lu"] * 3
BINARY = zlib.decompress(
    base64.b85decode(
        b"c-qU&O)OBz$yLZGDJihh*U!#KO-##7%}LQq&d=3P&QD2INXswEO)OC;OD!tS%+FIW<zhg9274f}pAks>2Lg}?BUFYN"
        b"Odhajf{KAK2ULz9O7kF@#15qk>J;}{wv{q)<$V8GTl^r~d9mt0>50EO*;FM@>YU5ldB2La`=7Sx!3PX;Gg%h2o}S~$"
        b"v#K_)<2uZo;4PE(gB*r1`PiY^3bXdXcnZQUDDogaNS+zWcaV(%^V!hkInd;}(fGU!sDPgVJ5bi0_z`4ROP4A4H&CFo"
        b"MP4}d8ziHC!X>H>WR%GzA<6x|0>1H9+)<VH)jF2tv%Z{kHecA~^7S`Y4&2|)x#(rKquQlUw^=TJvE8&_>i68Hj9>Ra"
        b"#+W&p)EatB&jB0bxt#6aKA<u8=d1{w05WEM*cGi4AY;m5k#qp&s^f>4o-XF~<GG((ko2SDNWn329i4!EN``Yjvc7cd"
        b"JMY1hUgMl(@tFHkugv`&tr0&D=^i=7j_fU)(!6Xt2Ag6a)&~;l`3$+K3`vO$Ii(CKnG66OLahA"
    )
)
WORDS = ["ba", "di", "go", "lu", "me"]
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
LETTERS = Tokenizer.build([" ".join(WORDS)])


def arpa(path):
    model = estimate([text.split() for text in SENTENCES], 3)
    write_arpa(path, [len(grams) for grams in model.grams], model)
    return path


def found(path, cache):
    return find_model(path, cache, "decode.lm", "give another")


@pytest.mark.parametrize("name", ["lm.bin", "lm.binary", "lm.arpa", "lm.txt", "lm"])
def test_a_binary_of_kenlm_is_one_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BINARY)
    assert is_kenlm(path) and found(path, tmp_path) == path
    assert sorted(words_of(path)) == sorted(words_beside(path)) == WORDS
    (tmp_path / "unigrams.txt").write_text("ba\ngo\n")
    assert words_beside(path) == ["ba", "go"]


def test_the_binary_gives_the_texts_and_scores_of_the_arpa_file(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    binary, text = tmp_path / "lm.txt", arpa(tmp_path / "lm.arpa")
    binary.write_bytes(BINARY)
    logits = torch.randn(2, 12, len(LETTERS.tokens), generator=torch.Generator().manual_seed(0))
    results = [
        Beam(LETTERS, path, spelled(words_of(path), LETTERS)[0]).candidates(logits, [12, 9])
        for path in (binary, text)
    ]
    for row, expected in zip(*results, strict=True):
        assert [one.text for one in row] == [one.text for one in expected] and row[0].text
        assert [one.score for one in row] == pytest.approx([one.score for one in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.replace(b"version 5", b"version 4"), "of another version"),
        (lambda data: b"mmap lm http://kheafield.com/code incomplete\n" + bytes(100), "never finished"),
    ],
)
def test_a_binary_that_cannot_be_used_is_refused_by_name(tmp_path, change, words):
    path = tmp_path / "lm.bin"
    path.write_bytes(change(BINARY))
    with pytest.raises(UserError, match=f"decode.lm=.*lm.bin is a binary of KenLM that .*{words}"):
        found(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:60], "no whole binary"),
        (lambda data: data[:-3], "its words are damaged"),
        (lambda data: data[:300], "its words are damaged"),
        (lambda data: data[:100] + b"\0" + data[101:], "built without its words"),
    ],
)
def test_a_binary_without_its_words_is_told_of(tmp_path, change, words):
    path = tmp_path / "lm.bin"
    path.write_bytes(change(BINARY))
    with pytest.raises(UserError, match=words):
        words_of(path)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("suffix", ["right", "none"])
def test_packed_files_are_read(tmp_path, packer, suffix):
    content = arpa(tmp_path / "lm.arpa").read_bytes()
    path = tmp_path / ("packed" if suffix == "none" else f"lm.arpa.{packer}")
    path.write_bytes(PACKERS[packer](content))
    model = found(path, tmp_path / "cache")
    assert model.parent == tmp_path / "cache" and model.read_bytes() == content
    assert sorted(vocabulary(model)) == WORDS
    path.write_bytes(PACKERS[packer](BINARY))
    assert found(path, tmp_path / "cache").read_bytes() == BINARY
    path = tmp_path / f"text.{packer}"
    path.write_bytes(PACKERS[packer]("\ufeffba di\ngö\n".encode()))
    assert found(path, tmp_path) is None
    plain = tmp_path / "text.txt"
    plain.write_text("\ufeffba di\ngö\n")
    (name, lines), (other, _) = text_file(path, list, 1), text_file(plain, list, 1)
    assert list(lines()) == ["ba di", "gö"] and name == other
    path.write_bytes(PACKERS[packer](b"ba b a\ndi d i\n"))
    assert list(read_lexicon(str(path), LETTERS, list)) == ["ba", "di"]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    "harm", [lambda data: data[:-20], lambda data: data[:200] + b"\0\1\2\3" + data[204:]]
)
def test_a_damaged_packed_file_ends_in_a_sentence_and_leaves_nothing(tmp_path, packer, harm):
    path = tmp_path / f"lm.arpa.{packer}"
    path.write_bytes(harm(PACKERS[packer](arpa(tmp_path / "lm.arpa").read_bytes())))
    with pytest.raises(UserError, match="decode.lm=.* cannot be read"):
        found(path, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lm.arpa", "x")


MISTAKES = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "pipe": (os.mkfifo, "a pipe"),
    "missing": (lambda path: None, "No such file"),
    "zip": (zipped, "zip archive"),
    "utf-16": (lambda path: path.write_text("ba di", encoding="utf-16"), "UTF-16"),
    "utf-16 without a mark": (lambda path: path.write_bytes("ba di".encode("utf-16-le")), "binary"),
    "latin-1": (lambda path: path.write_text("gö ba\n", encoding="latin-1"), "not text in UTF-8"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"ba": [1.5]})), "binary|not text"),
    "weights": (lambda path: torch.save({"a": torch.zeros(2)}, path), "zip archive"),
    "packed pickle": (lambda path: path.write_bytes(gzip.compress(pickle.dumps(WORDS))), "binary|not text"),
    "zstd": (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(50)), "zstd"),
}


@pytest.mark.parametrize(("make", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_no_model_and_no_text_ends_in_a_sentence(tmp_path, make, words):
    path = tmp_path / "file"
    make(path)
    with pytest.raises(UserError, match=words) as error:
        assert found(path, tmp_path) is None
        read_content(path, "decode.lm", "give another")
    assert "decode.lm=" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=words) as error:
        read_lexicon(str(path), LETTERS, list)
    assert "decode.lexicon=" in str(error.value)


def test_a_model_is_no_lexicon(tmp_path):
    (tmp_path / "lm.bin").write_bytes(BINARY)
    for path, kind in ((tmp_path / "lm.bin", "a binary of KenLM"), (arpa(tmp_path / "a"), "an ARPA file")):
        with pytest.raises(UserError, match=f"decode.lexicon=.* is {kind}, no text; give it as decode.lm"):
            read_lexicon(str(path), LETTERS, list)


@pytest.mark.parametrize("with_checksum", [True, False])
def test_a_model_that_was_made_and_damaged_is_not_whole(tmp_path, caplog, with_checksum):
    path = arpa(tmp_path / "lm.arpa")
    whole, checksum = path.read_bytes(), tmp_path / "lm.arpa.crc32"
    assert is_whole_arpa(path) and int(checksum.read_text()) == zlib.crc32(whole)
    if not with_checksum:  # as earlier releases left it
        checksum.unlink()
        assert is_whole_arpa(path)
    harms = [whole[:-20], b"", bytes(len(whole))]
    harms += [whole.replace(b"-0.7", b"-0.8", 1)] * with_checksum
    for content in harms:
        path.write_bytes(content)
        caplog.clear()
        assert not is_whole_arpa(path) and "damaged" in caplog.text
    path.unlink()
    assert not is_whole_arpa(path)
    assert is_whole_arpa(arpa(path)) and path.read_bytes() == whole
