"""Scores, the interval of their mean, and what it is beside a published one: pure functions. A rate is a
fraction (0.21).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asr_exp.scoring.intervals import LEVEL, student_quantile, summed

# by how much a score may differ from the published one and be the same, where its recipe does not say
TOLERANCE = 0.01
ENOUGH = 0.99  # a score of less of the split than this is not set against a published one
EDGE = 1e-9  # what a sum of decimal fractions may miss its value by
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
    """The score a row is to be set against, as its source gives it."""

    value: float | None = None
    metric: str | None = None
    split: str | None = None
    source: str | None = None
    hardware: str | None = None
    time: str | None = None
    tolerance: float = TOLERANCE
    inferred: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)  # the parts of its protocol that are known


@dataclass(frozen=True)
class Score:
    """What a finished run says of its test split. degrees: of freedom of its interval, which is Student's."""

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


def judge(scores: Sequence[Score], published: PublishedScore) -> tuple[str, str]:
    """The verdict on the mean of `scores`, of one protocol, and why it is one that needs a word; both '' with
    nothing to compare.
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
    if (least := min(score.coverage for score in scores)) < ENOUGH:
        return "cannot tell", f"only {100 * least:.1f} % of the split is scored"
    return verdict(
        statistics.fmean(score.value for score in scores),
        interval(scores),
        published.value,
        published.tolerance,
    )


def interval(scores: Sequence[Score]) -> tuple[float, float] | None:
    """95 % interval of the mean of runs that differ by their seed, as `INTERVALS` says; None where there is
    nothing to tell it by.

    The runs share their speakers, so the variance over speakers does not shrink with their number, as that
    between seeds does.
    """
    if len(scores) < 2:
        return scores[0].ci95 if scores else None
    values = [score.value for score in scores]
    parts = [(statistics.variance(values) / len(values), len(values) - 1.0)]
    own = [(score.ci95[1] - score.value, score.degrees) for score in scores if score.ci95 and score.degrees]
    if own:  # a low end may have been cut off at 0; the high one is Student's
        variances = [(reach / student_quantile(LEVEL, degrees)) ** 2 for reach, degrees in own]
        parts.append((statistics.fmean(variances), min(degrees for _, degrees in own)))
    return summed(statistics.fmean(values), parts, least=0.0).interval


def verdict(
    ours: float, within: tuple[float, float] | None, published: float, tolerance: float
) -> tuple[str, str]:
    """What our score is beside the published one, as `VERDICTS` says -> (the verdict, why it is `cannot
    tell`).
    """
    reach = (within[1] - within[0]) / 2 if within else 0.0
    if reach > 2 * tolerance + EDGE:
        return (
            "cannot tell",
            (
                f"the interval reaches {100 * reach:.2f} points either way, for a tolerance of"
                f" {100 * tolerance:g}"
            ),
        )
    if abs(ours - published) <= tolerance + EDGE:
        return "as published", ""
    if within is None:
        return "cannot tell", "beyond the tolerance, and the runs have no interval to tell it from chance"
    if within[0] <= published <= within[1]:
        return "cannot tell", "beyond the tolerance, and the published score lies within the interval"
    return ("better" if ours < published else "worse"), ""
