"""The tests of significance against scipy, loops, textbook examples, NIST's sc_stats, and simulated corpora
whose truth is known.
"""

import math
import random

import numpy as np
import pytest
from invented_runs import invented

from asr_exp.scoring.error_rates import count_errors, error_places
from asr_exp.scoring.intervals import student_quantile
from asr_exp.scoring.significance import MatchedPairs, bootstrap, compare_rates, mapsswe

# ------------------------------------------------------------------------------------------------------------
# speakers and seeds


def corpus(seed, speakers=12, utterances=10, gap=0.0, spread=0.5, runs=(1, 1), seeds=0.0):
    """Two groups of runs. spread: of speakers, in how hard they are and in whom each system suits; seeds: of
    runs.
    """
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(speakers), utterances)
    lengths = rng.integers(3, 20, len(clusters))
    hard = rng.normal(0, spread, speakers)

    def group(shift, count):
        suits = rng.normal(shift, spread / 2, speakers)
        odds = [np.exp(-2 + hard + suits + rng.normal(0, seeds))[clusters] for _ in range(count)]
        return np.array([rng.binomial(lengths, o / (1 + o)) for o in odds])

    return group(gap, runs[0]), group(0.0, runs[1]), lengths, clusters


def left_out_in_a_loop(a, b, lengths, clusters, matched):
    """The same, said in plain loops: the standard error and the degrees of freedom of A - B."""

    def difference(keep):
        rates = [sum(run[i] for i in keep) / sum(lengths[i] for i in keep) for run in (*a, *b)]
        return sum(rates[: len(a)]) / len(a) - sum(rates[len(a) :]) / len(b), rates

    def squares(values):
        return sum((value - sum(values) / len(values)) ** 2 for value in values)

    speakers = sorted(set(clusters))
    moved = [difference([i for i in range(len(lengths)) if clusters[i] != one])[0] for one in speakers]
    said = [
        sum(n for n, speaker in zip(lengths, clusters, strict=True) if speaker == one) for one in speakers
    ]
    parts = [
        ((len(speakers) - 1) / len(speakers) * squares(moved), sum(said) ** 2 / sum(n * n for n in said) - 1)
    ]
    _, rates = difference(range(len(lengths)))
    of_a, of_b = rates[: len(a)], rates[len(a) :]
    for varying in [[x - y for x, y in zip(of_a, of_b, strict=True)]] if matched else [of_a, of_b]:
        if len(varying) > 1:
            parts.append((squares(varying) / (len(varying) - 1) / len(varying), len(varying) - 1))
    variance = sum(part for part, _ in parts)
    return math.sqrt(variance), variance**2 / sum(part**2 / degrees for part, degrees in parts)


def of_one_side(group, lengths, clusters):
    """Error and degrees of freedom of the mean rate of a group's runs: the mean of their variances over
    speakers, each run against one without an error, and the variance between them over their number.
    """
    alone = [
        left_out_in_a_loop(run[None], np.zeros_like(group[:1]), lengths, clusters, False) for run in group
    ]
    parts = [(sum(error**2 for error, _ in alone) / len(alone), alone[0][1])]
    if len(group) > 1:
        rates = [sum(run) / sum(lengths) for run in group]
        mean = sum(rates) / len(rates)
        between = sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1)
        parts.append((between / len(rates), len(rates) - 1))
    variance = sum(part for part, _ in parts)
    return math.sqrt(variance), variance**2 / sum(part**2 / degrees for part, degrees in parts)


@pytest.mark.parametrize(
    ("runs", "matched"), [((1, 1), False), ((3, 3), True), ((3, 3), False), ((4, 1), False), ((2, 5), False)]
)
@pytest.mark.parametrize("speakers", [3, 12])
def test_against_a_loop(runs, matched, speakers):
    a, b, lengths, clusters = corpus(5, speakers, runs=runs, seeds=0.3)
    found = compare_rates(a, b, lengths, clusters, matched)
    rate = [np.mean([row.sum() / lengths.sum() for row in group]) for group in (a, b)]
    assert (found.a.value, found.b.value, found.difference.value) == pytest.approx((*rate, rate[0] - rate[1]))
    assert (found.difference.error, found.difference.degrees) == pytest.approx(
        left_out_in_a_loop(a, b, lengths, clusters, matched)
    )
    for side, group in ((found.a, a), (found.b, b)):
        assert (side.error, side.degrees) == pytest.approx(of_one_side(group, lengths, clusters))


