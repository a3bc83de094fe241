"""Overrides: how Hydra's grammar reads them, and what is changed in them so that it can."""

import re
from collections.abc import Sequence
from dataclasses import Field
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from asr_exp.config.groups import OPTIONAL_GROUPS
from asr_exp.config.hydra_internals import parse_override
from asr_exp.config.schema import key_field

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def to_hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra needs them.

    A new entry of a mapping (`model.config.hidden_size=64`) gets the `++` that Hydra asks for. A group that
    is null by default is left out where it is null (`experiment=null`): Hydra would look for such a file.
    """
    nulls = {f"{group}=null" for group in OPTIONAL_GROUPS}
    readable = (as_readable(text) for text in overrides if text not in nulls)
    return [
        f"++{text.lstrip('+')}" if is_inside_mapping(text.partition("=")[0].lstrip("+")) else text
        for text in readable
    ]


def reading_notes(overrides: Sequence[str]) -> list[str]:
    """A line for each override that is read in another way than it is written, for the user to see."""
    return [f"{text} is read as {other}" for text in overrides if (other := as_readable(text)) != text]


def as_readable(text: str) -> str:
    """An override that Hydra can read, with the meaning that the text has without Hydra's grammar.

    Plain text that the grammar refuses (`~/x`, `é.csv`, `a(1).csv`) is quoted, and for a key that takes whole
    numbers alone 1e3 becomes 1000. Whoever reads a command line shows `reading_notes`.
    """
    name, equals, value = text.partition("=")
    key = key_field(name.lstrip("+"))
    if int in key_types(key):
        value = re.sub(r"(?<![\w.])\d+(\.\d+)?[eE]\+?\d+(?![\w.])", _as_whole, value)
        text = name + equals + value
    grammar = "{}(" if "," in value else "{}"
    if (
        not equals
        or not name.strip()
        or parsed(text)
        or re.match(r"[\"']|\w+\(.*\)$", value)
        or set(grammar) & set(value)
    ):
        return text
    mended = re.sub(r"[^,\[\]]+", _quoted_if_needed, value)
    return f"{name}={mended}" if parsed(f"{name}={mended}") else text


def _as_whole(number: re.Match) -> str:
    return str(int(float(number[0]))) if float(number[0]).is_integer() else number[0]


def _quoted_if_needed(piece: re.Match) -> str:
    return piece[0] if parsed(f"a={piece[0]}") else quoted(piece[0].strip())


def quoted(text: str) -> str:
    """A text in single quotes, which Hydra's grammar reads as just that text.

    A backslash stands for itself there, unless quotes follow it.
    """
    return "'" + re.sub(r"(\\+)(?='|\Z)", r"\1\1", text).replace("'", "\\'") + "'"


def parsed(text: str) -> "Override | None":
    """An override as Hydra reads it, or None for bad grammar."""
    from hydra.errors import HydraException

    try:
        return parse_override(text)
    except HydraException:
        return None


def key_types(key: Field | None) -> set[Any]:
    """The types that a key takes: {int, NoneType} for `int | None`, {list} for `list[float]`."""
    if key is None:
        return set()
    types = get_args(key.type) if isinstance(key.type, UnionType) else (key.type,)
    return {get_origin(type_) or type_ for type_ in types}


def is_inside_mapping(name: str) -> bool:
    """Whether a dotted name is, or is inside, a key that takes a mapping, such as model.config."""
    parts = name.split(".")
    return any(
        get_origin(key.type) is dict
        for n in range(1, len(parts) + 1)
        if (key := key_field(".".join(parts[:n])))
    )
