"""A table's numbers: the interval of a mean of runs, and the verdict on it beside a published score."""

import math

import pytest

from asr_exp.commands.table.scores import PublishedScore, Score, interval, judge, verdict


def score(value, ci95=None, degrees=None, coverage=1.0, split=("test",)):
    return Score("wer", value, ci95, degrees, coverage, 100, {"hash": "x", "split": list(split)})


def test_the_mean_of_seeds_and_its_interval():
    # By hand: the variance of the mean over seeds is ((1/75)^2 + (1/300)^2 + (1/60)^2) / 2 / 3 = 7.7778e-5,
    # with 2 degrees of freedom; that over 3 speakers is made the same, with 2, where Student's 97.5 %
    # quantile is 4.30265. Together they have 4, where it is 2.77645.
    variance = 7.7777777e-5
    half = 4.30265 * math.sqrt(variance)
    reach = 2.77645 * math.sqrt(2 * variance)
    assert interval(
        [score(rate, (rate - half, rate + half), 2) for rate in (0.20, 0.21, 0.23)]
    ) == pytest.approx((0.64 / 3 - reach, 0.64 / 3 + reach), rel=1e-4)


def test_intervals_of_what_there_is():
    assert (
        interval([]) is None
        and interval([score(0.2)]) is None
        and interval([score(0.2, (0.1, 0.4))]) == (0.1, 0.4)
    )
    low, high = interval([score(0.20), score(0.22)])  # of seeds alone: 0.01 * t(1) = 0.01 * 12.706
    assert (high - low) / 2 == pytest.approx(0.12706, rel=1e-3)
    low, high = interval([score(0.2, (0.19, 0.21), 999)] * 2)  # the same to the last digit: speakers alone
    assert (low, high) == pytest.approx((0.19, 0.21))
    # cut off at 0, and with a run that has none
    low, high = interval([score(0.02, (0.0, 0.2), 3)] * 2 + [score(0.02)])
    assert (low, high) == pytest.approx((0.0, 0.2))
    assert interval([score(0.2), score(0.2)]) is None


def test_runs_whose_own_intervals_differ():
    """By hand, of two equal rates: with t(3) = 3.18245 and t(30) = 2.04227 their variances are (.03 / t)^2
    and (.05 / t)^2, 3.44127e-4 in the mean; the mean of them has the fewer degrees of freedom, 3.
    """
    reach = 3.18245 * math.sqrt(3.44127e-4)
    pair = [score(0.2, (0.17, 0.23), 3), score(0.2, (0.15, 0.25), 30)]
    for runs in (pair, pair[::-1]):
        assert interval(runs) == pytest.approx((0.2 - reach, 0.2 + reach), rel=1e-4)


@pytest.mark.parametrize(
    ("ours", "within", "word"),
    [
        (0.200, (0.19, 0.21), "as published"),
        (0.210, (0.205, 0.215), "as published"),
        (0.190, (0.185, 0.195), "as published"),
        (0.2101, (0.2051, 0.2151), "worse"),
        (0.1899, (0.185, 0.195), "better"),
        (0.215, (0.199, 0.231), "cannot tell"),
        (0.215, (0.200, 0.230), "cannot tell"),
        (0.185, (0.169, 0.201), "cannot tell"),
        (0.200, (0.17, 0.23), "cannot tell"),
        (0.200, (0.18, 0.22), "as published"),
        (0.1, (0.05, 0.15), "cannot tell"),
        (0.205, None, "as published"),
        (0.25, None, "cannot tell"),
    ],
)
def test_verdicts_at_the_edges_of_the_tolerance(ours, within, word):
    found, why = verdict(ours, within, 0.2, 0.01)
    assert found == word and bool(why) == (word == "cannot tell")


def test_no_verdict_on_another_split_or_a_part_of_one():
    published = PublishedScore(0.2, split="dev-clean")
    assert judge([score(0.2, split=["dev-clean"])], published) == ("as published", "")
    assert judge([score(0.2, split=["test-clean"])], published)[0] == "cannot tell"
    assert "97.0 %" in judge([score(0.2, split=["dev-clean"], coverage=0.97)], published)[1]
    assert judge([score(0.2)], PublishedScore()) == ("", "") == judge([], published)
    plain = PublishedScore(0.2, split="Test")
    assert judge([score(0.2, split=["TEST"], coverage=0.99)], plain) == ("as published", "")
    partly = [score(0.2), score(0.2, coverage=0.9)]
    for runs in (partly, partly[::-1]):
        assert judge(runs, plain) == ("cannot tell", "only 90.0 % of the split is scored")
