"""Confidence intervals of error rates: the jackknife over speakers with Student's t. Every 95 % interval of
this package is computed here.

A rate is a sum of errors over a sum of words, and the utterances of one speaker are not independent. Whole
speakers (clusters) are therefore left out in turn, and the change of the rate gives its variance (Tukey
1958), which is on average not too small (Efron & Stein 1981). The interval is Student's, as MacKinnon,
Nielsen & Webb (2023) advise for few clusters, with one degree of freedom less than there are clusters. A
speaker with many more words than the others lowers their effective number (Carter, Schnepel & Steigerwald
2017). A bootstrap over clusters (Bisani & Ney 2004) comes to the same, but for the chance in its draws, and
for intervals that are too narrow with a handful of speakers.

These are pure functions that need numpy alone. Student's distribution takes the twenty lines below because
SciPy, which has it, would be a large dependency for this one function.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
POWER = 0.84  # the normal's quantile for four of five
ROUNDING = 1e-12  # a difference up to this is one of rounding, between equal rates


@dataclass(frozen=True)
class Estimate:
    """A rate, or a difference of rates, as a fraction, with its standard error and degrees of freedom.

    error: None where there is only one cluster, 0 where all clusters have the same value to the last digit;
    lower_bound: the least that the true value can be.
    """

    value: float
    error: float | None
    degrees: float
    lower_bound: float = -math.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None where there is one cluster, or the clusters do not differ."""
        if not self.error:
            return None
        half = self.error * student_quantile(LEVEL, self.degrees)
        return max(self.lower_bound, self.value - half), self.value + half

    @property
    def p(self) -> float | None:
        """The two-sided p value of the true value being 0. Where all clusters have the same value to the last
        digit, it is that of the sign test.
        """
        if self.error is None:
            return None
        if self.error:
            return student_p(self.value / self.error, self.degrees)
        return 2.0**-self.degrees if abs(self.value) > ROUNDING else 1.0

    @property
    def detectable(self) -> float | None:
        """About how large the true value must be for p < .05 in four of five such experiments."""
        return self.error * (student_quantile(LEVEL, self.degrees) + POWER) if self.error else None


def rates_left_out(errors: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rates of runs, (runs,), and the rates with each cluster left out, (runs, clusters).

    errors: (runs, clusters); lengths: units of the references, (clusters,). The second result is empty,
    (runs, 0), where fewer than two clusters have a reference.
    """
    whole = errors.sum(axis=1) / lengths.sum()
    if np.count_nonzero(lengths) < 2:
        return whole, np.empty((len(errors), 0))
    return whole, (errors.sum(axis=1, keepdims=True) - errors) / (lengths.sum() - lengths)


def jackknife(
    value: float,
    left_out: np.ndarray,
    lengths: np.ndarray,
    between: Sequence[np.ndarray] = (),
    lower_bound: float = -math.inf,
) -> Estimate:
    """Estimate the variance of a value with the jackknife.

    Args:
        value: the mean of the runs.
        left_out: the values of runs with each cluster left out, (runs, clusters). The runs share their
            clusters, so their mean variance is taken: it does not shrink with their number.
        lengths: of the clusters, (clusters,).
        between: values that vary with the seed too, one array for each independent group of runs; the
            variance of their mean is added.
        lower_bound: the least that the true value can be.
    """
    clusters = left_out.shape[1]
    if clusters < 2:
        return Estimate(value, None, 0, lower_bound)
    degrees = max(1.0, float(lengths.sum() ** 2 / (lengths**2).sum()) - 1)
    parts = [((clusters - 1) * float(left_out.var(axis=1).mean()), degrees)]
    parts += [(float(runs.var(ddof=1)) / len(runs), len(runs) - 1.0) for runs in between if len(runs) > 1]
    return summed(value, parts, lower_bound)


def summed(value: float, parts: Sequence[tuple[float, float]], lower_bound: float = -math.inf) -> Estimate:
    """The estimate whose variance is the sum of independent parts (Satterthwaite 1946).

    parts: (variance, degrees of freedom) of each; lower_bound: the least that the true value can be.
    """
    variance = sum(part for part, _ in parts)
    if variance < ROUNDING**2:
        return Estimate(value, 0.0, parts[0][1], lower_bound)
    degrees = variance**2 / sum(part**2 / part_degrees for part, part_degrees in parts)
    return Estimate(value, math.sqrt(variance), degrees, lower_bound)


# ------------------------------------------------------------------------------------------------------------
# Student's t


def student_p(t: float, degrees: float) -> float:
    """The two-sided p value of Student's t for degrees >= 1, by Gauss-Legendre quadrature."""
    if math.isinf(t):
        return 0.0
    # with t = sqrt(degrees) * tan(angle), the density is proportional to cos(angle) ** (degrees - 1)
    low = math.atan(abs(t) / math.sqrt(degrees))
    high = min(math.pi / 2, low + 40 / math.sqrt(degrees))
    angles = (high + low) / 2 + (high - low) / 2 * _NODES
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    return min(1.0, float((high - low) * np.exp(scale + (degrees - 1) * np.log(np.cos(angles))) @ _WEIGHTS))


@functools.lru_cache
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
