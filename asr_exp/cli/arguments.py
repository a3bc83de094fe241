"""Read a command line: the command, the words that stand for keys, and the flags of Hydra."""

import importlib
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.exit_status import rank, say
from asr_exp.core.json_document import COMMANDS as JSON_COMMANDS

# The keys that words without `=` stand for, by command and in order: `compare A B` is `compare a=A b=B`.
WORDS = {"compare": ("a", "b"), "evaluate": ("run",), "report": ("run", "b"), "serve": ("run",)}

# The key whose list they all make up: `transcribe A B` is `transcribe files=[A,B]`.
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
    """Hydra's flags with the overrides among them, and the command.

    What is read in another way than it was typed is shown on stderr. Raises UserError for a command or a flag
    that does not exist.
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
    command = "train"
    if options.overrides and is_bare(options.overrides[0]):
        command = options.overrides.pop(0)
        if command not in known:
            raise UserError(_unknown_command(command, options.config_dir))
    if options.json and (command not in JSON_COMMANDS or options.cfg or options.info or options.hydra_help):
        raise UserError(f"--json is a flag of {', '.join(JSON_COMMANDS)}; drop it.")
    if rank() == 0 and not options.shell_completion:
        _show_notes(options.overrides, command)
    options.overrides = _with_keys(options.overrides, command)
    return options, command


def _unknown_command(command: str, config_dir: str | None) -> str:
    from asr_exp.config.groups import choices, conf_folders

    groups = [
        f"{group}={command}" for group, names in choices(conf_folders(config_dir)).items() if command in names
    ]
    hint = f" Did you mean {' or '.join(groups)}?" if groups else nearest(command, commands())
    names = ", ".join(commands())
    return f"There is no command {command!r}.{hint} The commands: {names}; a setting is key=value."


def _show_notes(words: Sequence[str], command: str) -> None:
    """Show how words are understood that Hydra would refuse, or read in another way, as they are."""
    from asr_exp.config.overrides import reading_notes

    notes = []
    for word in words:
        if command in LISTED and not is_bare(word) and _is_recording(word):
            notes.append(
                f"{word} is taken for a recording, as there is no key {word.partition('=')[0]!r};"
                f" {LISTED[command]}=[...] names recordings too"
            )
        else:
            notes += reading_notes([word])
    if notes:
        say("note: ", "\n".join(notes))


def _with_keys(words: list[str], command: str) -> list[str]:
    """The words after a command as overrides, those without a key with the key that they stand for.

    Their values are quoted: the name of a folder may read as a number or a list.
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

    parser = Parser(add_help=False, parents=[argument_parser()])
    parser.add_argument("--json", action="store_true")
    return parser


def is_bare(word: str) -> bool:
    """Whether a word is neither an override nor a flag; `-` stands for standard input."""
    return word == "-" or "=" not in word and not word.startswith(("-", "+", "~"))


def _is_recording(word: str) -> bool:
    """Whether a word is the name of a recording: it is bare, or no key, and a file of that name exists or its
    first part has a sign in it that no key has (`talks/a=b.wav`).
    """
    from asr_exp.config.groups import OPTIONAL_GROUPS
    from asr_exp.config.schema import key_field

    key = word.partition("=")[0].strip("+~ ")
    if is_bare(word) or word.startswith("-") or key in OPTIONAL_GROUPS or key_field(key):
        return is_bare(word)
    return os.path.exists(word) or any(sign in key for sign in "/ [") and not key.startswith("hydra/")


def _literal(word: str) -> str:
    """A word as the value of an override that Hydra and OmegaConf read as just that text."""
    from asr_exp.config.overrides import quoted

    return quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", word))
