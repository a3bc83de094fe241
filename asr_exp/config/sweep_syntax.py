"""The ways in which Hydra's grammar gives one key several values, and what can be wrong with them.

https://hydra.cc/docs/1.3/advanced/override_grammar/extended/
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.config.groups import Choices, choices, tables
from asr_exp.config.hydra_internals import is_sweep
from asr_exp.config.overrides import parsed

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MOST_VALUES = 100_000  # of a range: more is a mistake, and would take a long time to write out


def is_glob(override: "Override") -> bool:
    """Whether an override gives a group the choices that match a pattern, as in `model=glob(wavlm*)`."""
    return override.is_choice_sweep() and not hasattr(override.value(), "list")


def glob_matches(override: "Override", choices: Choices) -> list[str]:
    """The choices of a group that a glob matches, in the order of their names."""
    value: Any = override.value()
    return value.filter(sorted(choices.get(override.key_or_group, ())))


def values_to_check(override: "Override") -> list[str]:
    """Values of a sweep whose types and bounds stand for those of all: each one of a list, and the first, the
    second and the last of a range, each as it is written in an override.
    """
    if not override.is_range_sweep():
        return list(override.sweep_string_iterator())
    value: Any = override.value()
    last = value.start + value.step * (_length(value) - 1)
    return [str(one) for one in dict.fromkeys((value.start, value.start + value.step, last))][
        : _length(value)
    ]


def sweep_problem(text: str, override: "Override", choices: Choices) -> str | None:
    """What is wrong with the several values of an override themselves, as a sentence."""
    name, value = override.key_or_group, override.value()
    if is_glob(override):
        if name not in choices:
            return f"{text}: glob() chooses among the files of a group, and {name} is none; list the values."
        if not glob_matches(override, choices):
            return f"{text} matches no {name}. The choices: {', '.join(choices[name])}."
    elif override.is_range_sweep():
        return _range_problem(text, value)
    elif not override.is_interval_sweep() and any(map(_holds_sweep, _parts(value))):
        return (
            f"{text}: one list of values stands inside another, or inside a value; write out what is varied:"
            f" {name}=VALUE,VALUE."
        )
    return None


def _range_problem(text: str, value: Any) -> str | None:
    numbers = (value.start, value.stop, value.step)
    if not all(map(math.isfinite, numbers)):
        return f"{text}: a range goes from one finite number to another; write range(START,STOP,STEP)."
    if value.step == 0:
        return f"{text}: a range needs a step other than 0; range(1,3) is 1 and 2."
    if _length(value) == 0:
        return f"{text}: the range is empty; its end is not included, so range(1,3) is 1 and 2."
    if _length(value) > MOST_VALUES:
        return (
            f"{text} has {_length(value):,} values; a range has {MOST_VALUES:,} at the most. An interval is"
            " searched: interval(LOW,HIGH) with sweeper=random."
        )
    return None


def _length(value: Any) -> int:
    return max(0, math.ceil((value.stop - value.start) / value.step))


def _parts(value: Any) -> Iterator[Any]:
    yield from value.list if is_sweep(value) and hasattr(value, "list") else [value]


def _holds_sweep(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_sweep, value.values()))
    return any(map(_holds_sweep, value)) if isinstance(value, list) else is_sweep(value)


def expanded(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The overrides of a sweep, with what a pattern matches in the place of the pattern, and the rows of a
    table of experiments in the place of the table.

    `model=glob(wavlm*)` becomes `model=wavlm-base,wavlm-base-plus,wavlm-large`, and `experiment=hf-timit`
    becomes `experiment=hf-timit/distilhubert,hf-timit/...`. What cannot be read is left as it is.
    """
    known = choices(folders)
    rows = tables(known["experiment"])

    def written_out(text: str) -> str:
        override = parsed(text)
        if override is None or override.key_or_group not in known or override.is_delete():
            return text
        if override.is_choice_sweep():
            names = (
                glob_matches(override, known) if is_glob(override) else [*override.sweep_string_iterator()]
            )
        else:
            names = [text.partition("=")[2]]
        if override.key_or_group == "experiment":
            names = [row for name in names for row in rows.get(name, [name])]
        if not names or not (is_glob(override) or override.key_or_group == "experiment"):
            return text
        return f"{override.get_key_element()}={','.join(names)}"

    return [written_out(text) for text in overrides]
