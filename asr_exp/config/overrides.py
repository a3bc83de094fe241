"""What is wrong with a command line or a YAML file, in words: the key, what was given, what is allowed, the
nearest name.

`override_problems` looks at the overrides before Hydra does (Hydra lets some mistakes pass);
`composition_problem` turns what Hydra still objects to into a sentence.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_exp.config.groups import OPTIONAL_GROUPS, Choices, tables
from asr_exp.config.hydra_internals import parse_override
from asr_exp.config.messages import unknown_key
from asr_exp.config.schema import Config, key_field
from asr_exp.core.errors import nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


# to try values on: each key by itself, whatever it holds of others
_typed = cache(lambda: OmegaConf.structured(Config))


# ------------------------------------------------------------------------------------------------------------
# the overrides


def override_problems(overrides: Sequence[str], choices: Choices, multirun: bool = False) -> list[str]:
    """Everything wrong with a command line's overrides, a sentence each."""
    given: dict[str, str] = {}
    found: list[str] = []
    overrides, apart = _rejoined([readable(text) for text in overrides])
    for text in apart:
        found.append(f"The shell has taken {text} apart at its spaces: put it in single quotes, '{text}'.")
    for text in overrides:
        found += _override_problems(text, choices, multirun)
        name, _, value = text.partition("=")
        if given.setdefault(name, value) != value:
            found.append(f"{name} is given twice, as {given[name]} and as {value}; drop one of them.")
    return found


def to_hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra wants them: new entries of a mapping (`model.config.hidden_size=64`) need a `++`
    there, and what is null by default (`experiment=null`) may not be given."""
    given = (
        readable(text) for text in overrides if text not in {f"{group}=null" for group in OPTIONAL_GROUPS}
    )
    return [
        f"++{text.lstrip('+')}" if _inside_mapping(text.partition("=")[0].lstrip("+")) else text
        for text in given
    ]


def readable(text: str) -> str:
    """An override that Hydra can read: what it takes for bad grammar and is plain text (`~/x`, `é.csv`,
    `a(1).csv`) in quotes, and a whole number for a key that takes nothing else written as one (1e3)."""
    name, equals, value = text.partition("=")
    one = key_field(name.lstrip("+"))
    if int in _types(one):
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
    mended = re.sub(r"[^,\[\]]+", lambda piece: _quoted(piece[0]), value)
    return f"{name}={mended}" if parsed(f"{name}={mended}") else text


def _types(one: Field | None) -> set[Any]:
    """What a key takes: {int, NoneType} for `int | None`, {list} for `list[float]`."""
    if one is None:
        return set()
    return {
        get_origin(t) or t for t in (get_args(one.type) if isinstance(one.type, UnionType) else (one.type,))
    }


def _as_whole(number: re.Match) -> str:
    return str(int(float(number[0]))) if float(number[0]).is_integer() else number[0]


def _quoted(piece: str) -> str:
    return piece if parsed(f"a={piece}") else quoted(piece.strip())


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


def _rejoined(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line less those that are one override which the shell took apart,
    `text.rules=[nfc, lower]`; and those.
    """
    left: list[str] = []
    apart: list[str] = []
    while words:
        one = key_field(words[0].partition("=")[0]) if "=" in words[0] else None
        of_text = {str, Any} & _types(one)
        bare = next((n for n, word in enumerate(words[1:], 1) if "=" in word), len(words))
        ends = (
            n
            for n in range(bare, 1, -1)
            if one and (of_text or not parsed(words[0])) and parsed(" ".join(words[:n]))
        )
        count = next(ends, 1)
        (apart if count > 1 else left).append(" ".join(words[:count]))
        words = words[count:]
    return left, apart


def _inside_mapping(name: str) -> bool:
    parts = name.split(".")
    return any(
        get_origin(one.type) is dict
        for n in range(1, len(parts) + 1)
        if (one := key_field(".".join(parts[:n])))
    )


def _override_problems(text: str, choices: Choices, multirun: bool) -> Iterator[str]:
    override = parsed(text)
    name = override.key_or_group if override else ""
    if not override or not name:
        yield _syntax_problem(text)
    elif name.startswith("hydra.sweeper.params"):
        yield (
            f"{text}: what a sweep varies is given as it is, such as -m seed=0,1; hydra.sweeper.params is for"
            " YAML files."
        )
    elif re.match(r"hydra[./]", name) or override.package:
        return  # Hydra's own keys, and packages, are Hydra's to judge
    elif override.is_sweep_override() and not multirun:
        yield (
            f"{text} gives {name} several values. Add -m to run them one after"
            f" another{_instead(name, text.partition('=')[2])}."
        )
    elif override.is_discrete_sweep():
        for value in override.sweep_string_iterator():
            yield from _override_problems(f"{name}={value}", choices, multirun)
    elif override.is_sweep_override():  # an interval: both of its ends have to do
        interval: Any = override.value()
        for end in (interval.start, interval.end):
            yield from _override_problems(
                f"{name}={int(end) if float(end).is_integer() else end}", choices, multirun
            )
    elif override.is_delete():
        return
    elif name in choices:
        yield from _choice_problems(
            name,
            text,
            "null" if override.value() is None else override.value(),
            choices[name],
            override.is_add(),
        )
    elif key_field(name) is None and not override.is_add() and not _inside_mapping(name):
        yield unknown_key(name, choices)
    elif key_field(name) is not None:
        yield from _type_problems(name, text, override.value())