def test_a_rate_is_never_below_no_errors_and_a_difference_may_be():
    """By hand, 0 and 10 errors in 10 words each: .5 +- 12.7062 * .5, and for the difference 0 +- 12.7062."""
    found = compare_rates(np.array([[0, 10]]), np.array([[10, 0]]), np.array([10, 10]), np.arange(2))
    for side in (found.a, found.b):
        assert side.interval == pytest.approx((0.0, 0.5 + 12.7062 * 0.5), rel=1e-5)
    assert found.difference.interval == pytest.approx((-12.7062, 12.7062), rel=1e-5)


def test_against_a_bootstrap():
    """Speakers drawn with replacement, one fewer than there are (Rao & Wu 1988): another way to the same
    standard error.
    """
    a, b, lengths, clusters = corpus(5, 24)
    sums = np.stack([np.bincount(clusters, weights=row) for row in (a[0] - b[0], lengths)])
    drawn = sums[:, np.random.default_rng(1).integers(0, 24, (20_000, 23))].sum(axis=2)
    assert compare_rates(a, b, lengths, clusters).difference.error == pytest.approx(
        (drawn[0] / drawn[1]).std(), rel=0.04
    )


@pytest.mark.parametrize(("runs", "matched"), [((1, 1), False), ((3, 3), True), ((2, 4), False)])
def test_the_bootstrap_against_one_that_draws_utterance_by_utterance(runs, matched):
    a, b, lengths, clusters = corpus(5, 10, gap=0.1, runs=runs, seeds=0.2)
    rng = np.random.default_rng(7)
    of_speaker = [np.flatnonzero(clusters == c) for c in range(10)]
    drawn = []
    for _ in range(4000):
        rows = np.concatenate([of_speaker[c] for c in rng.integers(0, 10, 10)])
        seeds_a = rng.integers(0, len(a), len(a))
        seeds_b = seeds_a if matched else rng.integers(0, len(b), len(b))
        drawn.append(
            (a[seeds_a][:, rows].sum() / len(a) - b[seeds_b][:, rows].sum() / len(b)) / lengths[rows].sum()
        )
    found = bootstrap(a, b, lengths, clusters, matched)
    assert found.percentiles == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.08 * np.std(drawn))
    assert found.a_better == pytest.approx(np.mean(np.array(drawn) < 0), abs=0.03)
    assert found.p == pytest.approx(
        2 * min(np.mean(np.array(drawn) <= 0), np.mean(np.array(drawn) >= 0)), abs=0.05
    )


def test_the_bootstrap_where_there_is_nothing_to_draw():
    a, b, lengths, clusters = corpus(5, 4)
    assert bootstrap(a, a, lengths, clusters).p == 1.0
    assert (
        bootstrap(a[:, clusters == 0], b[:, clusters == 0], lengths[clusters == 0], clusters[clusters == 0])
        is None
    )


@pytest.mark.parametrize("gap", [0.0, 0.8])
def test_with_as_many_words_of_each_speaker_it_is_the_paired_t_test(gap):
    stats = pytest.importorskip("scipy.stats")
    a, b, _, clusters = corpus(11, 9, gap=gap)
    lengths = np.full(len(clusters), 20)
    found = compare_rates(a, b, lengths, clusters).difference
    by_speaker = [np.bincount(clusters, weights=row) / 200 for row in (a[0], b[0])]
    theirs = stats.ttest_rel(*by_speaker)
    assert (found.value / found.error, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert (found.p < 0.05) == (gap > 0)


def test_students_own_example():
    """Hours of sleep gained by ten patients on two drugs (Student 1908): t = -4.0621, 9 degrees, p = .002833,
    -2.46 .. -0.70.
    """
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    found = compare_rates(first[None], second[None], np.ones(10), np.arange(10)).difference
    assert found.value == pytest.approx(-1.58) and found.degrees == pytest.approx(9)
    assert found.value / found.error == pytest.approx(-4.0621, abs=5e-5)
    assert found.p == pytest.approx(0.002833, abs=5e-7) and found.interval == pytest.approx(
        (-2.4599, -0.7001), abs=5e-5
    )


def test_seeds_alone_are_welchs_test_and_in_pairs_students():
    """Where all speakers are alike, what is left is the runs': Welch 1947, and the paired t test."""
    a, b = np.array([10, 12, 17, 13]), np.array([15, 16, 21])
    spread = [np.outer(rates, np.ones(6)) for rates in (a, b)]
    found = compare_rates(*spread, np.full(6, 100.0), np.arange(6)).difference
    parts = [rates.var(ddof=1) / len(rates) / 1e4 for rates in (a, b)]
    assert found.error == pytest.approx(math.sqrt(sum(parts)))
    assert found.degrees == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2))
    paired = compare_rates(spread[0][:3], spread[1], np.full(6, 100.0), np.arange(6), True).difference
    assert (paired.error, paired.degrees) == pytest.approx(
        (np.std(a[:3] - b, ddof=1) / math.sqrt(3) / 100, 2)
    )


