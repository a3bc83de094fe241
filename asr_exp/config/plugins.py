"""Plugins: modules of users that register readers, rules, decoders, optimizers, schedules and trackers."""

import functools
import importlib
import importlib.metadata
import os
import sys

from omegaconf import DictConfig

from asr_exp.core.errors import UserError
from asr_exp.core.libraries import hide_broken_torchaudio

PLUGINS = "asr_exp.plugins"  # the group of Python entry points whose modules are imported before a run


@functools.cache
def installed_plugins() -> tuple[importlib.metadata.EntryPoint, ...]:
    """The installed entry points of the group `asr_exp.plugins`."""
    return tuple(importlib.metadata.entry_points(group=PLUGINS))


def import_plugins(config: DictConfig) -> None:
    """Import the installed entry points of the group `asr_exp.plugins`, then the modules in `plugins`.

    Call it once the command's own modules are imported and before a model is loaded: it hides a broken
    torchaudio from transformers, which plugins may import. Raises UserError for a module that Python cannot
    find.
    """
    hide_broken_torchaudio()
    for entry in installed_plugins():
        entry.load()
    if os.getcwd() not in sys.path and "" not in sys.path:
        # the script asr-exp finds modules in the working directory too, as `python -m asr_exp` does
        sys.path.append(os.getcwd())
    for name in config.plugins:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            message = (
                f"plugins=[{name}]: Python finds no module {error.name!r}. Install it, or add its folder to"
                " PYTHONPATH."
            )
            raise UserError(message) from error