def _instead(name: str, value: str) -> str:
    """What else someone may have meant by a value with a comma."""
    types = _types(key_field(name))
    if float in types and re.fullmatch(r"\d+,\d+", value):
        return f", or write {name}={value.replace(',', '.')} for a number that is not whole"
    if {list, Any} & types:
        return f", or '{name}=[{value}]' for a list"
    return f", or '{name}=\"{value}\"' for a text with a comma" if str in types else ""


def _syntax_problem(text: str) -> str:
    name, equals, value = text.partition("=")
    if not equals:
        return (
            f"{text!r} is neither a command nor key=value. Write key=value, such as dataset=timit; see"
            " --help."
        )
    if not name.strip():
        return f"{text!r} has no key before the '='. Write key=value, such as dataset=timit."
    opened: list[str] = []
    for sign in re.sub(r"\"[^\"]*\"|'[^']*'", "", value):
        if sign in "[{(":
            opened.append("]})"["[{(".index(sign)])
        elif opened and sign == opened[-1]:
            opened.pop()
    if opened:
        return (
            f"{text} cannot be read: a bracket is not closed. Write '{text}{''.join(reversed(opened))}', in"
            " single quotes for the shell."
        )
    return (
        f"{text} cannot be read. Put double quotes around a text with brackets, commas or other signs, and"
        " single quotes around the "
        f'whole, for the shell: \'{name}="TEXT"\', or in a list \'{name}=["TEXT","TEXT"]\'.'
    )


def _choice_problems(group: str, text: str, value: Any, choices: Sequence[str], added: bool) -> Iterator[str]:
    listed = _listed(choices)
    if added:
        yield (
            f"{text}: {group} is a group of this program, so it is chosen without the '+':"
            f" {text.lstrip('+')}."
        )
    elif group in OPTIONAL_GROUPS and (value == "null" or isinstance(value, list)):
        unknown = [one for one in ([] if value == "null" else value) if one not in choices]
        yield from (
            f"{text}: there is no {group} {one!r}.{nearest(one, choices)} {listed}" for one in unknown
        )
    elif isinstance(value, dict):
        yield (
            f"{text}: {group} wants the name of a choice; set its keys one by one, as {group}.KEY=VALUE."
            f" {listed}"
        )
    elif isinstance(value, list):
        yield f"{text}: {group} wants one choice; `-m {group}=a,b` runs several one after another. {listed}"
    elif group == "experiment" and (rows := tables(choices).get(str(value))):
        yield (
            f"{text} is a table of {len(rows)}: add -m to run them one after another, or give one,"
            f" {group}={rows[0]}. {_listed(rows)}"
        )
    elif str(value) not in choices:
        of_ones_own = {
            "dataset": "a manifest: dataset=csv dataset.train",
            "model": "a folder or an id: model=hf model.checkpoint",
        }
        hint = nearest(str(value), choices)
        if group in of_ones_own and re.search(r"[./]", str(value)):
            hint = f" For {of_ones_own[group]}={value}."
        yield f"{text}: there is no {group} {str(value)!r}.{hint} {listed}"


def _listed(choices: Sequence[str]) -> str:
    return f"The choices: {', '.join(choices) or 'none so far'}."


def _type_problems(name: str, text: str, value: Any) -> Iterator[str]:
    one = key_field(name)
    assert one is not None
    if is_dataclass(one.type):
        yield (
            f"{text}: {name} is a section; set its keys one by one:"
            f" {', '.join(f'{name}.{f.name}' for f in fields(one.type))}."
        )
        return
    try:
        OmegaConf.update(_typed(), name, value, merge=True)
    except OmegaConfBaseException:
        yield f"{text}: {name} must be {_kind(one.type)} ({one.metadata['help']}), not {value!r}."


def _kind(type_: Any) -> str:
    """'a number or null' for `float | None`."""
    if isinstance(type_, UnionType):
        return " or ".join(_kind(t) for t in get_args(type_))
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        list: "a list such as [a,b]",
        dict: "a mapping such as {a: 1}",
    }
    return names.get(get_origin(type_) or type_, "something else")


# ------------------------------------------------------------------------------------------------------------
# names


# ------------------------------------------------------------------------------------------------------------
# what Hydra objects to
