"""What is wrong with the overrides of a command line: the key, what was given, what is allowed, the nearest
name.

They are checked before Hydra reads them: Hydra lets some mistakes pass, and ends at the first that it finds.
What Hydra still objects to while it composes is put into words by messages.py.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_exp.config.groups import OPTIONAL_GROUPS, Choices, tables
from asr_exp.config.hydra_settings import setting_problem
from asr_exp.config.messages import unknown_key
from asr_exp.config.overrides import as_readable, is_inside_mapping, key_types, parsed
from asr_exp.config.schema import Config, key_field
from asr_exp.config.sweep_syntax import is_glob, sweep_problem, values_to_check
from asr_exp.core.errors import nearest

# A config to try values on, one key at a time, whatever the other keys hold.
_scratch = cache(lambda: OmegaConf.structured(Config))


def override_problems(overrides: Sequence[str], choices: Choices, multirun: bool = False) -> list[str]:
    """Everything wrong with a command line's overrides, a sentence each.

    choices: of each group. multirun: whether an override may give several values.
    """
    given: dict[str, str] = {}
    problems: list[str] = []
    words, torn = _torn_by_shell([as_readable(text) for text in overrides])
    for text in torn:
        problems.append(f"The shell has taken {text} apart at its spaces: put it in single quotes, '{text}'.")
    for text in words:
        problems += _override_problems(text, choices, multirun)
        name, _, value = text.partition("=")
        if given.setdefault(name, value) != value:
            problems.append(f"{name} is given twice, as {given[name]} and as {value}; drop one of them.")
    return problems


def _torn_by_shell(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of a command line that are whole, and those that the shell took apart at their spaces.

    The latter (`text.rules=[nfc, lower]` comes as two words) are put together again for the message.
    """
    whole: list[str] = []
    torn: list[str] = []
    while words:
        key = key_field(words[0].partition("=")[0]) if "=" in words[0] else None
        of_text = {str, Any} & key_types(key)
        next_override = next((n for n, word in enumerate(words[1:], 1) if "=" in word), len(words))
        # as many of the words without '=' that follow as make one override with this word
        ends = (
            n
            for n in range(next_override, 1, -1)
            if key and (of_text or not parsed(words[0])) and parsed(" ".join(words[:n]))
        )
        count = next(ends, 1)
        (torn if count > 1 else whole).append(" ".join(words[:count]))
        words = words[count:]
    return whole, torn


def _override_problems(text: str, choices: Choices, multirun: bool) -> Iterator[str]:
    """What is wrong with one override; of one with several values, what is wrong with each of them."""
    override = parsed(text)
    name = override.key_or_group if override else ""
    if not override or not name:
        yield _syntax_problem(text)
    elif name.startswith("hydra.sweeper.params"):
        yield (
            f"{text}: what a sweep varies is given as it is, such as -m seed=0,1; hydra.sweeper.params is for"
            " YAML files."
        )
    elif re.match(r"hydra[./]", name):
        if override.is_sweep_override():
            yield f"{text}: Hydra's own settings are the same in all cells of a sweep; give {name} one value."
        elif problem := setting_problem(text, name):
            yield problem
    elif override.package is not None:
        yield (
            f"{text}: a group of this program has one place, its own section; leave out"
            f" '@{override.package}': {name}={text.partition('=')[2]}."
        )
    elif override.is_delete():
        yield from _deletion_problems(text, name, choices)
    elif problem := sweep_problem(text, override, choices):
        yield problem
    elif override.is_sweep_override() and not multirun:
        yield (
            f"{text} gives {name} several values. Add -m to run them one after"
            f" another{_instead(name, text.partition('=')[2])}."
        )
    elif is_glob(override):  # each of what it matches is a choice
        return
    elif override.is_discrete_sweep():
        for value in values_to_check(override):
            yield from _override_problems(f"{override.get_key_element()}={value}", choices, multirun)
    elif override.is_sweep_override():  # an interval: its two ends are checked
        interval: Any = override.value()
        for end in (interval.start, interval.end):
            yield from _override_problems(
                f"{name}={int(end) if float(end).is_integer() else end}", choices, multirun
            )
    elif name in choices:
        yield from _choice_problems(
            name,
            text,
            "null" if override.value() is None else override.value(),
            choices[name],
            override.is_add(),
        )
    elif key_field(name) is None and not override.is_add() and not is_inside_mapping(name):
        yield unknown_key(name, choices)
    elif key_field(name) is not None:
        yield from _type_problems(name, text, override.value())


def _deletion_problems(text: str, name: str, choices: Choices) -> Iterator[str]:
    """What is wrong with an override that takes something away; of a mapping, entries can be."""
    if name in choices or is_inside_mapping(name.rpartition(".")[0]):
        return
    if key_field(name) is None:
        yield unknown_key(name, choices)
    else:
        yield f"{text}: a key cannot be taken away; without a word about it, {name} has its default."


def _instead(name: str, value: str) -> str:
    """What else than several values a value with a comma may have been meant as, to end a sentence with."""
    types = key_types(key_field(name))
    if float in types and re.fullmatch(r"\d+,\d+", value):
        return f", or write {name}={value.replace(',', '.')} for a number that is not whole"
    if {list, Any} & types:
        return f", or '{name}=[{value}]' for a list"
    return f", or '{name}=\"{value}\"' for a text with a comma" if str in types else ""


def _syntax_problem(text: str) -> str:
    """Why Hydra's grammar does not read an override, and what to write instead."""
    name, equals, value = text.partition("=")
    if not equals:
        return (
            f"{text!r} is neither a command nor key=value. Write key=value, such as dataset=timit; see"
            " --help."
        )
    if not name.strip():
        return f"{text!r} has no key before the '='. Write key=value, such as dataset=timit."
    opened: list[str] = []  # for each bracket that is open, the one that closes it
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
    """What is wrong with the choice of a group.

    Args:
        group: its name, such as `model`.
        text: the override as it was given.
        value: of the override, as Hydra reads it; "null" for null.
        choices: of the group.
        added: whether the override begins with a `+`.
    """
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
        files_of_users = {
            "dataset": "a manifest: dataset=csv dataset.train",
            "model": "a folder or an id: model=hf model.checkpoint",
        }
        hint = nearest(str(value), choices)
        if group in files_of_users and re.search(r"[./]", str(value)):
            hint = f" For {files_of_users[group]}={value}."
        yield f"{text}: there is no {group} {str(value)!r}.{hint} {listed}"


def _listed(choices: Sequence[str]) -> str:
    return f"The choices: {', '.join(choices) or 'none so far'}."


def _type_problems(name: str, text: str, value: Any) -> Iterator[str]:
    """What is wrong with the type of a value, as OmegaConf converts it for its key."""
    key = key_field(name)
    assert key is not None
    if is_dataclass(key.type):
        yield (
            f"{text}: {name} is a section; set its keys one by one:"
            f" {', '.join(f'{name}.{f.name}' for f in fields(key.type))}."
        )
        return
    try:
        OmegaConf.update(_scratch(), name, value, merge=True)
    except OmegaConfBaseException:
        yield f"{text}: {name} must be {_kind(key.type)} ({key.metadata['help']}), not {value!r}."


def _kind(type_: Any) -> str:
    """A type in words: 'a number or null' for `float | None`."""
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
