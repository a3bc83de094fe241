"""Messages about libraries that are missing or cannot be loaded: torchaudio above all, each of whose releases
fits few of torch's.
"""

import functools
import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from asr_exp.core.errors import UserError


def torchaudio(module: str, *names: str) -> Any:
    """Import `torchaudio.MODULE` and make sure that it has these names.

    Raises UserError where torchaudio is not installed, and where it cannot be loaded beside the installed
    torch.
    """
    try:
        imported = importlib.import_module(f"torchaudio.{module}")
        for name in names:
            getattr(imported, name)
        return imported
    except Exception as error:
        why = _failure() or error
        missing = why.name or "" if isinstance(why, ModuleNotFoundError) else ""
        if missing == "torchaudio":
            message = (
                "torchaudio is not installed, and alignments, beam search and its recognisers need it: pip"
                " install -U torch torchaudio"
            )
        elif missing and not missing.startswith("torchaudio."):
            message = (
                f"Python finds no module {missing!r}, which {_named('torchaudio')} needs: pip install"
                f" {missing.partition('.')[0]}"
            )
        else:
            message = (
                f"{_named('torchaudio')} cannot be loaded beside {_named('torch')} ({_reason(why)}): install"
                " a pair that fits (a CPU build of torch needs one of torchaudio): pip install -U torch"
                " torchaudio"
            )
        raise UserError(message) from why


def hide_broken_torchaudio() -> None:
    """Hide a torchaudio that cannot be imported from transformers, which imports any that is installed.

    It is called before transformers is imported. Where torch is not imported, it does nothing: nothing will
    need torchaudio.
    """
    if "torch" in sys.modules and _failure():
        sys.modules["torchaudio"] = None  # type: ignore[assignment]  # to Python: there is no such module


@functools.cache
def _failure() -> Exception | None:
    """The error with which torchaudio fails to import; None where it can be imported, which takes 20 ms once
    torch and transformers are.
    """
    try:
        importlib.import_module("torchaudio")
    except Exception as why:  # built for another torch, it may raise anything
        return why
    return None


# ------------------------------------------------------------------------------------------------------------
# any library


def import_failure(error: BaseException) -> str | None:
    """The message for an error that comes from importing a library; None for an error of another kind, or of
    our own files.
    """
    for one in reversed([*_causes(error)]):
        if package := _library(one):
            if isinstance(one, ModuleNotFoundError) and one.name == package:
                return (
                    f"Python finds no module {package!r}, which asr_exp needs; in its checkout type: pip"
                    " install -e ."
                )
            return (
                f"{_named(package)} cannot be loaded ({_reason(error)}): it is broken, or does not fit the"
                f" other packages here: pip install -U {_distribution(package) or package}"
            )
    return None


def _library(error: BaseException) -> str | None:
    """The package whose import raised an error, or that is missing; None where the error is not of an import,
    or the package is not one that pip has installed.
    """
    frames = [
        frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"
    ]
    importing = frames[-1].f_globals.get("__name__", "").partition(".")[0] if frames else ""
    if importing not in ("", "__main__", "asr_exp"):
        return importing if _distribution(importing) else None
    if isinstance(error, ImportError):
        named = (error.name or "").partition(".")[0]
        return named if named and named != "asr_exp" else None
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _reason(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    *_, last = _causes(error)
    lines = str(last).strip().splitlines() or [""]
    return f"{type(last).__name__}: {lines[0].rstrip('.')}"


def _named(package: str) -> str:
    distribution = _distribution(package)
    return f"{package} {importlib.metadata.version(distribution)}" if distribution else package


def _distribution(package: str) -> str | None:
    """The name that an importable package has for pip; None where pip has not installed it."""
    return next(iter(importlib.metadata.packages_distributions().get(package, [])), None)
