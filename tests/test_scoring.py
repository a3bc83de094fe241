"""Rates and edits against jiwer; intervals against a bootstrap written another way."""

import jiwer
import numpy as np
import pytest

from asr_exp.scoring import ErrorCounts, Tally, character_errors, count_errors, interval, word_errors

ALPHABETS = ["ab", "abcdefghijk", "äöüßçı", "مرحبا", "कखगिी्", "今天气", "𠮷🎉x"]


def random_pairs(alphabet, count=150, seed=0, spaces=(" ",)):
    rng = np.random.default_rng([seed, len(alphabet)])

    def text(least):
        words = ["".join(rng.choice(list(alphabet), rng.integers(1, 5))) for _ in range(rng.integers(least, 9))]
        return "".join(w + rng.choice(spaces) for w in words).strip()

    return [(text(1), text(0)) for _ in range(count)] + [("a b", ""), ("a", "a"), ("a", "b c d")]


def of_jiwer(found):
    return ErrorCounts(found.substitutions, found.deletions, found.insertions, found.hits + found.substitutions + found.deletions)


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


# ---------------------------------------------------------------------------------------------------------------------
# intervals


def resampled(clusters, resamples=20000):
    """The plain bootstrap: draw as many clusters as there are, with replacement."""
    rng, table = np.random.default_rng(99), np.array(clusters, dtype=float)
    drawn = table[rng.integers(len(table), size=(resamples, len(table)))].sum(axis=1)
    return np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])


@pytest.mark.parametrize("count", [2, 5, 40])
def test_the_interval_is_that_of_a_plain_bootstrap(count):
    rng = np.random.default_rng(count)
    lengths = rng.integers(20, 200, count)
    clusters = [(int(rng.binomial(n, rng.uniform(0.05, 0.4))), int(n)) for n in lengths]
    low, high = resampled(clusters)
    ours = interval(clusters, resamples=20000)
    assert ours == pytest.approx([low, high], abs=0.06 * (high - low))
    assert interval(clusters) == interval(clusters)  # no chance in it


def test_whole_clusters_are_drawn_not_utterances():
    speakers = [(90, 100), (10, 100), (80, 100), (20, 100)]
    utterances = [(e // 10, n // 10) for e, n in speakers for _ in range(10)]
    wide, narrow = interval(speakers), interval(utterances)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_intervals_by_hand():
    assert interval([(1, 4)] * 10) == [0.25, 0.25]
    assert interval([(0, 10), (10, 10)], resamples=4000) == [0.0, 1.0]
    assert interval([(1, 4)]) is None and interval([]) is None and interval([(0, 0), (0, 0)]) is None
    assert interval([(0, 0), (1, 2)]) == [0.5, 0.5]  # draws without any reference do not count


# ---------------------------------------------------------------------------------------------------------------------
# the summary of a split


def tally(rows, phones=False):
    one = Tally(phones)
    for reference, hypothesis, speaker in rows:
        one.add(word_errors(reference, hypothesis), character_errors(reference, hypothesis), speaker)
    return one.summary()


ROWS = [("a b c", "a b", "x"), ("dd", "dx", "y"), ("e f", "e f", "x"), ("g", "g h", "z")]


def test_a_summary_of_words():
    summary = tally(ROWS)
    assert {"wer", "cer", "per", "substitutions", "deletions", "insertions", "reference_length", "utterances", "ci95"} <= set(summary)
    assert (summary["wer"], summary["per"]) == (pytest.approx(3 / 7), None)
    assert summary["cer"] == pytest.approx(jiwer.cer([r[0] for r in ROWS], [r[1] for r in ROWS]))
    assert [summary[k] for k in ("substitutions", "deletions", "insertions", "reference_length", "utterances")] == [1, 1, 1, 7, 4]
    assert summary["ci95"] == interval([(1, 5), (1, 1), (1, 1)]) and summary["ci95_clusters"] == "speaker"
    assert summary["rate_by_speaker"] == {"x": 0.2, "y": 1.0, "z": 1.0}


def test_a_summary_of_phones_has_a_per_and_no_wer():
    summary = tally(ROWS, phones=True)
    assert (summary["wer"], summary["cer"], summary["per"]) == (None, None, pytest.approx(3 / 7))


@pytest.mark.parametrize("speaker", [None, "x"])
def test_without_speakers_to_tell_apart_utterances_are_drawn(speaker):
    summary = tally([(r, h, speaker) for r, h, _ in ROWS])
    assert summary["ci95"] == interval([(1, 3), (1, 1), (0, 2), (1, 1)]) and summary["ci95_clusters"] == "utterance"
    assert summary["rate_by_speaker"] is None


def test_utterances_of_unknown_speakers_are_not_one_speaker():
    summary = tally([("a b", "a", "x"), ("a b", "a b", "y"), ("a b", "b", None), ("a b", "", None)])
    assert summary["rate_by_speaker"] == {"x": 0.5, "y": 0.0}
    assert summary["ci95"] == interval([(1, 2), (0, 2), (1, 2), (2, 2)])


def test_nothing_scored():
    summary = tally([])
    assert (summary["wer"], summary["ci95"], summary["utterances"]) == (None, None, 0)
