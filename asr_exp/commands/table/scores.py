"""Scores, the interval of their mean, and how it compares with a published score. Pure functions; a rate is a
fraction (0.21).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asr_exp.scoring.intervals import LEVEL, student_quantile, summed

# A score within the tolerance of the published one counts as the same; a recipe may state another tolerance.
TOLERANCE = 0.01
LEAST_COVERAGE = 0.99  # a score of a smaller share of the split is not compared with a published one
ROUNDING = 1e-9  # the error that a sum of decimal fractions may have
INTERVALS = (
    "95 % intervals are Student's: of one run, its own, from its speakers left out in turn; of several, from"
    " their mean variance over speakers plus the variance between the runs over their number, with"
    " Satterthwaite's degrees of freedom."
)
VERDICTS = (
    "Verdicts: `as published` within the tolerance; beyond it `better` or `worse` where the interval leaves"
    " out the published score, else `cannot tell`; also `cannot tell` where the interval reaches further than"
    " twice the tolerance, less than 99 % of the split is scored, or it is another split."
)


@dataclass(frozen=True)
class PublishedScore:
    """The score that ours are compared with, as its source gives it. protocol: the parts that are known of
    how it was measured; inferred: the settings that the source leaves open.
    """

    value: float | None = None
    metric: str | None = None
    split: str | None = None
    source: str | None = None
    hardware: str | None = None
    time: str | None = None
    tolerance: float = TOLERANCE
    inferred: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """What a finished run says of its test split. degrees: the degrees of freedom of its interval, which is
    Student's; coverage: the share of the split's utterances that were scored; data: a hash of its ids and
    transcripts as the corpus had them, '' where the run recorded none.
    """

    metric: str
    value: float
    ci95: tuple[float, float] | None
    degrees: float | None
    coverage: float
    utterances: int
    protocol: Mapping[str, Any]
    hardware: str = ""
    wall_seconds: float | None = None
    steps: int | None = None
    version: str = ""
    data: str = ""


def judge(scores: Sequence[Score], published: PublishedScore) -> tuple[str, str]:
    """The verdict on the mean of scores of one protocol, and the reason where the verdict is `cannot tell`;
    both '' where there is nothing to compare.
    """
    if not scores or published.value is None:
        return "", ""
    splits = scores[0].protocol.get("split") or []
    named = [str(one).lower() for one in (splits if isinstance(splits, list | tuple) else [splits])]
    if published.split and published.split.lower() not in named:
        return (
            "cannot tell",
            f"published on {published.split}, ours is on {' and '.join(named) or 'an unnamed split'}",
        )
    if (least := min(score.coverage for score in scores)) < LEAST_COVERAGE:
        return "cannot tell", f"only {100 * least:.1f} % of the split is scored"
    return verdict(
        statistics.fmean(score.value for score in scores),
        interval(scores),
        published.value,
        published.tolerance,
    )


def interval(scores: Sequence[Score]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of runs that differ by their seed, as `INTERVALS` says; None where
    neither the runs nor their spread give one.

    The variance between seeds shrinks with the number of runs. The variance over speakers does not, because
    the runs share their speakers.

    Student's quantile is our own (asr_exp.scoring.intervals), as SciPy is no dependency of the base install.
    """
    if len(scores) < 2:
        return scores[0].ci95 if scores else None
    values = [score.value for score in scores]
    parts = [(statistics.variance(values) / len(values), len(values) - 1.0)]
    own = [(score.ci95[1] - score.value, score.degrees) for score in scores if score.ci95 and score.degrees]
    if own:  # a low end may have been cut off at 0; the high one is Student's
        variances = [(reach / student_quantile(LEVEL, degrees)) ** 2 for reach, degrees in own]
        parts.append((statistics.fmean(variances), min(degrees for _, degrees in own)))
    return summed(statistics.fmean(values), parts, lower_bound=0.0).interval


def verdict(
    ours: float, within: tuple[float, float] | None, published: float, tolerance: float
) -> tuple[str, str]:
    """How our score compares with the published one, as `VERDICTS` says, and the reason where the verdict is
    `cannot tell`. within: the interval of ours.
    """
    reach = (within[1] - within[0]) / 2 if within else 0.0
    if reach > 2 * tolerance + ROUNDING:
        return (
            "cannot tell",
            (
                f"the interval reaches {100 * reach:.2f} points either way, for a tolerance of"
                f" {100 * tolerance:g}"
            ),
        )
    if abs(ours - published) <= tolerance + ROUNDING:
        return "as published", ""
    if within is None:
        return "cannot tell", "beyond the tolerance, and the runs have no interval to tell it from chance"
    if within[0] <= published <= within[1]:
        return "cannot tell", "beyond the tolerance, and the published score lies within the interval"
    return ("better" if ours < published else "worse"), ""
