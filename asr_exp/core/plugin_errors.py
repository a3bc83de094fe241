"""Exceptions of plugins: which of their files and lines an exception came from."""

import os
import traceback

from asr_exp.core.registry import REGISTRIES

# Set to 1 where the user asked Hydra for whole tracebacks (HYDRA_FULL_ERROR=1): they are printed then.
FULL = "ASR_EXP_FULL_ERROR"
HINT = "HYDRA_FULL_ERROR=1 shows the traceback."


def plugin_failure(error: BaseException) -> str | None:
    """A sentence about an exception that a plugin's part has raised at work, with its file and line; None
    for an exception of asr_exp itself.
    """
    packages = {
        module.partition(".")[0] for registry in REGISTRIES for module in registry.origins.values()
    } - {"asr_exp"}
    place = raised_at(error, packages, under="asr_exp")
    if place is None:
        return None
    names = [
        f"{registry.key}={name}"
        for registry in REGISTRIES
        for name, where in registry.places.items()
        if where.rpartition(", line ")[0] == place.rpartition(", line ")[0]
    ]
    of_what = f" (it registers {', '.join(names)})" if names else ""
    return f"The plugin {place}{of_what} has failed: {described(error)}. Mend the plugin; {HINT}"


def raised_at(error: BaseException, packages: set[str], under: str | None = None) -> str | None:
    """'FILE, line N' of the last call in a traceback that is in one of these top-level packages.

    under: count only what this package has called.
    """
    place, called = None, under is None
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        called = called or package == under
        if called and package in packages:
            place = f"{frame.f_code.co_filename}, line {line}"
    return place


def described(error: BaseException) -> str:
    """'ValueError: the first line of its message'."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code if error.code is not None else ''})"
    message = next(iter(str(error).splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def wants_traceback() -> bool:
    """Whether the user asked for the traceback of a plugin's exception."""
    return os.environ.get(FULL) == "1"