def test_swapping_the_sides_negates():
    a, b, lengths, clusters = corpus(2, gap=0.2)
    one, other = (compare_rates(*sides, lengths, clusters).difference for sides in ((a, b), (b, a)))
    assert other.value == pytest.approx(-one.value) and other.p == pytest.approx(one.p)
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


@pytest.mark.parametrize("runs", [1, 3])
def test_identical_runs_have_p_1(runs):
    a, _, lengths, clusters = corpus(3, runs=(runs, 1))
    found = compare_rates(a, a, lengths, clusters, matched=runs > 1).difference
    assert (found.value, found.p, found.interval, found.detectable) == (0, 1, None, None)


def test_the_order_of_utterances_and_of_speakers_does_not_matter():
    a, b, lengths, clusters = corpus(4)
    rng = np.random.default_rng(0)
    order, names = rng.permutation(len(lengths)), rng.permutation(12)
    one, other = (
        compare_rates(a, b, lengths, clusters),
        compare_rates(a[:, order], b[:, order], lengths[order], names[clusters[order]]),
    )
    for side in ("a", "b", "difference"):
        assert getattr(one, side).error == pytest.approx(getattr(other, side).error, rel=1e-12)


def test_speakers_make_the_interval_wider_where_their_errors_go_together():
    a, b, lengths, clusters = corpus(6, speakers=20, utterances=30, spread=0.8)
    by_speaker = compare_rates(a, b, lengths, clusters).difference.error
    assert by_speaker > 1.8 * compare_rates(a, b, lengths, np.arange(len(lengths))).difference.error


def test_one_seed_says_less_than_it_seems_to():
    a, b, lengths, clusters = corpus(7, runs=(4, 4), seeds=0.5)
    assert (
        compare_rates(a, b, lengths, clusters).difference.error
        > 1.5 * compare_rates(a[:1], b[:1], lengths, clusters).difference.error
    )


def test_what_is_too_little_to_judge_by():
    one = compare_rates(np.array([[3]]), np.array([[2]]), np.array([10]), np.array([0]))
    assert (one.difference.interval, one.difference.p, one.difference.detectable) == (None, None, None)
    # of one, no words
    assert (
        compare_rates(np.array([[3, 1]]), np.array([[2, 0]]), np.array([10, 0]), np.arange(2)).difference.p
        is None
    )
    # All of n clusters agree to the last digit: only their signs are left, and the sign test's p is 2 / 2 **
    # n.
    alike = compare_rates(np.full((1, 4), 3), np.full((1, 4), 2), np.full(4, 10), np.arange(4)).difference
    assert (alike.p, alike.interval) == (1 / 8, None)


@pytest.mark.parametrize(
    ("speakers", "runs", "matched"),
    [(5, 1, False), (10, 1, False), (24, 1, False), (12, 3, True), (12, 3, False)],
)
def test_equal_systems_differ_in_5_of_100_corpora(speakers, runs, matched):
    """p < .05 in about 5 % of 500 corpora; with both seeds and speakers rather less often."""
    seeds = 0.2 if runs > 1 else 0.0  # one run a side says nothing of what other seeds would do
    found = [
        compare_rates(*corpus([8, i], speakers, runs=(runs, runs), seeds=seeds), matched).difference
        for i in range(500)
    ]
    share = np.mean([one.p < 0.05 for one in found])
    assert (0.025 if runs == 1 else 0) < share <= 0.08
    assert np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found]) == pytest.approx(1 - share)


def test_different_systems_are_told_apart_and_so_is_what_could_be():
    """A difference as large as `detectable` gives p < .05 four times in five."""
    found = [compare_rates(*corpus([9, i], 24, gap=0.25)).difference for i in range(300)]
    assert compare_rates(*corpus(9, 24, gap=0.6)).difference.p < 0.001
    truth, promised = np.mean([one.value for one in found]), np.mean([one.detectable for one in found])
    power = np.mean([one.p < 0.05 for one in found])
    error, reach = np.mean([one.error for one in found]), student_quantile(0.05, 23)
    forecast = math.erfc((reach - truth / error) / math.sqrt(2)) / 2
    assert power == pytest.approx(forecast, abs=0.07) and promised == pytest.approx(
        (reach + 0.84) * error, rel=0.01
    )


# ------------------------------------------------------------------------------------------------------------
# matched pairs


