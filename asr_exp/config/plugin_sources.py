"""What a run's plugins are made of: a hash of their source, or the version that they state. An edited reader
or text rule makes another run.
"""

import ast
import functools
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from asr_exp.core.registry import REGISTRIES

INSTALLED = ("site-packages", "dist-packages")  # where a file is no part of the plugin beside it


def plugin_sources(settings: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the settings that a plugin registered: {'text.rules=lamp': 'version 2' or a hash}.

    settings: sections of plain values. The plugins have to be imported. A module that states a `__version__`
    answers for itself; of any other, the source counts, with that of the modules it imports of its own
    package or of its own folder. Comments, docstrings and layout do not count.
    """
    sources = {}
    for registry in REGISTRIES:
        section, _, leaf = registry.key.partition(".")
        for name in _names((settings.get(section) or {}).get(leaf)):
            if module := registry.origins.get(name):
                sources[f"{registry.key}={name}"] = _identity(module)
    return sources


def _names(value: Any) -> Iterator[str]:
    """The names of parts in a value of the config: a name, or a list of names and of {name: argument}."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from map(str, value)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _names(one)


@functools.cache
def _identity(name: str) -> str:
    """The version that a module states, or a hash of its source."""
    module = sys.modules.get(name)
    version = getattr(module, "__version__", None)
    if isinstance(version, str) and version:
        return f"version {version}"
    files: dict[str, Path] = {}
    if module is not None:
        _collect(module, files)
    digest = hashlib.blake2b(digest_size=8)
    for found, path in sorted(files.items()):
        digest.update(f"{found}\n{_normal_form(path)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _collect(module: ModuleType, files: dict[str, Path]) -> None:
    """Add the files of a module, and of the modules that it imports of its own package or folder."""
    path = getattr(module, "__file__", None)
    if not path or module.__name__ in files:
        return
    files[module.__name__] = Path(path)
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for name in _imported(tree, module):
        other = sys.modules.get(name)
        if other is not None and _belongs(other, module):
            _collect(other, files)


def _imported(tree: ast.Module, module: ModuleType) -> Iterator[str]:
    """The full names of what a module imports, anywhere in it; of `from a import b` both a and a.b."""
    package = (module.__package__ or "").split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _belongs(other: ModuleType, module: ModuleType) -> bool:
    """Whether a module is of the same package as another, or lies beside it in a folder of the user's."""
    if other.__name__.partition(".")[0] == module.__name__.partition(".")[0]:
        return True
    ours, theirs = module.__file__ or "", getattr(other, "__file__", None) or ""
    folder = os.path.dirname(os.path.abspath(ours))
    beside = os.path.dirname(os.path.abspath(theirs)) if theirs else ""
    return folder == beside and not any(part in INSTALLED for part in Path(folder).parts)


# ------------------------------------------------------------------------------------------------------------
# the source without what cannot change what it does


def _normal_form(path: Path) -> str:
    """The syntax tree of a file as text, without docstrings; the bytes, in hex, of a file that is no Python.

    `ast.dump` writes other texts from one release of Python to the next; this leaves out what is empty, and
    so the fields that a later release adds.
    """
    try:
        content = path.read_bytes()
        return _dump(ast.parse(content))
    except OSError:
        return ""
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).hexdigest()


def _dump(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {
        name: value for name, value in ast.iter_fields(node) if value not in (None, []) or name == "value"
    }
    body = fields.get("body")
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
        docstring = isinstance(body[0], ast.Expr) and isinstance(getattr(body[0].value, "value", None), str)
        fields["body"] = body[1:] if docstring else body
    parts = ",".join(
        f"{name}={_dump(value)}" for name, value in fields.items() if name not in ("ctx", "kind")
    )
    return f"{type(node).__name__}({parts})"
