"""The name of text rules as it is shown, in protocols and messages."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from asr_exp.config.groups import conf_folder, conf_folders


def rules_name(name: str, rules: Sequence[Any]) -> str:
    """The name of text rules, with a star where they are not the rules that conf/text/ has under this name.

    A name that no file there has is the user's own, and stays as it is. Files of asr_exp come before those of
    the user: `standard-2` is what we call so.
    """
    for folder in (conf_folder(), *conf_folders()[1:]):
        files = sorted((folder / "text").glob("*.yaml"))
        if known := _named(tuple((path, path.stat().st_mtime_ns) for path in files)).get(name):
            return name if list(rules) in known else f"{name}*"
    return name


def text_name(config: Any) -> str:
    """The name of a config's text rules as it is shown."""
    return rules_name(config.text.name, OmegaConf.to_container(config.text.rules))  # type: ignore[arg-type]


def shown_protocol(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts of a score's protocol, with the name of the text rules as it is shown."""
    if not isinstance(parts.get("text"), str) or not isinstance(parts.get("rules"), list):
        return parts
    return {**parts, "text": rules_name(parts["text"], parts["rules"])}


@functools.cache
def _named(files: tuple[tuple[Path, int], ...]) -> dict[str, list[list[Any]]]:
    """The rules in YAML files by their name: more than one list where versions share it.

    files: each with its time, since a notebook may see it change.
    """
    named: dict[str, list[list[Any]]] = {}
    for path, _ in files:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and isinstance(content.get("rules"), list):
            named.setdefault(str(content.get("name")), []).append(content["rules"])
    return named
