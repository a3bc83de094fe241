"""Is one error rate lower than another, or is it luck? Pure functions on arrays of errors; numpy only.

`compare_rates` asks whether other speakers (and seeds) would say the same; `mapsswe` looks at the stretches of words where either of
two recognisers erred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_exp.intervals import Estimate, jackknife, rates_left_out

GOOD_WORDS = 2  # that all recognisers got right, and that part one segment from the next: the default of NIST's sc_stats


@dataclass(frozen=True)
class Comparison:
    """Mean rates of the groups A and B, and A - B."""

    a: Estimate
    b: Estimate
    difference: Estimate


def compare_rates(a: np.ndarray, b: np.ndarray, lengths: np.ndarray, clusters: np.ndarray, matched: bool = False) -> Comparison:
    """Paired, clustered t test of the difference of two micro-averaged error rates, by the jackknife of `intervals`.

    a, b: (runs, utterances), errors of each group's runs, which differ by their seeds; lengths: (utterances,), units of the
    references; clusters: (utterances,), 0 .. clusters - 1, what is left out together: utterances of one speaker. matched: run i of
    both groups has the same seed, and seeds are compared in pairs.

    To the variance over speakers that between runs is added. What speakers and seeds do together is in both, so with several seeds
    the error is rather too large than too small.
    """
    totals = np.stack([np.bincount(clusters, weights=row) for row in np.concatenate([a, b, lengths[None]])])
    rates, left_out = rates_left_out(totals[:-1], totals[-1])
    of_a, of_b, without_a, without_b = rates[: len(a)], rates[len(a) :], left_out[: len(a)], left_out[len(a) :]
    moved = (without_a.mean(axis=0) - without_b.mean(axis=0))[None]
    return Comparison(
        jackknife(float(of_a.mean()), without_a, totals[-1], [of_a], least=0.0),
        jackknife(float(of_b.mean()), without_b, totals[-1], [of_b], least=0.0),
        jackknife(float(of_a.mean() - of_b.mean()), moved, totals[-1], [of_a - of_b] if matched else [of_a, of_b]),
    )


# ---------------------------------------------------------------------------------------------------------------------
# matched pairs


@dataclass(frozen=True)
class MatchedPairs:
    """z is positive where A makes more errors; None where all segments differ alike (then p is the sign test's)."""

    segments: int
    z: float | None
    p: float


def mapsswe(a: Sequence[Sequence[Sequence[int]]], b: Sequence[Sequence[Sequence[int]]], words: np.ndarray) -> MatchedPairs:
    """Matched-pairs sentence-segment word error test (Gillick & Cox 1989; Pallett et al. 1990 for NIST).

    a, b: for each run of a group, for each utterance, where its errors are: 2i + 1 for word i of the reference, 2i for what is
    inserted before it. words: (utterances,), of the references. A segment holds errors, and is parted from the next by the end of
    the utterance or by `GOOD_WORDS` words in a row that every run got right; the errors in different segments are taken as
    independent. Several runs of a group count with the mean of their errors: the test is of these runs, not of other seeds.
    """
    starts = 2 * np.concatenate([[0], np.cumsum(words + GOOD_WORDS)[:-1]])  # even, as the places within an utterance begin
    laid = [[_laid_out(run, starts) for run in group] for group in (a, b)]
    places = np.unique(np.concatenate([run for group in laid for run in group]))
    if not len(places):
        return MatchedPairs(0, 0.0, 1.0)
    right_between = places[1:] // 2 - (places[:-1] + 1) // 2
    segment = np.concatenate([[0], np.cumsum(right_between >= GOOD_WORDS)])
    of_a, of_b = (
        np.bincount(segment[np.searchsorted(places, np.concatenate(group))], minlength=segment[-1] + 1) / len(group) for group in laid
    )
    return _z_test(of_a - of_b)


def _laid_out(run: Sequence[Sequence[int]], starts: np.ndarray) -> np.ndarray:
    """A run's errors on one line on which all utterances stand, one after another."""
    return np.repeat(starts, [len(one) for one in run]) + np.array([place for one in run for place in one], dtype=np.int64)


def _z_test(differences: np.ndarray) -> MatchedPairs:
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    if error > 0:
        return MatchedPairs(count, mean / error, math.erfc(abs(mean / error) / math.sqrt(2)))
    return MatchedPairs(count, None, 2.0 ** (1 - count)) if mean else MatchedPairs(count, 0.0, 1.0)
