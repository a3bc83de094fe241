"""Compounds: values by hand, and against the best of all ways to write the hypothesis."""

import random

import jiwer
import pytest

from asr_exp.scoring.compounds import count_merging, join_compounds
from asr_exp.scoring.error_rates import ErrorCounts, word_errors
from asr_exp.scoring.score_rules import ScoreRules


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts", "written"),
    [
        ("the white paper", "the whitepaper", (0, 0, 0, 3), "the white paper"),
        ("the whitepaper", "the white paper", (0, 0, 0, 2), "the whitepaper"),
        ("a b c", "abc", (0, 0, 0, 3), "a b c"),
        ("white paper", "white papers", (1, 0, 0, 2), "white papers"),
        ("whitepaper", "white", (1, 0, 0, 1), "white"),
        ("one two", "", (0, 2, 0, 2), ""),
        ("", "one two", (0, 0, 2, 0), "one two"),
        ("x ice cream y", "icecream y z", (0, 1, 1, 4), "ice cream y z"),
        ("", "", (0, 0, 0, 0), ""),
    ],
)
def test_counts_by_hand(reference, hypothesis, counts, written):
    found = count_merging(reference.split(), hypothesis.split())
    assert found == (ErrorCounts(*counts), written.split())


def test_words_without_compounds_are_counted_as_jiwer_does():
    rng = random.Random(3)
    for _ in range(300):
        pair = [
            " ".join(rng.choices(["alpha", "beta", "gamma", "delta"], k=rng.randint(1, 12))) for _ in "ab"
        ]
        counts, written = count_merging(*(text.split() for text in pair))
        output = jiwer.process_words(*pair)
        assert counts.errors == output.substitutions + output.deletions + output.insertions
        assert written == pair[1].split()


def respellings(words: list[str], other: list[str]) -> set[str]:
    """Every way to write words in which some in a row are joined to a word of the other text, or one is split
    into words that stand in a row there.
    """
    if not words:
        return {""}
    wholes = set(other)
    rows = {"".join(other[i:j]): other[i:j] for i in range(len(other)) for j in range(i + 2, len(other) + 1)}
    found = {f"{words[0]} {rest}".strip() for rest in respellings(words[1:], other)}
    for count in range(2, len(words) + 1):
        if (joined := "".join(words[:count])) in wholes:
            found |= {f"{joined} {rest}".strip() for rest in respellings(words[count:], other)}
    if words[0] in rows:
        split = " ".join(rows[words[0]])
        found |= {f"{split} {rest}".strip() for rest in respellings(words[1:], other)}
    return found


def test_no_respelling_of_the_hypothesis_does_much_better():
    """The fewest errors over all respellings are a bound, which nearly all alignments reach."""
    rng, reached = random.Random(5), 0
    for _ in range(400):
        reference, hypothesis = (
            rng.choices(["ice", "cream", "icecream", "on"], k=rng.randint(1, 5)) for _ in "ab"
        )
        counts, written = count_merging(reference, hypothesis)
        least = min(
            word_errors(" ".join(reference), text).errors for text in respellings(hypothesis, reference)
        )
        assert least <= counts.errors <= word_errors(" ".join(reference), " ".join(hypothesis)).errors
        assert word_errors(" ".join(reference), " ".join(written)).errors <= counts.errors
        reached += least == counts.errors
    assert reached > 390


def test_compounds_are_joined_where_nothing_but_spaces_differs():
    pair = ["haus", "meister", "amt"], ["hausmeister", "amts"]
    assert join_compounds(*pair) == pair  # the rest of the stretch differs too
    pair = ["haus", "meister", "amt", "ist"], ["hausmeister", "amt", "war"]
    assert join_compounds(*pair) == (["hausmeister", "amt", "ist"], ["hausmeister", "amt", "war"])


def test_a_pair_is_counted_by_its_rules():
    texts = ("haus meister da", "hausmeister da")
    assert ScoreRules().pair(*texts).words == ErrorCounts(1, 1, 0, 3)
    merged = ScoreRules(compounds="merge").pair(*texts)
    assert merged.words == ErrorCounts(0, 0, 0, 3) and merged.hypothesis == texts[0]
    joined = ScoreRules(compounds="join").pair(*texts)
    assert joined.words == ErrorCounts(0, 0, 0, 2) and joined.reference == texts[0]
    assert merged.characters.errors == 0 and ScoreRules().pair(*texts).characters.errors == 1


def test_what_is_dropped():
    rules = ScoreRules(drop_empty=True)
    assert rules.drops("") and rules.drops("ignore time segment in scoring") and not rules.drops("a")
    assert not ScoreRules().drops("")
