"""Rates and edits against jiwer and NIST's sclite, and what result.json says of a split."""

import re
import shutil
import subprocess

import jiwer
import numpy as np
import pytest

from asr_exp.core.console import headline
from asr_exp.scoring.error_rates import (
    ErrorCounts,
    Tally,
    character_errors,
    clustered_rate,
    count_errors,
    unspaced,
    word_errors,
)

ALPHABETS = ["ab", "abcdefghijk", "äöüßçı", "مرحبا", "कखगिी्", "今天气", "𠮷🎉x"]


def random_pairs(alphabet, count=150, seed=0, spaces=(" ",)):
    rng = np.random.default_rng([seed, len(alphabet)])

    def text(least):
        words = [
            "".join(rng.choice(list(alphabet), rng.integers(1, 5))) for _ in range(rng.integers(least, 9))
        ]
        return "".join(w + rng.choice(spaces) for w in words).strip()

    return [(text(1), text(0)) for _ in range(count)] + [("a b", ""), ("a", "a"), ("a", "b c d")]


def of_jiwer(found):
    return ErrorCounts(
        found.substitutions,
        found.deletions,
        found.insertions,
        found.hits + found.substitutions + found.deletions,
    )


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("spaces", [(" ",), (" ", "  ", "   ")], ids=["single", "double"])
def test_word_counts_are_those_of_jiwer(alphabet, spaces):
    pairs = random_pairs(alphabet, spaces=spaces)
    total = ErrorCounts()
    for reference, hypothesis in pairs:
        theirs = jiwer.process_words(reference, hypothesis)
        assert word_errors(reference, hypothesis) == of_jiwer(theirs)
        assert word_errors(reference, hypothesis).rate == theirs.wer
        total += word_errors(reference, hypothesis)
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assert total.rate == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("spaces", [(" ",), (" ", "  ")], ids=["single", "double"])
def test_character_counts_are_those_of_jiwer(alphabet, spaces):
    pairs = random_pairs(alphabet, spaces=spaces)
    for reference, hypothesis in pairs:
        theirs = jiwer.process_characters(reference, hypothesis)
        assert character_errors(reference, hypothesis) == of_jiwer(theirs)
    references, hypotheses = map(list, zip(*pairs, strict=True))
    total = sum((character_errors(*pair) for pair in pairs), ErrorCounts())
    assert total.rate == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


def test_counts_by_hand():
    assert word_errors("the cat sat", "the hat sat down") == ErrorCounts(1, 0, 1, 3)
    assert word_errors("the cat sat", "") == ErrorCounts(0, 3, 0, 3)
    assert character_errors(" ab c ", "abc") == ErrorCounts(0, 1, 0, 4)
    assert word_errors("sil aa sil", "sil sil") == ErrorCounts(0, 1, 0, 3)
    assert count_errors([1, 2, 3], [3, 2, 1]).errors == 2


def test_rates_are_fractions_and_none_without_a_reference():
    assert ErrorCounts(1, 2, 3, 4).rate == 1.5 and ErrorCounts(1, 2, 3, 4).errors == 6
    assert word_errors("", "a b").rate is None and word_errors("", "a b").insertions == 2
    assert ErrorCounts(1, 2, 3, 4) + ErrorCounts(10, 20, 30, 40) == ErrorCounts(11, 22, 33, 44)


# ------------------------------------------------------------------------------------------------------------
# NIST's sclite

SPOKEN = {
    "en": "she had your dark suit in greasy wash water all year don't ask me to carry an oily rag like that",
    "tr": "ışık ılık süt içti iki kız dışarıda ıslık çaldı bugün hava çok güzel değil mi",
    "de": "die größte mühe gab sich der alte bäcker als er süße brötchen für die straße buk",
    "phones": (
        "sh iy hv ae dcl jh ih dcl d ah kcl k s ux q en gcl g r iy s ix epi w ao sh epi w ao dx axr ao l y"
        " ih axr"
    ),
    "characters": "s h e _ h a d _ y o u r _ d a r k _ s u i t _ i n _ g r e a s y _ w a s h _ w a t e r",
}