def places(references, hypotheses):
    return [error_places(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]


def compared(references, *sides):
    """mapsswe of texts; a side is a list of hypotheses, or a list of such lists."""
    groups = [
        [places(references, run) for run in ([side] if isinstance(side[0], str) else side)] for side in sides
    ]
    return mapsswe(*groups, np.array([len(r.split()) for r in references]))


def transcribed(references, a, b):
    """The state graph of NIST's sc_stats (b: no error yet, e: in errors, g: good words after them), a word at
    a time.
    """
    found = []
    for reference, *hypotheses in zip(references, a, b, strict=True):
        errors = [[0] * (2 * len(reference.split()) + 1) for _ in hypotheses]
        for one, hypothesis in zip(errors, hypotheses, strict=True):
            for place in error_places(reference.split(), hypothesis.split()):
                one[place] += 1
        state = "b"
        good = 0
        counts = [0, 0]
        for place in range(len(errors[0])):
            wrong = [one[place] for one in errors]
            if any(wrong):
                state, counts = "e", [c + w for c, w in zip(counts, wrong, strict=True)]
            elif place % 2 and state != "b":
                good = good + 1 if state == "g" else 1
                state = "g"
                if good == 2:
                    found.append(counts)
                    state, counts = "b", [0, 0]
        if state != "b":
            found.append(counts)
    return found


@pytest.mark.parametrize(
    ("seed", "segments", "z"),
    [(0, 78, -2.379), (1, 55, -0.830), (2, 63, -3.697), (3, 59, -3.072), (4, 65, -3.108)],
)
def test_what_sc_stats_says(seed, segments, z):
    """sc_stats -t mapsswe -v of sctk 2.4.10, on sclite's alignments of the same texts."""
    found = compared(*invented(seed))
    assert (found.segments, round(found.z, 3)) == (segments, z)


@pytest.mark.parametrize("words", [3, 12, 60])
def test_segments_against_the_state_graph(words):
    rng = random.Random(words)
    texts = [
        [" ".join(f"v{rng.randrange(words)}" for _ in range(rng.randint(0, 12))) for _ in range(80)]
        for _ in range(3)
    ]
    references = [f"{text} a b c" for text in texts[0]]
    a, b = (
        [r if rng.random() < 0.4 else f"{h} b c" for r, h in zip(references, side, strict=True)]
        for side in texts[1:]
    )
    segments = transcribed(references, a, b)
    difference = np.array([x - y for x, y in segments])
    found = compared(references, a, b)
    assert found.segments == len(segments)
    assert found.z == pytest.approx(difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference))))
    assert found.p == pytest.approx(math.erfc(abs(found.z) / math.sqrt(2)))


def test_segments_by_hand():
    references = ["a b c d e f g h i", "k l m", "n o p q r"]
    a = ["a X c d e f g h", "k l m", "Y n o p q r"]  # b wrong; i lost | | Y added
    b = ["a b c X e f g h i", "k m", "n o p q r"]  # d wrong | l lost |
    # Of b and d, only c is between: one segment, 1 and 1. i: 1 and 0. l: 0 and 1. Y: 1 and 0. Differences 0,
    # 1, -1, 1.
    found = compared(references, a, b)
    assert found.segments == 4 and found.z == pytest.approx(0.25 / math.sqrt(11 / 12 / 4))
    # With e right as well as c, d's segment is parted from b's: differences 1, -1, 1, -1, 1.
    assert compared(references, a, ["a b c d X f g h i", *b[1:]]).z == pytest.approx(0.2 / math.sqrt(1.2 / 5))


def test_where_edits_are():
    assert error_places(list("abc"), list("abc")) == [] and error_places(list("abc"), list("xabcy")) == [0, 6]
    assert error_places(list("abc"), list("axc")) == [3] and error_places(list("abc"), []) == [1, 3, 5]
    pairs = list(zip(*invented(3)[:2], strict=True))
    assert [len(error_places(r.split(), h.split())) for r, h in pairs] == [
        count_errors(r.split(), h.split()).errors for r, h in pairs
    ]


def test_pairs_swapped_identical_and_too_few():
    references, a, b = invented(1)
    one, other = compared(references, a, b), compared(references, b, a)
    assert (other.z, other.p, other.segments) == (-one.z, one.p, one.segments)
    assert compared(references, references, references) == MatchedPairs(0, 0.0, 1.0)
    same = compared(references, a, a)
    assert (same.z, same.p) == (0, 1) and same.segments > 0
    assert compared(["a b c"] * 3, ["a b"] * 3, ["a b c"] * 3) == MatchedPairs(3, None, 0.25)


def test_several_runs_count_with_their_mean():
    references, a, b = invented(2)
    assert (
        compared(references, [a, a, a], [b])
        == compared(references, a, b)
        == compared(references, [a, a], [b, b])
    )
    both = compared(references, [a, b], [b, a])
    assert (both.z, both.p) == (0, 1)


def test_equal_pairs_differ_in_5_of_100_corpora():
    share = np.mean([compared(*invented(1000 + i, 100, (0.1, 0.1))).p < 0.05 for i in range(400)])
    assert 0.025 <= share <= 0.08
