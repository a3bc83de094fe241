"""Sentences about a key that does not exist, and about what Hydra objects to while it composes YAML files."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from asr_exp.config.groups import OPTIONAL_GROUPS, Choices
from asr_exp.config.schema import key_field, keys
from asr_exp.config.yaml_problems import named_file
from asr_exp.core.errors import nearest


def unknown_key(name: str, choices: Choices) -> str:
    """A sentence about an unknown key, with the nearest key of any section, or else the keys of its section.

    A key is looked for by its last part: for `trainer.lr` the sentence names `optimizer.lr`.
    """
    section, _, leaf = name.rpartition(".")
    places: dict[str, list[str]] = {}  # the last part of a key -> the keys that end in it
    for known in (*(dotted for dotted, _ in keys()), *OPTIONAL_GROUPS):
        places.setdefault(known.rpartition(".")[2], []).append(known)
    siblings = {
        last: known
        for last, names in places.items()
        for known in names
        if known.rpartition(".")[0] == section
    }
    if leaf in places:
        near = places[leaf]
    elif close := difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6):
        near = [siblings[close[0]]]
    else:
        near = [
            known
            for close in difflib.get_close_matches(leaf, places, n=1, cutoff=0.7)
            for known in places[close]
        ]
    near = near or [f"{group}={leaf}" for group, names in choices.items() if leaf in names]
    hint = (
        f" Did you mean {' or '.join(map(repr, near[:3]))}?"
        if near
        else nearest(name, (dotted for dotted, _ in keys()))
    )
    allowed = (
        f"The keys of {section}: {', '.join(siblings)}."
        if section and siblings
        else "See --help for the sections and their keys."
    )
    return f"{name} is not a key of this program.{hint} {allowed}"


def composition_problem(error: Exception, choices: Choices, folders: Sequence[Path]) -> str:
    """An exception of Hydra as a sentence: the path of the YAML file, its key, and the nearest name."""
    text = str(error)
    where = re.match(r"In '(.+?)': \w+ raised while composing config:\n", text)
    place = f"{_file(where[1], folders)}: " if where else ""
    key = re.search(r"full_key: (\S+)", text)
    if missing := re.search(r"Could not find '(.+)/(.*)'", text):
        group, name = missing[1], missing[2]
        known = choices.get(group, re.findall(r"^\t([^=\s]+)$", text, flags=re.MULTILINE))
        return (
            f"{group}={name}: there is no {group} {name!r}.{nearest(name, known)} A file's defaults list asks"
            f" for it. The choices: {', '.join(known)}."
        )
    if where and (group := where[1].partition("/")[0]) in OPTIONAL_GROUPS and key and key[1] == group:
        return (
            f"{place}its keys are of any section, so its first line has to be `# @package _global_`, and what"
            " follows has to be keys with values."
        )
    if where and key and key_field(key[1]) is None:
        return place + unknown_key(key[1], choices)
    first = _first_line(text[where.end() :] if where else text)
    if where and key:
        return f"{place}{key[1]}: {first}"
    if key and key_field(key[1]) is not None:
        place = f"{key[1]}: "
    because = (
        f" {_first_line(str(error.__cause__))}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    )
    return named_file(place + first + because, folders)


def _file(name: str, folders: Sequence[Path]) -> Path | str:
    return next((path for folder in folders if (path := folder / f"{name}.yaml").exists()), name)


def _first_line(text: str) -> str:
    """A message without the lines about the insides of Hydra and OmegaConf, in one line."""
    inside = (
        "Config search path",
        "full_key:",
        "object_type=",
        "reference_type=",
        "See https://hydra.cc",
        "Set the environment variable",
    )
    lines = [line.strip() for line in text.splitlines()]
    return (
        " ".join(line for line in lines if line and not line.startswith((*inside, "provider="))).rstrip(".")
        + "."
    )
