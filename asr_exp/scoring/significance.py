"""Significance tests of the difference of two error rates: pure functions on arrays of errors that need numpy
alone.

`compare_rates` and `bootstrap` test whether the difference would be the same with other speakers and seeds,
the first by the jackknife, the second by resampling. `mapsswe` compares the segments in which two recognisers
err.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_exp.scoring.intervals import LEVEL, Estimate, jackknife, rates_left_out

RESAMPLES = 10_000
MAX_DRAWS = 1 << 21  # random numbers that are in memory at a time
# Correct words of every recogniser that separate two segments: the default of NIST's sc_stats.
GOOD_WORDS = 2


@dataclass(frozen=True)
class Comparison:
    """Mean rates of the groups A and B, and A - B."""

    a: Estimate
    b: Estimate
    difference: Estimate


def compare_rates(
    a: np.ndarray, b: np.ndarray, lengths: np.ndarray, clusters: np.ndarray, matched: bool = False
) -> Comparison:
    """Paired, clustered t test of the difference of two micro-averaged error rates, by the jackknife of
    `intervals`.

    The variance between runs is added to the variance over speakers. Their interaction is in both, so with
    several seeds the standard error is too large rather than too small.

    Args:
        a: errors of the runs of group A, which differ by their seeds, (runs, utterances).
        b: those of group B.
        lengths: units of the references, (utterances,).
        clusters: the number of the cluster, 0 .. clusters - 1, of each utterance, (utterances,). Utterances
            of one speaker are a cluster.
        matched: whether run i of both groups has the same seed, so that runs are compared in pairs.
    """
    totals = _by_cluster(a, b, lengths, clusters)
    rates, left_out = rates_left_out(totals[:-1], totals[-1])
    rates_a, rates_b = rates[: len(a)], rates[len(a) :]
    left_out_a, left_out_b = left_out[: len(a)], left_out[len(a) :]
    left_out_difference = (left_out_a.mean(axis=0) - left_out_b.mean(axis=0))[None]
    between = [rates_a - rates_b] if matched else [rates_a, rates_b]
    difference = float(rates_a.mean() - rates_b.mean())
    return Comparison(
        jackknife(float(rates_a.mean()), left_out_a, totals[-1], [rates_a], lower_bound=0.0),
        jackknife(float(rates_b.mean()), left_out_b, totals[-1], [rates_b], lower_bound=0.0),
        jackknife(difference, left_out_difference, totals[-1], between),
    )


def _by_cluster(a: np.ndarray, b: np.ndarray, lengths: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums over clusters: the errors of the runs of A, those of B, and the lengths, (runs of A + runs of B +
    1, clusters).
    """
    return np.stack([np.bincount(clusters, weights=row) for row in np.concatenate([a, b, lengths[None]])])


# ------------------------------------------------------------------------------------------------------------
# bootstrap


@dataclass(frozen=True)
class Bootstrap:
    """Resampled differences A - B.

    percentiles: (2.5 %, 97.5 %); a_better: the share of differences below 0; p: the two-sided p value.
    """

    resamples: int
    percentiles: tuple[float, float]
    a_better: float
    p: float


def bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    lengths: np.ndarray,
    clusters: np.ndarray,
    matched: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap | None:
    """Paired bootstrap of the difference of two micro-averaged error rates, by clusters (Bisani & Ney 2004).

    Clusters and seeds are drawn with replacement, independently of each other (Owen 2007). With fewer than
    about twenty clusters the intervals are too narrow and the p values too small; those of `compare_rates`
    hold there too.

    Args:
        a: see `compare_rates`, as `b`, `lengths`, `clusters` and `matched`.
        resamples: how many differences are drawn.
        seed: of the draws.

    Returns:
        None where fewer than two clusters have a reference.
    """
    totals = _by_cluster(a, b, lengths, clusters).T
    if np.count_nonzero(totals[:, -1]) < 2:
        return None
    rng = np.random.default_rng(seed)
    rates = _drawn_rates(totals, resamples, rng)
    weights_a = _run_weights(len(a), resamples, rng)
    weights_b = weights_a if matched else _run_weights(len(b), resamples, rng)
    differences = (rates[:, : len(a)] * weights_a).sum(axis=1) - (rates[:, len(a) :] * weights_b).sum(axis=1)
    differences = differences[~np.isnan(differences)]
    low, high = np.percentile(differences, [100 * LEVEL / 2, 100 - 100 * LEVEL / 2])
    p = min(1.0, 2 * min(float((differences <= 0).mean()), float((differences >= 0).mean())))
    return Bootstrap(resamples, (float(low), float(high)), float((differences < 0).mean()), p)


