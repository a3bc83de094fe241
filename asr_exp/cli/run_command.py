"""One command with a composed config: which run it is about, the checks before it, its row in the record of a
sweep, and how it ends.
"""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.cli.arguments import run_of
from asr_exp.cli.first_line import show_first_line
from asr_exp.core.errors import Pruned, Stopped
from asr_exp.core.exit_status import rank, status_of
from asr_exp.core.plugin_errors import plugin_failure
from asr_exp.runtime.signals import Signals
from asr_exp.runtime.slurm_job import leave

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asr_exp.sweeps.record import SweepCell


# Commands whose run= may also name a CTC checkpoint, a folder's or the hub's, that no run of ours made.
OF_CHECKPOINTS = ("evaluate", "transcribe", "align", "report", "export", "serve")
# Commands whose names and files are checked before they begin.
OF_NAMES = ("train", "evaluate", "check", "transcribe", "serve", "report")
INTERRUPTED = "Interrupted. A run goes on from its last checkpoint when it is given the same command."


@dataclass(frozen=True)
class Job:
    """A command, to be called with a composed config, here or, pickled, in another process of a sweep.

    record: the folder of the sweep's record, where the call is a cell of one. visible: CUDA_VISIBLE_DEVICES
    of the process that made the job.
    """

    command: str
    config_dir: str | None = None
    record: Path | None = None
    visible: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))

    def __call__(self, config: "DictConfig") -> "SweepCell":
        """Run the command and return the row of the sweep's record, with the exit status as its `code`.

        Raises SystemExit after a signal, so that Hydra does not go on with the next cell, and
        KeyboardInterrupt. Other errors are printed, and are in the row.
        """
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from asr_exp.runs.folder import run_folder
        from asr_exp.runtime.cores import limit_threads
        from asr_exp.sweeps.record import ended

        limit_threads()
        hydra = HydraConfig.get()
        overrides: Any = OmegaConf.to_container(hydra.overrides.task)
        number = 1
        if self.record:
            number += int(hydra.job.num if config.sweep.trial is None else config.sweep.trial)
        cell = self._begin(number, overrides)
        try:
            with Signals(at_once=True):
                config = self._config_of_run(config, overrides)
                run, config = self._prepared(config)
                cell = self._note(replace(cell, folder=config.run or str(run_folder(config))))
                if self.record:
                    from asr_exp.sweeps.gpus import take_gpus  # it imports torch

                    take_gpus(config.trainer.device, config.trainer.devices, self.visible)
                outcome = run(config) or 0
            folder, status = (outcome, 0) if isinstance(outcome, Path) else (Path(cell.folder), outcome)
            return self._note(ended(cell, folder, config.split, status))
        except Stopped as error:
            self._note(replace(cell, status="stopped", reason=str(error)))
            leave(error)
        except Pruned as error:
            print(f"Pruned: {error}", flush=True)
            return self._note(ended(cell, Path(cell.folder), config.split, 0))
        except KeyboardInterrupt as error:
            self._note(replace(cell, status="stopped", reason="interrupted"))
            if self.command == "train":
                raise KeyboardInterrupt(INTERRUPTED) from error
            raise
        except BrokenPipeError:
            raise
        except SystemExit as error:
            if not plugin_failure(error):
                raise
            return self.failed(cell, error)
        except Exception as error:
            return self.failed(cell, error)

    def _begin(self, number: int, overrides: Sequence[str]) -> "SweepCell":
        """The row of a cell that begins; in a sweep, rank 0 prints which one it is."""
        from asr_exp.sweeps.record import SweepCell

        typed = shlex.join(word for word in overrides if not word.startswith(("sweep.", "sweeper=")))
        if self.record and rank() == 0:
            print(f"\ncell {number}: {typed or '(defaults)'}", flush=True)
        return SweepCell(number, "running", typed)

    def _config_of_run(self, config: "DictConfig", overrides: Sequence[str]) -> "DictConfig":
        """The config to go by: that of the folder or the checkpoint that run= names, or the composed one."""
        from asr_exp.core.files import is_run
        from asr_exp.runs.folder import load_run
        from asr_exp.runs.untrained import of_checkpoint

        if config.run and (is_run(config.run) or self.command not in OF_CHECKPOINTS):
            return load_run(config.run, overrides, self.config_dir)
        if config.run and self.command == "evaluate":
            return of_checkpoint(overrides, self.config_dir)
        return config

    def _prepared(self, config: "DictConfig") -> tuple[Callable[..., Any], "DictConfig"]:
        """The function that runs the command, and its config: checked, plugins imported; of a rehearsal, both
        made for tiny weights. Raises UserError for a config that cannot be run.
        """
        from asr_exp.config import compose as configs
        from asr_exp.config.plugins import import_plugins

        configs.validate(config)
        show_first_line(self.command, config)
        run = run_of(self.command)
        import_plugins(config)
        if self.command in OF_NAMES:
            from asr_exp.builders.names import check_names  # it imports torch, as these commands do

            check_names(config, self.command)
        if config.rehearsal and not config.run:
            from asr_exp.rehearsal import rehearse as rehearsal

            config = rehearsal.rehearsal_config(config)
            run = partial(rehearsal.rehearse, run=run) if self.command == "train" else run
        return run, config

    def failed(self, cell: "SweepCell", error: Exception | SystemExit) -> "SweepCell":
        """Print why a cell failed, and note it in the record -> its row."""
        status = status_of(error, f"cell {cell.cell}: " if self.record else "")
        reason = (str(plugin_failure(error) or error).splitlines() or [""])[0]
        reason = reason if status == 2 else f"{type(error).__name__}: {reason}"
        return self._note(replace(cell, status="failed", code=status, reason=reason))

    def _note(self, cell: "SweepCell") -> "SweepCell":
        """Write a cell's row to the record, where there is one -> the row."""
        if self.record and rank() == 0:
            from asr_exp.sweeps.record import note

            note(self.record, cell)
        return cell
