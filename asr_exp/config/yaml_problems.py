"""Sentences about YAML files that Hydra cannot read, and that it answers with exceptions of other kinds."""

import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

# Hydra reads YAML files and their defaults lists in these modules, and does nothing else there.
READING = ("hydra._internal.config_repository", "hydra._internal.defaults_list")


def yaml_problem(error: BaseException, folders: Sequence[Path]) -> str | None:
    """What is wrong with a YAML file, where Hydra was reading one when it raised; None for another error."""
    if not any(module in READING for module, _ in _frames(error)):
        return None
    if isinstance(error, RecursionError):
        circle = [_named(name, folders) for name in dict.fromkeys(_paths(error)) if name != "config"]
        names = " and ".join(circle[-4:]) or "YAML files"
        return f"The defaults lists of {names} name each other in a circle; take one of the entries out."
    if isinstance(error, UnicodeDecodeError):
        file = next(_not_utf8(folders), None) or "A YAML file"
        return f"{file} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read: {error.strerror}."
    if isinstance(error, OSError | ValueError):
        last = next(reversed([name for name in _paths(error) if name != "config"]), None)
        file = f"{_named(last, folders)}: " if last else ""
        text = " ".join(str(error).split()).rstrip(".")
        text = re.sub(r"^(Invalid defaults list in '.*?', |In \S+: )", "", text)
        return (
            f"{file}{text}. A YAML file here holds keys with values, and its defaults, if any, are a list of"
            " lines such as `- override /model: hubert-base`."
        )
    return None


def named_file(text: str, folders: Sequence[Path]) -> str:
    """A message of Hydra's with the path of the file that it names as `In 'GROUP/NAME': `."""
    return re.sub(r"^In '(.+?)': ", lambda match: f"{_named(match[1], folders)}: ", text)


def _frames(error: BaseException) -> Iterator[tuple[str, dict]]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_globals.get("__name__", ""), frame.f_locals


def _paths(error: BaseException) -> Iterator[str]:
    """The names of the YAML files that were being read, the outermost first."""
    for module, names in _frames(error):
        path = names.get("path") or names.get("config_path")
        if module in READING and isinstance(path, str):
            yield path


def _named(name: str, folders: Sequence[Path]) -> str:
    """The path of a YAML file that Hydra calls GROUP/NAME."""
    found = (folder / f"{name.removesuffix('.yaml')}.yaml" for folder in folders)
    return str(next((path for path in found if path.exists()), name))


def _not_utf8(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders[1:]:
        for path in sorted(folder.rglob("*.yaml")):
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                yield path
            except OSError:
                continue
