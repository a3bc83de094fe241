"""Plugins: modules of users that register readers, rules, decoders, optimizers, schedules and trackers."""

import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig

from asr_exp.core.errors import UserError
from asr_exp.core.libraries import hide_broken_torchaudio
from asr_exp.core.plugin_errors import HINT, described, raised_at
from asr_exp.core.registry import registering

PLUGINS = "asr_exp.plugins"  # the group of Python entry points whose modules are imported before a run


@functools.cache
def installed_plugins() -> tuple[importlib.metadata.EntryPoint, ...]:
    """The installed entry points of the group `asr_exp.plugins`."""
    return tuple(importlib.metadata.entry_points(group=PLUGINS))


def import_plugins(config: DictConfig) -> None:
    """Import the installed entry points of the group `asr_exp.plugins`, then the modules in `plugins`.

    Call it once the command's own modules are imported and before a model is loaded: it hides a broken
    torchaudio from transformers, which plugins may import. Raises UserError for a module that cannot be
    imported, whatever it raises; what it had registered until then is taken back.
    """
    hide_broken_torchaudio()
    for entry in installed_plugins():
        _imported(entry.module, f"The installed plugin {entry.name}", entry.load)
    if os.getcwd() not in sys.path and "" not in sys.path:
        # the script asr-exp finds modules in the working directory too, as `python -m asr_exp` does
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    for name in config.plugins:
        where = f"plugins=[{name}]"
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(
                f"{where}: {name!r} is no name of a Python module; the file my_plugin.py in this folder is"
                " plugins=[my_plugin], and my_folder/my_plugin.py is plugins=[my_folder.my_plugin]."
            )
        module = _imported(name, where, partial(importlib.import_module, name))
        if getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
            raise UserError(
                f"{where}: {name} is a folder without __init__.py, so nothing in it was imported; name a"
                f" module in it: plugins=[{name}.MODULE]."
            )


def _imported(name: str, where: str, load: Callable[[], Any]) -> Any:
    """What `load` gives, which imports a module. Raises UserError for whatever is raised meanwhile.

    where: the module, as the message names it.
    """
    package = {name.partition(".")[0]}
    try:
        with registering():
            return load()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if name == missing or name.startswith(f"{missing}."):
            message = f"Python finds no module {missing!r}"
        else:
            message = f"{raised_at(error, package) or name} imports {missing!r}, which Python does not find"
        raise UserError(f"{where}: {message}. Install it, or add its folder to PYTHONPATH.") from error
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}" if error.lineno else error.filename or name
        raise UserError(f"{where}: {place} is no Python that can be read: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        place = raised_at(error, package) or name
        raise UserError(
            f"{where} cannot be imported: {place}: {described(error)}. Mend the plugin; {HINT}"
        ) from error
