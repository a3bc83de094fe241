"""The command line: the command, bare words as the keys that they stand for, and the flags of Hydra."""

import importlib
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from asr_exp.core.errors import UserError, nearest

# The keys that bare words after a command stand for.
WORDS = {"compare": ("a", "b"), "evaluate": ("run",), "report": ("run", "b"), "serve": ("run",)}

# The key whose list they make up, however many they are.
LISTED = {"transcribe": "files", "align": "files"}


def commands() -> dict[str, Path]:
    """The commands by name, each with the file that holds it: commands/NAME.py, or
    commands/NAME/command.py.
    """
    folder = Path(__file__).parents[1] / "commands"
    files = {path.stem: path for path in folder.glob("*.py") if not path.stem.startswith("_")}
    return dict(sorted({**files, **{path.parent.name: path for path in folder.glob("*/command.py")}}.items()))


def module_of(command: str) -> str:
    """The name of the module that holds a command."""
    parts = commands()[command].relative_to(Path(__file__).parents[1]).with_suffix("").parts
    return ".".join(("asr_exp", *parts))


def run_of(command: str) -> Callable[..., Any]:
    """The function that runs a command; its module is imported."""
    return importlib.import_module(module_of(command)).run


def parse(arguments: list[str]) -> tuple[Namespace, str]:
    """Hydra's flags and overrides, and the command.

    Raises UserError for a command or a flag that there is not.
    """
    options = hydra_parser().parse_intermixed_args(arguments)
    if options.config_path or options.config_name or options.experimental_rerun:
        raise UserError(
            "--config-path, --config-name and --experimental-rerun are not for this program; --config-dir"
            " adds YAML files."
        )
    if options.resolve and not options.cfg:
        raise UserError("--resolve goes with --cfg job.")
    known = commands()
    if late := next((word for word in options.overrides[1:] if word in known), None):
        raise UserError(f"The command comes first: python -m asr_exp {late} KEY=VALUE ...")
    if not options.overrides or not is_bare(options.overrides[0]):
        return options, "train"
    command = options.overrides.pop(0)
    if command not in known:
        from asr_exp.config.groups import choices, conf_folders

        groups = [
            f"{group}={command}"
            for group, names in choices(conf_folders(options.config_dir)).items()
            if command in names
        ]
        hint = f" Did you mean {' or '.join(groups)}?" if groups else nearest(command, known)
        raise UserError(
            f"There is no command {command!r}.{hint} The commands: {', '.join(known)}; a setting is"
            " key=value."
        )
    options.overrides = _named(options.overrides, command)
    return options, command


def _named(words: list[str], command: str) -> list[str]:
    """The words after a command, the bare ones as the keys that they stand for, in quotes: a name may read as
    a number.
    """
    bare = _is_recording if command in LISTED else is_bare
    quoted = {index: _literal(word) for index, word in enumerate(words) if bare(word)}
    if command in LISTED and quoted:
        listed = f"{LISTED[command]}=[{','.join(quoted.values())}]"
        return [listed, *(word for index, word in enumerate(words) if index not in quoted)]
    keys = dict(zip(quoted, WORDS.get(command, ()), strict=False))
    return [f"{keys[index]}={quoted[index]}" if index in keys else word for index, word in enumerate(words)]


def hydra_parser() -> ArgumentParser:
    """Hydra's flags, in a parser that raises UserError where argparse would print its usage and exit."""
    from asr_exp.config.hydra_internals import argument_parser

    class Parser(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{message[0].upper()}{message[1:]}. See --help and --hydra-help for the flags.")

    return Parser(add_help=False, parents=[argument_parser()])


def is_bare(word: str) -> bool:
    return word == "-" or "=" not in word and not word.startswith(("-", "+", "~"))


def _is_recording(word: str) -> bool:
    """Whether a word is a bare one, or a file's name all the same: `a=b.wav`, where there is one, or
    `talks/a=b.wav`.
    """
    from asr_exp.config.groups import OPTIONAL_GROUPS
    from asr_exp.config.schema import key_field

    key = word.partition("=")[0].strip("+~ ")
    if is_bare(word) or word.startswith("-") or key in OPTIONAL_GROUPS or key_field(key):
        return is_bare(word)
    return os.path.exists(word) or any(sign in key for sign in "/ [") and not key.startswith("hydra/")


def _literal(word: str) -> str:
    """A word as a value that Hydra and OmegaConf take for the text that it is."""
    from asr_exp.config.overrides import quoted

    return quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", word))
