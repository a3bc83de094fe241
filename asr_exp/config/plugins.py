"""Plugins: modules that register someone's own readers, rules, decoders, optimizers, schedules and
trackers.
"""

import importlib
import importlib.metadata
import os
import sys

from omegaconf import DictConfig

from asr_exp.core.errors import UserError
from asr_exp.core.libraries import hide_broken_torchaudio

PLUGINS = "asr_exp.plugins"  # the group of Python entry points whose modules are imported before a run


def import_plugins(config: DictConfig) -> None:
    """Import the modules that register someone's own readers, decoders and optimizers: installed entry
    points, then `plugins`.

    The command's own modules are to be imported before, and no model loaded: a torchaudio that is broken is
    hidden here from transformers, which plugins may import. Raises UserError for a module that is not there.
    """
    hide_broken_torchaudio()
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        entry.load()
    if os.getcwd() not in sys.path and "" not in sys.path:
        # asr-exp finds a module where the user stands, as `python -m asr_exp` does
        sys.path.append(os.getcwd())
    for name in config.plugins:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            told = (
                f"plugins=[{name}]: Python finds no module {error.name!r}. Install it, or add its folder to"
                " PYTHONPATH."
            )
            raise UserError(told) from error