def edited(words, rng, rate):
    """A stretch of a text, and what a recogniser that errs at this rate might make of it."""
    start = rng.integers(len(words))
    reference, hypothesis = words[start : start + rng.integers(1, 15)], []
    for word in reference:
        kept = [[word], [], [rng.choice(words)], [word, rng.choice(words)]]
        hypothesis += kept[rng.choice(4, p=[1 - rate, 0.3 * rate, 0.5 * rate, 0.2 * rate])]
    return " ".join(reference), " ".join(hypothesis)


def of_sclite(pairs, folder):
    """The counts of sclite for each pair, by its own alignments; skips where it is not installed."""
    program = shutil.which("sclite") or shutil.which("sctk")  # Debian's package puts a wrapper on the PATH
    if not program:
        pytest.skip("sclite, of NIST's SCTK, is not on the PATH")
    command = [program, *(["sclite"] if program.endswith("sctk") else [])]
    for number, name in enumerate(("ref", "hyp")):
        (folder / name).write_text(
            "".join(f"{pair[number]} (s-{i:05d})\n" for i, pair in enumerate(pairs)), encoding="utf-8"
        )
    options = [
        "-r",
        "ref",
        "trn",
        "-h",
        "hyp",
        "trn",
        "-i",
        "rm",
        "-s",
        "-e",
        "utf-8",
        "-o",
        "pralign",
        "stdout",
    ]
    out = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=True).stdout
    found = re.findall(
        r"^id: \(s-(\d+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)$", out, flags=re.MULTILINE
    )
    return [ErrorCounts(int(s), int(d), int(i), int(c) + int(s) + int(d)) for _, c, s, d, i in sorted(found)]


@pytest.mark.parametrize("text", SPOKEN)
@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_counts_are_those_of_sclite(tmp_path, text, rate):
    """Totals agree at the rates of a recogniser that works. sclite weighs a substitution 4 and the rest 3, so
    its alignments have fewer substitutions where ours tie; and where everything is wrong, it may take one
    error more to have a substitution less."""
    rng = np.random.default_rng(0)
    pairs = [edited(SPOKEN[text].split(), rng, rate) for _ in range(1000)]
    ours, theirs = [word_errors(*pair) for pair in pairs], of_sclite(pairs, tmp_path)
    assert [one.reference_length for one in ours] == [one.reference_length for one in theirs]
    assert all(
        one.errors <= other.errors and weighed(other) <= weighed(one)
        for one, other in zip(ours, theirs, strict=True)
    )
    agreed = np.mean([one.errors == other.errors for one, other in zip(ours, theirs, strict=True)])
    assert agreed == 1 if rate < 0.5 else agreed > 0.98


def weighed(counts):
    return 4 * counts.substitutions + 3 * (counts.deletions + counts.insertions)


def test_what_sclite_says_by_hand():
    """What sclite of sctk 2.4.10 prints as #S #D #I, where it agrees, where alignments tie, and where it has
    6 errors for 5.
    """
    # 1 1 0: the dot makes another word
    assert word_errors("ışık ılık süt içti", "ışık ilik süt") == ErrorCounts(1, 1, 0, 4)
    assert word_errors("a b c", "b c d") == ErrorCounts(0, 1, 1, 3)  # 0 1 1
    assert word_errors("a b c d", "c a d b").errors == 4  # 0 2 2
    assert word_errors("1 2 3 a b", "a b 4 5 6") == ErrorCounts(5, 0, 0, 5)  # 0 3 3


# ------------------------------------------------------------------------------------------------------------
# texts without spaces


