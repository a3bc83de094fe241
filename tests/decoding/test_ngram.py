"""Language models: modified Kneser-Ney against values by hand and its definition, ARPA files against
KenLM.
"""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from arpa import conditional, score, table

from asr_exp.core.errors import UserError
from asr_exp.decoding.ngram import BEGIN, END, estimate, read_arpa, vocabulary, write_arpa


def arpa(path, sentences, order):
    model = estimate([sentence.split() for sentence in sentences], order)
    write_arpa(path, [len(one) for one in model.grams], model)
    return path


def zipf(sentences=300, words=30, seed=0):
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, words + 1)
    return [
        " ".join(f"w{i}" for i in rng.choice(words, rng.integers(1, 9), p=share / share.sum()))
        for _ in range(sentences)
    ]


def test_by_hand(tmp_path):
    """Two sentences, `a b` and `a c`: too few for discounts of their own, so 0.5 and 1."""
    found = table(arpa(tmp_path / "lm.arpa", ["a b", "a c"], 2))
    by_hand = {
        ("a",): 0.2,
        ("b",): 0.2,
        ("c",): 0.2,
        (END,): 0.3,
        ("<unk>",): 0.1,
        (BEGIN, "a"): 0.6,
        ("a", "b"): 0.35,
        ("a", "c"): 0.35,
        ("b", END): 0.65,
        ("c", END): 0.65,
    }
    assert {words: round(10**log10, 6) for words, (log10, _) in found.items() if words != (BEGIN,)} == by_hand
    assert [round(10 ** found[(word,)][1], 6) for word in (BEGIN, "a", "b")] == [0.5, 0.5, 0.5] and found[
        (BEGIN,)
    ][0] == -99


def test_discounts_that_would_be_negative_are_those_of_a_small_text(tmp_path):
    """By hand: of 8 words one comes once (and the end does), one twice, one three times, four four times: for
    three and more 3 - 4 * 0.5 * 4 / 1 would be taken off. With 0.5, 1 and 1.5 it is 9.5 of 23 in all.
    """
    text = " ".join(["a", *"bb", *"ccc", *"ddddeeeeffffgggg"])
    found = table(arpa(tmp_path / "lm.arpa", [text], 1))
    rest = 9.5 / 23 / 9  # a ninth for each word, the end and <unk>
    by_hand = {"a": 0.5 / 23 + rest, "b": 1 / 23 + rest, "d": 2.5 / 23 + rest, "<unk>": rest}
    assert {word: 10 ** found[(word,)][0] for word in by_hand} == pytest.approx(by_hand, rel=1e-5)


def defined(sentences, order):
    """P(word | context) by the definition of Chen and Goodman, one word at a time."""
    counts = [Counter() for _ in range(order)]
    for sentence in sentences:
        text = [BEGIN, *sentence.split(), END]
        for n in range(order):
            counts[n].update(tuple(text[i : i + n + 1]) for i in range(len(text) - n))
    for n in range(order - 1):
        before = defaultdict(set)
        for gram in counts[n + 1]:
            before[gram[1:]].add(gram[0])
        counts[n] = Counter(
            {gram: count if gram[0] == BEGIN else len(before[gram]) for gram, count in counts[n].items()}
        )
    counts[0].pop((BEGIN,))
    words = len(counts[0]) + 1  # and <unk>
    t = [[sum(c == k for c in one.values()) for k in range(5)] for one in counts]
    y = [one[1] / (one[1] + 2 * one[2]) for one in t]
    off = [
        [
            0,
            1 - 2 * y[n] * t[n][2] / t[n][1],
            2 - 3 * y[n] * t[n][3] / t[n][2],
            3 - 4 * y[n] * t[n][4] / t[n][3],
        ]
        for n in range(order)
    ]
    follow = [defaultdict(list) for _ in range(order)]
    for n, one in enumerate(counts):
        for gram, count in one.items():
            follow[n][gram[:-1]].append(count)

    def probability(gram):
        n = len(gram) - 1
        lower = probability(gram[1:]) if n else 1 / words
        after = follow[n].get(gram[:-1])
        if not after:
            return lower
        count = counts[n].get(gram, 0)
        return (count - off[n][min(count, 3)] + sum(off[n][min(c, 3)] for c in after) * lower) / sum(after)

    return probability


