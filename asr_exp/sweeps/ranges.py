"""What a sweep varies: Hydra's override syntax (a,b, choice, range, interval, tag) as ranges to draw from.

https://hydra.cc/docs/1.3/advanced/override_grammar/extended/
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import UnionType
from typing import Any, get_args

from asr_exp.config.bounds import bound_problems
from asr_exp.config.hydra_internals import parse_override
from asr_exp.config.schema import key_field
from asr_exp.core.errors import UserError


@dataclass(frozen=True)
class Range:
    """One key (or group) and the values it may take.

    kind: `choice` (one of `choices`, each as it is written in an override), `int` or `float`. Numbers are
    from `low` to `high`, both included, at distances of `step` where there is one; with `log`, they are drawn
    evenly in the logarithm.
    """

    name: str
    kind: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def values(self) -> list[Any] | None:
        """Every value in turn; None for an interval of numbers, which has no end of them."""
        if self.kind == "choice":
            return list(self.choices)
        if self.step is None:
            return None
        values = [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]
        return values if self.kind == "int" else [round(value, 12) for value in values]

    def rounded(self, value: Any) -> Any:
        """A number of an interval, to five significant digits; other values as they are."""
        return min(max(float(f"{value:.5g}"), self.low), self.high) if self.values is None else value

    def override(self, value: Any) -> str:
        """The override that sets a value; one on a step has the rounding error of floats removed (0.3)."""
        return f"{self.name}={value if self.kind != 'float' or self.step is None else round(value, 12)}"

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"{self.name}={','.join(self.choices)}"
        every = "" if self.step in (None, 1) else f" every {self.step:g}"
        return f"{self.name}={self.low:g}..{self.high:g}{every}{' (log)' if self.log else ''}"


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[Range]]:
    """Split overrides into those with one value, and the ranges of those with several.

    Raises UserError for a range that no value can be drawn from.
    """
    fixed = []
    ranges = []
    for text in overrides:
        override = parse_override(text)
        if override.is_sweep_override():
            ranges.append(_range(text, override))
        else:
            fixed.append(text)
    return fixed, ranges


def _range(text: str, override: Any) -> Range:
    name, value = override.get_key_element(), override.value()
    if override.is_interval_sweep():
        range_ = _interval(text, name, value)
    elif override.is_range_sweep() and not value.shuffle:
        range_ = _steps(text, name, value)
    else:
        value.shuffle = False  # the study is known by the values in the order in which they are written
        return Range(name, "choice", tuple(dict.fromkeys(override.sweep_string_iterator())))
    if unknown := set(value.tags) - {"log"}:
        raise UserError(
            f"{text}: the tag {min(unknown)!r} means nothing here; log does, as in tag(log,"
            " interval(1e-5,1e-3))."
        )
    if range_.log and range_.low <= 0:
        raise UserError(f"{text}: a range that is tagged log has to begin above 0.")
    one = key_field(name.lstrip("+"))
    problems = (
        [message for end in (range_.low, range_.high) for message in bound_problems(name, end, one.metadata)]
        if one
        else []
    )
    if problems:
        raise UserError(f"{text}: {problems[0]}")
    return range_


def _interval(text: str, name: str, value: Any) -> Range:
    if value.start > value.end:
        raise UserError(f"{text}: the interval ends below where it begins; write interval(LOW,HIGH).")
    log = "log" in value.tags
    if (isinstance(value.start, int) and isinstance(value.end, int)) or _whole(name):
        return Range(name, "int", low=int(value.start), high=int(value.end), step=1, log=log)
    return Range(name, "float", low=float(value.start), high=float(value.end), log=log)


def _steps(text: str, name: str, value: Any) -> Range:
    """range(START,STOP,STEP), without STOP, as in Hydra and Python; in decimals, so that range(0.1,0.4,0.1)
    ends at 0.3.
    """
    start, stop, stride = (Decimal(str(one)) for one in (value.start, value.stop, value.step))
    if not stride:
        raise UserError(f"{text}: a range needs a step other than 0.")
    whole = all(isinstance(one, int) for one in (value.start, value.stop, value.step))
    values = sorted(
        (int if whole else float)(start + i * stride)
        for i in range(max(0, math.ceil((stop - start) / stride)))
    )
    if not values:
        raise UserError(f"{text}: the range is empty; its end is not included, so range(1,3) is 1 and 2.")
    log, step = "log" in value.tags, abs(value.step)
    if log and step != 1:
        raise UserError(
            f"{text}: a range with a step cannot be tagged log; use tag(log, interval(LOW,HIGH))."
        )
    return Range(name, "int" if whole else "float", low=values[0], high=values[-1], step=step, log=log)


def _whole(name: str) -> bool:
    """Whether a key takes whole numbers and no others."""
    one = key_field(name.lstrip("+"))
    kinds = get_args(one.type) if one and isinstance(one.type, UnionType) else (one.type,) if one else ()
    return int in kinds and float not in kinds