@pytest.mark.parametrize(
    ("references", "without"),
    [
        (["今天天气很好我们去公园", "他昨天买了一本新书"], True),
        (["今日はいい天気ですね", "コーヒーを ください"], True),
        (["วันนี้อากาศดีมาก"], True),
        (["今天 天气 很好 我们 去 公园"], False),
        (["今日 は いい 天気 です ね"], False),
        (["วันนี้ อากาศ ดี มาก"], False),
        (["오늘은 날씨가 좋습니다"], False),
        (["donaudampfschifffahrt"], False),
        (["今天天气很 今天天气很好吗"], False),  # six to a word, on average; below, more than six
        (["今天天气很好 今天天气很好吗"], True),
        ([], False),
    ],
)
def test_texts_that_are_written_without_spaces(references, without):
    assert unspaced(references) == without


# ------------------------------------------------------------------------------------------------------------
# the summary of a split


def interval(clusters):
    return clustered_rate(clusters).interval


def tally(rows, phones=False):
    one = Tally(phones)
    for reference, hypothesis, speaker in rows:
        one.add(word_errors(reference, hypothesis), character_errors(reference, hypothesis), speaker)
    return one.summary()


ROWS = [("a b c", "a b", "x"), ("dd", "dx", "y"), ("e f", "e f", "x"), ("g", "g h", "z")]


def test_a_summary_of_words():
    summary = tally(ROWS)
    assert {
        "wer",
        "cer",
        "per",
        "substitutions",
        "deletions",
        "insertions",
        "reference_length",
        "utterances",
        "ci95",
    } <= set(summary)
    assert (summary["wer"], summary["per"]) == (pytest.approx(3 / 7), None)
    assert summary["cer"] == pytest.approx(jiwer.cer([r[0] for r in ROWS], [r[1] for r in ROWS]))
    assert [
        summary[k] for k in ("substitutions", "deletions", "insertions", "reference_length", "utterances")
    ] == [1, 1, 1, 7, 4]
    assert summary["ci95"] == interval([(1, 5), (1, 1), (1, 1)]) and summary["ci95_clusters"] == "speaker"
    assert summary["ci95_degrees"] == 1
    assert summary["rate_by_speaker"] == {"x": 0.2, "y": 1.0, "z": 1.0}


def test_a_summary_of_phones_has_a_per_and_no_wer():
    summary = tally(ROWS, phones=True)
    assert (summary["wer"], summary["cer"], summary["per"]) == (None, None, pytest.approx(3 / 7))


def test_the_headline_of_what_there_is():
    summary = {**tally(ROWS[:2]), "coverage": 1.0}  # of two speakers, a third and all of it wrong
    assert headline("test", summary).startswith("test WER 50.00 % [0.00 % .. ") and headline(
        "test", summary
    ).endswith(", 2 utterances")
    assert (
        headline("dev", {**tally(ROWS[:1]), "coverage": 0.5})
        == "dev WER 33.33 %, CER 40.00 %, 1 utterance, coverage 50.00 %"
    )
    assert (
        headline("test", {**tally([("a b", "a", None)], phones=True), "coverage": 1.0})
        == "test PER 50.00 %, 1 utterance"
    )


@pytest.mark.parametrize("speaker", [None, "x"])
def test_without_speakers_to_tell_apart_utterances_are_drawn(speaker):
    summary = tally([(r, h, speaker) for r, h, _ in ROWS])
    assert (
        summary["ci95"] == interval([(1, 3), (1, 1), (0, 2), (1, 1)])
        and summary["ci95_clusters"] == "utterance"
    )
    assert summary["rate_by_speaker"] is None


def test_utterances_of_unknown_speakers_are_not_one_speaker():
    summary = tally([("a b", "a", "x"), ("a b", "a b", "y"), ("a b", "b", None), ("a b", "", None)])
    assert summary["rate_by_speaker"] == {"x": 0.5, "y": 0.0}
    assert summary["ci95"] == interval([(1, 2), (0, 2), (1, 2), (2, 2)]) and summary["ci95_degrees"] == 3


def test_nothing_scored():
    summary = tally([])
    assert (summary["wer"], summary["ci95"], summary["ci95_degrees"], summary["utterances"]) == (
        None,
        None,
        None,
        0,
    )
