"""Is one error rate lower than another, or is it luck? Pure functions on arrays of errors; numpy only.

`compare_rates` resamples speakers (and seeds); `mapsswe` looks at the stretches of words where either of two recognisers erred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
RESAMPLES = 10_000
GOOD_WORDS = 2  # that all recognisers got right, and that part one segment from the next: the default of NIST's sc_stats
CHUNK = 1 << 21  # random draws held at a time


# ---------------------------------------------------------------------------------------------------------------------
# Student's t: with few speakers the normal's quantiles would promise too much


def student_p(t: float, degrees: float) -> float:
    """Two-sided p value of Student's t, at 1 or more degrees of freedom."""
    if math.isinf(t):
        return 0.0
    # With t = sqrt(degrees) * tan(angle), the density is in proportion to cos(angle) ** (degrees - 1).
    low = math.atan(abs(t) / math.sqrt(degrees))
    high = min(math.pi / 2, low + 40 / math.sqrt(degrees))
    angles = (high + low) / 2 + (high - low) / 2 * _NODES
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    return min(1.0, float((high - low) * np.exp(scale + (degrees - 1) * np.log(np.cos(angles))) @ _WEIGHTS))


def student_quantile(p: float, degrees: float) -> float:
    """The t whose two-sided p value is `p`."""
    low, high = 0.0, 1.0
    while student_p(high, degrees) > p:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, degrees) > p else (low, middle)
    return high


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


# ---------------------------------------------------------------------------------------------------------------------
# the bootstrap


@dataclass(frozen=True)
class Estimate:
    """A rate, or a difference of rates, as fractions. `error` is its standard error, None where there is only one cluster."""

    value: float
    error: float | None
    degrees: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval."""
        if self.error is None:
            return None
        reach = self.error * student_quantile(LEVEL, self.degrees)
        return self.value - reach, self.value + reach

    @property
    def p(self) -> float | None:
        """Two-sided p value of the truth being 0. Where all clusters agree to the last digit it is the sign test's."""
        if self.error is None:
            return None
        if self.error > 1e-12:
            return student_p(self.value / self.error, self.degrees)
        return 2.0 ** -self.degrees if abs(self.value) > 1e-12 else 1.0

    @property
    def detectable(self) -> float | None:
        """About how large the truth must be for p < .05 in four of five such experiments."""
        return None if self.error is None else self.error * (student_quantile(LEVEL, self.degrees) + 0.84)


@dataclass(frozen=True)
class Comparison:
    """Mean rates of the groups A and B, and A - B. percentiles: of the resampled differences (2.5 %, 97.5 %), as they are."""

    a: Estimate
    b: Estimate
    difference: Estimate
    percentiles: tuple[float, float] | None


def compare_rates(a: np.ndarray, b: np.ndarray, lengths: np.ndarray, clusters: np.ndarray, matched: bool = False,
                  resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Paired, clustered bootstrap of the difference of two micro-averaged error rates (Bisani & Ney 2004).

    a, b: (runs, utterances), errors of each group's runs, which differ by their seeds; lengths: (utterances,), units of the
    references; clusters: (utterances,), 0 .. clusters - 1, what is drawn together: utterances of one speaker. matched: run i of
    both groups has the same seed, and seeds are drawn in pairs.

    Seeds and clusters are drawn independently of each other, so the error carries the variance of both (Owen 2007, the pigeonhole
    bootstrap). One fewer is drawn of each than there are, which makes the variances of means unbiased (Rao & Wu 1988); the interval
    is Student's, with Satterthwaite's degrees of freedom, for plain percentiles are too narrow where clusters are few.
    """
    table = np.concatenate([a, b, lengths[None]]).astype(np.float64)
    totals = np.stack([np.bincount(clusters, weights=row) for row in table], axis=1)
    measured = totals[:, :-1].sum(axis=0) / totals[:, -1].sum()
    rng = np.random.default_rng(seed)
    drawn = _drawn_rates(totals, resamples, rng)
    shares_a = _shares(len(a), resamples, rng)
    shares_b = shares_a if matched else _shares(len(b), resamples, rng)
    of_a, of_b = measured[: len(a)], measured[len(a) :]
    draws_a, draws_b = (drawn[:, : len(a)] * shares_a).sum(axis=1), (drawn[:, len(a) :] * shares_b).sum(axis=1)
    between = [of_a - of_b] if matched else [of_a, of_b]
    low, high = np.nanpercentile(draws_a - draws_b, [100 * LEVEL / 2, 100 - 100 * LEVEL / 2])
    return Comparison(
        _estimate(of_a.mean(), draws_a, [of_a], len(totals)), _estimate(of_b.mean(), draws_b, [of_b], len(totals)),
        _estimate(of_a.mean() - of_b.mean(), draws_a - draws_b, between, len(totals)),
        (float(low), float(high)) if len(totals) > 1 else None,
    )


def _drawn_rates(totals: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(clusters, runs + 1), the last column the references' lengths -> (resamples, runs), each run's rate over clusters drawn."""
    clusters, runs = len(totals), totals.shape[1] - 1
    rates, draws = np.full((resamples, runs), np.nan), max(1, clusters - 1)  # nan: not a word of reference among those drawn
    for start in range(0, resamples, max(1, CHUNK // clusters)):
        rows = min(max(1, CHUNK // clusters), resamples - start)
        picks = rng.integers(0, clusters, (rows, draws)) + clusters * np.arange(rows)[:, None]
        sums = np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters) @ totals
        np.divide(sums[:, :-1], sums[:, -1:], out=rates[start : start + rows], where=sums[:, -1:] > 0)
    return rates


def _shares(runs: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, runs): what share of the draws falls on each run of a group."""
    draws = max(1, runs - 1)
    return rng.multinomial(draws, np.full(runs, 1 / runs), resamples) / draws


def _estimate(value: float, draws: np.ndarray, between: Sequence[np.ndarray], clusters: int) -> Estimate:
    """between: what varies by seed, an array for each independent group of runs."""
    if clusters < 2:
        return Estimate(float(value), None, 0)
    variance = float(np.nanvar(draws))
    parts = [(float(rates.var(ddof=1)) / len(rates), len(rates) - 1) for rates in between if len(rates) > 1]
    parts.append((max(0.0, variance - sum(part for part, _ in parts)), clusters - 1))
    spread = sum(part**2 / degrees for part, degrees in parts)
    degrees = sum(part for part, _ in parts) ** 2 / spread if spread else clusters - 1
    return Estimate(float(value), math.sqrt(variance), degrees)


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
