"""Libraries that are not there, or cannot be loaded: told as what they are. torchaudio above all, whose
releases fit few of torch's.
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
    """The module `torchaudio.MODULE`, once it is sure that it has these names.

    Raises UserError where torchaudio is not installed, and where it cannot be loaded beside the torch that
    is.
    """
    try:
        found = importlib.import_module(f"torchaudio.{module}")
        for name in names:
            getattr(found, name)
        return found
    except Exception as error:
        why = _failure() or error
        missing = why.name or "" if isinstance(why, ModuleNotFoundError) else ""
        if missing == "torchaudio":
            told = (
                "torchaudio is not installed, and alignments, beam search and its recognisers need it: pip"
                " install -U torch torchaudio"
            )
        elif missing and not missing.startswith("torchaudio."):
            told = (
                f"Python finds no module {missing!r}, which {_named('torchaudio')} needs: pip install"
                f" {missing.partition('.')[0]}"
            )
        else:
            told = (
                f"{_named('torchaudio')} cannot be loaded beside {_named('torch')} ({_reason(why)}): install"
                " a pair that fits (a CPU build of torch needs one of torchaudio): pip install -U torch"
                " torchaudio"
            )
        raise UserError(told) from why


def hide_broken_torchaudio() -> None:
    """Have transformers, which imports any torchaudio that it finds, find none where it cannot be imported.

    To be called before transformers is imported; where torch is not, nothing will need it.
    """
    if "torch" in sys.modules and _failure():
        sys.modules["torchaudio"] = None  # type: ignore[assignment]  # what Python reads as: there is no such module


@functools.cache
def _failure() -> Exception | None:
    """Why torchaudio cannot be imported; None where it can. Beside torch and transformers the import costs 20
    ms.
    """
    try:
        importlib.import_module("torchaudio")
    except Exception as why:  # built for another torch, it may raise anything
        return why
    return None


# ------------------------------------------------------------------------------------------------------------
# any library


def import_failure(error: BaseException) -> str | None:
    """The sentence for a library that could not be imported; None for an error of another kind, or of our own
    files.
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
    """The package that was being imported when this happened, or that is not there; None where it was no
    import of an installed one.
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
    """What is at the bottom of it, in a line."""
    *_, last = _causes(error)
    lines = str(last).strip().splitlines() or [""]
    return f"{type(last).__name__}: {lines[0].rstrip('.')}"


def _named(package: str) -> str:
    found = _distribution(package)
    return f"{package} {importlib.metadata.version(found)}" if found else package


def _distribution(package: str) -> str | None:
    """What pip calls an importable package; None where pip has not installed it."""
    return next(iter(importlib.metadata.packages_distributions().get(package, [])), None)
