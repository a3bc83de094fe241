"""Intervals: Student's t against tables, the jackknife by hand and on corpora whose truth is known; one
method, whoever asks.
"""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tables
from invented_runs import write_run

from asr_exp.cli.main import main
from asr_exp.scoring.error_rates import clustered_rate
from asr_exp.scoring.intervals import Estimate, jackknife, rates_left_out, student_p, student_quantile, summed

# ------------------------------------------------------------------------------------------------------------
# Student's t


@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 3.0, 12.0, 500.0])
def test_student_against_what_can_be_integrated_by_hand(t):
    assert student_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-9, abs=1e-12)
    assert student_p(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6, abs=1e-12)
    assert student_p(t, 1e7) == pytest.approx(math.erfc(t / math.sqrt(2)), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 7.5, 30, 1000, 1e6])
def test_the_whole_of_the_density_is_one(degrees):
    assert student_p(0.0, degrees) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("degrees", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_the_tables(degrees, t):
    assert student_quantile(0.05, degrees) == pytest.approx(t, abs=6e-4)


def test_quantiles_between_whole_degrees_lie_between():
    found = [student_quantile(0.05, degrees) for degrees in (1, 1.3, 2, 2.5, 3, 7.7, 8)]
    assert found == sorted(found, reverse=True)


def test_an_estimate_is_consistent():
    for value in np.linspace(-3, 3, 61):
        one = Estimate(value, 1.0, 7.0)
        assert (one.p < 0.05) == (not one.interval[0] <= 0 <= one.interval[1])


# ------------------------------------------------------------------------------------------------------------
# the jackknife


def interval(clusters):
    found = clustered_rate(clusters)
    return found and found.interval


def test_an_interval_by_hand():
    # 90 errors in 300 words; without each of three speakers .35, .25 and .30. The variance is 2/3 (.05^2 +
    # .05^2) = 1/300, and with 2 degrees of freedom t is 4.30265: .3 +- .24842.
    clusters = [(20, 100), (40, 100), (30, 100)]
    assert interval(clusters) == pytest.approx((0.05158, 0.54842), abs=1e-5)
    assert interval(clusters[::-1]) == interval(clusters)
    # never below no errors at all
    assert interval([(0, 10), (10, 10)]) == pytest.approx((0, 0.5 + 12.7062 * 0.5), rel=1e-5)


@pytest.mark.parametrize(
    "clusters", [[], [(1, 4)], [(0, 0), (0, 0)], [(2, 0), (1, 2)], [(1, 4)] * 10, [(0, 9)] * 24]
)
def test_no_interval_where_nothing_says_how_far_to_trust_the_rate(clusters):
    """Nobody, one speaker, one with a reference, and speakers who do not differ, such as those without an
    error.
    """
    assert interval(clusters) is None


def test_a_speaker_who_says_most_of_it_makes_the_others_count_for_less():
    """Of 9, 1, 1 and 1 parts of 12, as good as 144 / 84 speakers; but never fewer than one degree of
    freedom.
    """
    assert clustered_rate([(9, 90), (2, 10), (3, 10), (1, 10)]).degrees == 1
    assert clustered_rate([(3, 30), (2, 10), (3, 10), (1, 10)]).degrees == pytest.approx(60**2 / 1200 - 1)
    assert clustered_rate([(3, 20)] * 24).degrees == pytest.approx(23)


def test_whole_clusters_count_not_utterances():
    speakers = [(90, 100), (10, 100), (80, 100), (20, 100)]
    utterances = [(e // 10, n // 10) for e, n in speakers for _ in range(10)]
    wide, narrow = interval(speakers), interval(utterances)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_variances_that_add_up():
    """Welch's example of two parts: their sum, and Satterthwaite's degrees of freedom between the lesser and
    the sum of theirs.
    """
    found = summed(0.5, [(4e-4, 3.0), (5e-4, 8.0)])
    assert found.error == pytest.approx(0.03) and found.degrees == pytest.approx(81 / (16 / 3 + 25 / 8))
    assert summed(0.5, [(0.0, 3.0)]).error == 0 and jackknife(0.5, np.empty((1, 0)), np.ones(1)).error is None


@pytest.mark.parametrize(("speakers", "least"), [(4, 0.90), (8, 0.90), (24, 0.92)])
def test_the_truth_lies_within_about_as_often_as_promised(speakers, least):
    """Speakers whose rates are skewed, 11 % in the mean: a percentile bootstrap holds the truth of 77, 86 and
    92 in 100 corpora.
    """
    rng = np.random.default_rng(speakers)
    rates = 1 / (1 + np.exp(2.2 - rng.normal(0, 0.6, (1000, 500))))
    truth, rates = rates.mean(), rates[:, :speakers]
    words = rng.integers(60, 200, rates.shape)
    found = [
        interval(zip(*corpus, strict=True)) for corpus in zip(rng.binomial(words, rates), words, strict=True)
    ]
    assert least <= np.mean([low <= truth <= high for low, high in found]) <= 0.97


def test_rates_without_each_cluster():
    whole, left_out = rates_left_out(np.array([[1, 2, 3], [0, 0, 6]]), np.array([10, 10, 20]))
    assert whole == pytest.approx([6 / 40, 6 / 40]) and left_out.tolist() == [
        [5 / 30, 4 / 30, 3 / 20],
        [6 / 30, 6 / 30, 0],
    ]


# ------------------------------------------------------------------------------------------------------------
# one method


@pytest.mark.parametrize("speakers", [["x", None, "y", "", "x"], None], ids=repr)
def test_result_compare_and_table_say_the_same(tmp_path, monkeypatch, capsys, speakers):
    """The interval of one run, and of the mean of two seeds: ci95 of result.json, A of compare.json, the row
    of table.csv.
    """
    monkeypatch.chdir(tmp_path)
    tables.write_experiments(tmp_path / "conf", ("base",))
    asked = ["experiment=hf-mini/base", "dataset.root=/corpora/TIMIT"]
    references = [f"w{i} x{i} y{i}" for i in range(12)]
    folders, results = [tables.write_run([*asked, f"seed={seed}"]) for seed in (0, 1)], []
    for seed, folder in enumerate(folders):
        whole = json.loads((folder / "result.json").read_text())
        parts = {name: part for name, part in whole["protocol"].items() if name not in ("hash", "split")}
        hypotheses = [
            text if i % (3 - seed) else f"w{i} z" + " more" * (i % 4) for i, text in enumerate(references)
        ]
        write_run(folder, references, hypotheses, speakers, seed)
        results.append(json.loads((folder / "result.json").read_text())["splits"]["test"] | {"coverage": 1.0})
        (folder / "result.json").write_text(json.dumps({**whole, "splits": {"test": results[-1]}}))
    write_run(tmp_path / "other", references, references, speakers, **parts)

    def compared(*runs):
        assert main(["compare", f"a=[{','.join(map(str, runs))}]", "b=other"]) == 0
        return json.loads(Path(capsys.readouterr().out.splitlines()[-1]).read_text())

    def in_table(seeds):
        assert main(["table", *asked, f"seed={seeds}"]) == 0
        with Path("outputs/tables/hf-mini-base/table.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        return [float(row["ci95_low"]), float(row["ci95_high"])]

    one = compared(folders[0])
    both = compared(*folders)
    first = results[0]
    assert (
        one["metrics"]["wer"]["a"]["interval"] == pytest.approx(first["ci95"])
        and in_table("0") == first["ci95"]
    )
    assert one["metrics"]["wer"]["a"]["degrees"] == pytest.approx(first["ci95_degrees"])
    assert one["clusters_are"] == first["ci95_clusters"] == ("speaker" if speakers else "utterance")
    assert both["metrics"]["wer"]["a"]["interval"] == pytest.approx(in_table("0,1"))
    assert one["metrics"]["wer"]["b"]["interval"] is None  # without an error there is nothing to go by
