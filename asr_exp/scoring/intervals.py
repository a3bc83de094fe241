"""How far an error rate can be trusted: the jackknife over speakers and Student's t, the one method for every
95 % interval here.

A rate is a sum of errors over a sum of words, and what one speaker says is not independent. So whole speakers
(clusters) are left out in turn; how much the rate moves gives its variance (Tukey 1958; on average not too
small, Efron & Stein 1981), and the interval is Student's, as MacKinnon, Nielsen & Webb (2023) advise where
clusters are few, with one degree of freedom fewer than there are clusters; a speaker who says much more than
the others makes their effective number smaller (Carter, Schnepel & Steigerwald 2017). It is what a bootstrap
over clusters (Bisani & Ney 2004) comes to, less the chance in its draws, and less its intervals that are too
narrow for a handful of speakers. Pure functions; numpy only.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
POWER = 0.84  # the normal's quantile for four of five
NOTHING = 1e-12  # what rounding leaves of a difference between equal rates


@dataclass(frozen=True)
class Estimate:
    """A rate, or a difference of rates, as fractions, with its standard error and degrees of freedom.

    error: None where there is but one cluster, 0 where all clusters agree to the last digit. least: what the
    truth cannot be below.
    """

    value: float
    error: float | None
    degrees: float
    least: float = -math.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval; None where the clusters do not tell how far to trust the value: there is one, or
        they do not differ.
        """
        if not self.error:
            return None
        reach = self.error * student_quantile(LEVEL, self.degrees)
        return max(self.least, self.value - reach), self.value + reach

    @property
    def p(self) -> float | None:
        """Two-sided p value of the truth being 0. Where all clusters agree to the last digit it is the sign
        test's.
        """
        if self.error is None:
            return None
        if self.error:
            return student_p(self.value / self.error, self.degrees)
        return 2.0**-self.degrees if abs(self.value) > NOTHING else 1.0

    @property
    def detectable(self) -> float | None:
        """About how large the truth must be for p < .05 in four of five such experiments."""
        return self.error * (student_quantile(LEVEL, self.degrees) + POWER) if self.error else None


def rates_left_out(errors: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates, and what they are with each cluster left out.

    errors: (runs, clusters); lengths: (clusters,), units of the references -> (runs,), (runs, clusters). The
    second is empty, (runs, 0), where fewer than two clusters have a reference.
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
    least: float = -math.inf,
) -> Estimate:
    """The estimate of a value, from the values of runs with each cluster left out, (runs, clusters). lengths:
    (clusters,).

    The runs share their clusters, so the mean of their variances does not shrink with their number. between:
    values that vary by seed as well, an array for each independent group of runs; the variance of their mean
    is added.
    """
    clusters = left_out.shape[1]
    if clusters < 2:
        return Estimate(value, None, 0, least)
    degrees = max(1.0, float(lengths.sum() ** 2 / (lengths**2).sum()) - 1)
    parts = [((clusters - 1) * float(left_out.var(axis=1).mean()), degrees)]
    parts += [(float(runs.var(ddof=1)) / len(runs), len(runs) - 1.0) for runs in between if len(runs) > 1]
    return summed(value, parts, least)


def summed(value: float, parts: Sequence[tuple[float, float]], least: float = -math.inf) -> Estimate:
    """An estimate whose variance is a sum of independent parts: (variance, degrees of freedom) of each
    (Satterthwaite 1946).
    """
    variance = sum(part for part, _ in parts)
    if variance < NOTHING**2:
        return Estimate(value, 0.0, parts[0][1], least)
    return Estimate(
        value, math.sqrt(variance), variance**2 / sum(part**2 / degrees for part, degrees in parts), least
    )


# ------------------------------------------------------------------------------------------------------------
# Student's t


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