def _drawn_rates(totals: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw clusters with replacement -> the rates of each run, (resamples, runs), nan where no word was
    drawn.

    totals: errors by cluster and run, the last column being the lengths, (clusters, runs + 1).
    """
    clusters, rates = len(totals), np.full((resamples, totals.shape[1] - 1), np.nan)
    for start in range(0, resamples, max(1, MAX_DRAWS // clusters)):
        rows = min(max(1, MAX_DRAWS // clusters), resamples - start)
        picks = rng.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
        sums = np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters) @ totals
        np.divide(sums[:, :-1], sums[:, -1:], out=rates[start : start + rows], where=sums[:, -1:] > 0)
    return rates


def _run_weights(runs: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw runs of a group with replacement -> the share of each, (resamples, runs)."""
    return rng.multinomial(runs, np.full(runs, 1 / runs), resamples) / runs


# ------------------------------------------------------------------------------------------------------------
# matched pairs


@dataclass(frozen=True)
class MatchedPairs:
    """The result of `mapsswe`.

    z: positive where A makes more errors; None where all segments differ by the same number, and p is that of
    the sign test.
    """

    segments: int
    z: float | None
    p: float


def mapsswe(
    a: Sequence[Sequence[Sequence[int]]], b: Sequence[Sequence[Sequence[int]]], words: np.ndarray
) -> MatchedPairs:
    """Matched-pairs sentence-segment word error test (Gillick & Cox 1989; Pallett et al. 1990 for NIST).

    A segment has errors. It ends with its utterance, or before `GOOD_WORDS` words in a row that every run has
    right. The errors of different segments are taken as independent. Several runs of a group count with the
    mean of their errors, so the test is of these runs, not of other seeds.

    a, b: for each run of a group and each utterance, the places of its errors as `error_places` gives them.
    words: of the references, (utterances,).
    """
    # where the utterances begin on one line; even numbers, as places within an utterance begin with 0
    starts = 2 * np.concatenate([[0], np.cumsum(words + GOOD_WORDS)[:-1]])
    groups = [[_on_one_line(run, starts) for run in group] for group in (a, b)]
    places = np.unique(np.concatenate([run for group in groups for run in group]))
    if not len(places):
        return MatchedPairs(0, 0.0, 1.0)
    right_between = places[1:] // 2 - (places[:-1] + 1) // 2
    segment = np.concatenate([[0], np.cumsum(right_between >= GOOD_WORDS)])
    errors_a, errors_b = (
        np.bincount(segment[np.searchsorted(places, np.concatenate(group))], minlength=segment[-1] + 1)
        / len(group)
        for group in groups
    )
    return _z_test(errors_a - errors_b)


def _on_one_line(run: Sequence[Sequence[int]], starts: np.ndarray) -> np.ndarray:
    """The places of the errors of a run, (errors,), where utterances follow each other. starts: of the
    utterances.
    """
    places = np.array([place for utterance in run for place in utterance], dtype=np.int64)
    return np.repeat(starts, [len(utterance) for utterance in run]) + places


def _z_test(differences: np.ndarray) -> MatchedPairs:
    """Test whether the mean of the differences of segments, (segments,), is 0."""
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    if error > 0:
        return MatchedPairs(count, mean / error, math.erfc(abs(mean / error) / math.sqrt(2)))
    return MatchedPairs(count, None, 2.0 ** (1 - count)) if mean else MatchedPairs(count, 0.0, 1.0)
