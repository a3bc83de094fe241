"""What is wrong with values whose type the schema leaves open: names, lists of names, text rules, and the
numbers in lists and mappings.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

# Keys that take a name or a list of names. Paths and words are texts; a number is one only in quotes.
NAMES = (
    *(f"dataset.{split}" for split in ("train", "dev", "test")),
    *("files", "a", "b"),
    *(f"table.{layout}" for layout in ("rows", "columns", "mean_over")),
)
FOLDERS = ("a", "b")  # of runs, which are often typed as bare words
# Keys that hold numbers by name or in order.
OF_NUMBERS = ("optimizer.lr_scale", "optimizer.betas", "augment.speed")


def kind_problems(config: Any) -> Iterator[str]:
    """What is wrong with the values of these keys, a sentence each."""
    for name in NAMES:
        value = _value(config, name)
        if value is not None:
            yield from _name_problems(name, value)
    rules = _value(config, "text.rules")
    for rule in rules if isinstance(rules, list) else []:
        yield from _rule_problems(rule)
    for name in OF_NUMBERS:
        value = _value(config, name) or []
        for number in value.values() if isinstance(value, dict) else value:
            if isinstance(number, int | float) and not (math.isfinite(number) and number >= 0):
                yield f"{name}={value} has {number} in it; its numbers are finite and not below 0."


def _value(config: Any, name: str) -> Any:
    """The value of a key as Python holds it; None where there is none."""
    section, _, leaf = name.rpartition(".")
    parent = OmegaConf.select(config, section) if section else config
    if parent is None or leaf not in parent or OmegaConf.is_missing(parent, leaf):
        return None
    value = parent[leaf]
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _name_problems(name: str, value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and one.strip():
            continue
        if isinstance(one, int | float) and not isinstance(one, bool) and name in FOLDERS:
            yield f"{name} was read as the number {one}; write such a folder as ./FOLDER."
        elif isinstance(one, int | float) and not isinstance(one, bool):
            quoted = f'["{one}"]' if isinstance(value, list) else f'"{one}"'
            yield (
                f"{name}={value} is a number, and names a file or the like; put it in quotes:"
                f" '{name}={quoted}'."
            )
        else:
            yield (
                f"{name}={value} has to be a name or a list of names, such as {name}=[a,b], and {one!r} is"
                " none."
            )


def _rule_problems(rule: Any) -> Iterator[str]:
    if isinstance(rule, str) and rule:
        return
    if isinstance(rule, Mapping) and len(rule) == 1 and isinstance(next(iter(rule)), str):
        return
    yield (
        f"text.rules has {rule!r} in it, which is no rule; a rule is a name, or one name and what it takes:"
        ' text.rules=[lower,{remove: ",?."}].'
    )
