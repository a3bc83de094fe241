"""The line that a command begins with, before torch and transformers are imported: that takes seconds."""

import os
import sys
from typing import TYPE_CHECKING

from asr_exp import __version__
from asr_exp.core.exit_status import rank

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Commands whose standard output is a report on their progress. That of the others is their result.
REPORTING = ("train", "evaluate", "check")


def show_first_line(command: str, config: "DictConfig") -> None:
    """Print what a command is about to work on, unless torch is loaded already: on a terminal by standard
    error; else by the standard output of commands that report there; for other commands nowhere.
    """
    # `launch` and torchrun start ranks: one line is enough, and `launch` has shown it before they came
    if (
        "torch" in sys.modules
        or rank() > 0
        or "RANK" in os.environ
        and "TORCHELASTIC_RUN_ID" not in os.environ
    ):
        return
    if sys.stderr.isatty():
        out = sys.stderr
    elif command in REPORTING:
        out = sys.stdout
    else:
        return
    print(f"asr_exp {__version__} {command}: {_subject(config)} (loading torch ...)", file=out, flush=True)


def _subject(config: "DictConfig") -> str:
    """The run or the checkpoint that a config names, or else its dataset and model with the run's folder."""
    if named := config.run or config.a:
        return str(named)
    from asr_exp.config.plugins import installed_plugins
    from asr_exp.runs.folder import run_folder

    # a rehearsal goes to a folder of its own; one with plugins is known once they are imported
    unknown = config.rehearsal or config.plugins or installed_plugins()
    folder = "" if unknown else f", {run_folder(config)}"
    return f"{config.dataset.name} x {config.model.name}{folder}"
