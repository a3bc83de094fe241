"""Is one error rate lower than another, or is it luck? Pure functions on arrays of errors; numpy only.

`compare_rates` asks whether other speakers (and seeds) would say the same, `bootstrap` asks it by drawing
them; `mapsswe` looks at the stretches of words where either of two recognisers erred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_exp.scoring.intervals import LEVEL, Estimate, jackknife, rates_left_out

RESAMPLES = 10_000
CHUNK = 1 << 21  # random draws held at a time
# that all recognisers got right, and that part one segment from the next: the default of NIST's sc_stats
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

    a, b: (runs, utterances), errors of each group's runs, which differ by their seeds; lengths:
    (utterances,), units of the references; clusters: (utterances,), 0 .. clusters - 1, what is left out
    together: utterances of one speaker. matched: run i of both groups has the same seed, and seeds are
    compared in pairs.

    To the variance over speakers that between runs is added. What speakers and seeds do together is in both,
    so with several seeds the error is rather too large than too small.
    """
    totals = _by_cluster(a, b, lengths, clusters)
    rates, left_out = rates_left_out(totals[:-1], totals[-1])
    of_a = rates[: len(a)]
    of_b = rates[len(a) :]
    without_a = left_out[: len(a)]
    without_b = left_out[len(a) :]
    moved = (without_a.mean(axis=0) - without_b.mean(axis=0))[None]
    return Comparison(
        jackknife(float(of_a.mean()), without_a, totals[-1], [of_a], least=0.0),
        jackknife(float(of_b.mean()), without_b, totals[-1], [of_b], least=0.0),
        jackknife(
            float(of_a.mean() - of_b.mean()), moved, totals[-1], [of_a - of_b] if matched else [of_a, of_b]
        ),
    )


def _by_cluster(a: np.ndarray, b: np.ndarray, lengths: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(runs of A, runs of B and the references' lengths, clusters)."""
    return np.stack([np.bincount(clusters, weights=row) for row in np.concatenate([a, b, lengths[None]])])


# ------------------------------------------------------------------------------------------------------------
# bootstrap


@dataclass(frozen=True)
class Bootstrap:
    """Of differences A - B resampled: (2.5 %, 97.5 %) percentiles, the share below 0 (A is better), and the
    two-sided p value.
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
    """Paired bootstrap of the difference of two micro-averaged error rates, by clusters (Bisani & Ney 2004);
    None for a single cluster.

    Arguments as of `compare_rates`. Clusters and seeds are drawn with replacement, independently of each
    other (Owen 2007). With fewer than some twenty clusters its intervals are too narrow and its p values too
    small; those of `compare_rates` hold there too.
    """
    totals = _by_cluster(a, b, lengths, clusters).T
    if np.count_nonzero(totals[:, -1]) < 2:
        return None
    rng = np.random.default_rng(seed)
    rates = _drawn_rates(totals, resamples, rng)
    of_a = _shares(len(a), resamples, rng)
    of_b = of_a if matched else _shares(len(b), resamples, rng)
    drawn = (rates[:, : len(a)] * of_a).sum(axis=1) - (rates[:, len(a) :] * of_b).sum(axis=1)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [100 * LEVEL / 2, 100 - 100 * LEVEL / 2])
    p = min(1.0, 2 * min(float((drawn <= 0).mean()), float((drawn >= 0).mean())))
    return Bootstrap(resamples, (float(low), float(high)), float((drawn < 0).mean()), p)


def _drawn_rates(totals: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(clusters, runs + 1), the last column the references' lengths -> (resamples, runs); nan where no word
    was drawn.
    """
    clusters, rates = len(totals), np.full((resamples, totals.shape[1] - 1), np.nan)
    for start in range(0, resamples, max(1, CHUNK // clusters)):
        rows = min(max(1, CHUNK // clusters), resamples - start)
        picks = rng.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
        sums = np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters) @ totals
        np.divide(sums[:, :-1], sums[:, -1:], out=rates[start : start + rows], where=sums[:, -1:] > 0)
    return rates


def _shares(runs: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, runs): what share of the draws falls on each run of a group."""
    return rng.multinomial(runs, np.full(runs, 1 / runs), resamples) / runs


# ------------------------------------------------------------------------------------------------------------
# matched pairs


@dataclass(frozen=True)
class MatchedPairs:
    """z is positive where A makes more errors; None where all segments differ alike (then p is the sign
    test's).
    """

    segments: int
    z: float | None
    p: float


def mapsswe(
    a: Sequence[Sequence[Sequence[int]]], b: Sequence[Sequence[Sequence[int]]], words: np.ndarray
) -> MatchedPairs:
    """Matched-pairs sentence-segment word error test (Gillick & Cox 1989; Pallett et al. 1990 for NIST).

    a, b: for each run of a group, for each utterance, where its errors are: 2i + 1 for word i of the
    reference, 2i for what is inserted before it. words: (utterances,), of the references. A segment holds
    errors, and is parted from the next by the end of the utterance or by `GOOD_WORDS` words in a row that
    every run got right; the errors in different segments are taken as independent. Several runs of a group
    count with the mean of their errors: the test is of these runs, not of other seeds.
    """
    # even, as the places within an utterance begin
    starts = 2 * np.concatenate([[0], np.cumsum(words + GOOD_WORDS)[:-1]])
    laid = [[_laid_out(run, starts) for run in group] for group in (a, b)]
    places = np.unique(np.concatenate([run for group in laid for run in group]))
    if not len(places):
        return MatchedPairs(0, 0.0, 1.0)
    right_between = places[1:] // 2 - (places[:-1] + 1) // 2
    segment = np.concatenate([[0], np.cumsum(right_between >= GOOD_WORDS)])
    of_a, of_b = (
        np.bincount(segment[np.searchsorted(places, np.concatenate(group))], minlength=segment[-1] + 1)
        / len(group)
        for group in laid
    )
    return _z_test(of_a - of_b)


def _laid_out(run: Sequence[Sequence[int]], starts: np.ndarray) -> np.ndarray:
    """A run's errors on one line on which all utterances stand, one after another."""
    return np.repeat(starts, [len(one) for one in run]) + np.array(
        [place for one in run for place in one], dtype=np.int64
    )


def _z_test(differences: np.ndarray) -> MatchedPairs:
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    if error > 0:
        return MatchedPairs(count, mean / error, math.erfc(abs(mean / error) / math.sqrt(2)))
    return MatchedPairs(count, None, 2.0 ** (1 - count)) if mean else MatchedPairs(count, 0.0, 1.0)