def test_it_is_modified_kneser_ney(tmp_path):
    sentences = zipf(words=400)
    found, probability = table(arpa(tmp_path / "lm.arpa", sentences, 3)), defined(sentences, 3)
    words = [word for (word,) in (gram for gram in found if len(gram) == 1) if word not in (BEGIN, "<unk>")]
    assert {len(gram) for gram in found} == {1, 2, 3} and len(found) > 1000
    for first, second in [(BEGIN, "w0"), ("w0", "w1"), ("w3", "w29"), ("w200", "w29"), ("w7", "w7")]:
        for word in words:
            assert 10 ** conditional(found, (first, second, word)) == pytest.approx(
                probability((first, second, word)), rel=1e-5
            )


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_probabilities_sum_to_one(tmp_path, order):
    found = table(arpa(tmp_path / "lm.arpa", zipf(100), order))
    words = [word for (word,) in (gram for gram in found if len(gram) == 1) if word != BEGIN]
    contexts = [gram for gram in found if len(gram) < order and gram[-1] != END][::7] + [("w1", "never seen")]
    for context in [(), *contexts]:
        assert sum(10 ** conditional(found, (*context, word)[-order:]) for word in words) == pytest.approx(
            1, abs=1e-5
        )


@pytest.mark.parametrize("order", [2, 3, 6])
def test_kenlm_reads_it_and_scores_alike(tmp_path, order):
    pytest.importorskip("flashlight.lib.text")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    path = arpa(tmp_path / "lm.arpa", zipf(), order)
    found, names = table(path), [*vocabulary(path), "never-seen"]
    model, words = KenLM(str(path), Dictionary(names)), zipf(50, seed=1)
    for sentence in [*words, "w1 never-seen w2 w3", ""]:
        state, total = model.start(False), 0.0
        for word in sentence.split():
            state, one = model.score(state, names.index(word))
            total += one
        total += model.finish(state)[1]
        assert total == pytest.approx(score(found, sentence.split(), order), abs=1e-4)


def test_marks_in_a_text_are_left_out_and_no_text_is_an_error(tmp_path):
    assert (
        arpa(tmp_path / "a", ["<s> a b </s>", "a c"], 2).read_text()
        == arpa(tmp_path / "b", ["a b", "a c"], 2).read_text()
    )
    for nothing in ([], [""], ["</s>"]):
        with pytest.raises(ValueError, match="no words"):
            arpa(tmp_path / "c", nothing, 2)


GOOD = (
    "words before\n\n\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1 <unk>\n-99\t<s>\t-0.3\n-0.5\t</s>\n\n"
    "\\2-grams:\n-0.1\t<s> </s>\n\n\\end\\\n"
)


def test_a_word_may_be_certain(tmp_path):
    (tmp_path / "lm.arpa").write_text(GOOD.replace("-0.1\t<s> </s>", "0\t<s> </s>"))
    assert list(read_arpa(tmp_path / "lm.arpa"))[-1] == (("<s>", "</s>"), 0.0, 0.0)


def test_a_file_as_others_write_it(tmp_path):
    (tmp_path / "lm.arpa").write_text(GOOD)
    assert list(read_arpa(tmp_path / "lm.arpa")) == [
        [3, 1], (("<unk>",), -1, 0), (("<s>",), -99, -0.3), (("</s>",), -0.5, 0), (("<s>", "</s>"), -0.1, 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("-99\t<s>", "nine\t<s>", "Line 9 .*'nine"),
        ("-0.5\t</s>", "0.5\t</s>", "Line 10 .*0.5"),
        ("<s> </s>", "<s>", "Line 13 .*2-gram"),
        ("ngram 1=3", "ngram 1=4", "Line 12 .*3 1-grams .*promises 4"),
        ("ngram 2=1", "ngram 3=1", "Line 5 .*ngram 2=NUMBER"),
        ("\\2-grams:", "\\3-grams:", "Line 12 .*2-grams: is due"),
        ("\\end\\\n", "", "ends, at line 14, without"),
        ("\\data\\", "", "ends, at line 15, without"),
        ("-0.1\t<s> </s>\n", "", "Line 14 .*0 2-grams .*promises 1"),
    ],
)
def test_a_broken_file_names_the_line(tmp_path, old, new, words):
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=words):
        list(read_arpa(path))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="gone.arpa cannot be read"):
        list(read_arpa(tmp_path / "gone.arpa"))
    (tmp_path / "binary.arpa").write_bytes(b"\xff\xfe\x00mmap")
    with pytest.raises(UserError, match="not text"):
        list(read_arpa(tmp_path / "binary.arpa"))


def test_logarithms_are_to_the_base_ten(tmp_path):
    assert math.isclose(
        table(arpa(tmp_path / "lm.arpa", ["a b", "a c"], 2))[("a", "b")][0], math.log10(0.35), abs_tol=1e-6
    )
