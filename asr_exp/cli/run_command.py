"""One command with a composed config: the run that it is about, its checks, its record as a cell of a sweep,
its end.
"""

import os
import shlex
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.cli.arguments import run_of
from asr_exp.core.errors import Pruned, Stopped
from asr_exp.core.exit_status import rank, status_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asr_exp.sweeps.record import SweepCell


# Commands whose run= may also name a CTC checkpoint, a folder's or the hub's, that no run of ours made.
OF_CHECKPOINTS = ("evaluate", "transcribe", "align", "report", "export", "serve")


@dataclass(frozen=True)
class Job:
    """A command, to be called with a composed config, here or in another process of a sweep. record: its
    folder, for a cell of one.
    """

    command: str
    config_dir: str | None = None
    record: Path | None = None

    def __call__(self, config: "DictConfig") -> "SweepCell":
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from asr_exp.config import compose as configs
        from asr_exp.config.plugins import import_plugins
        from asr_exp.core.files import is_run
        from asr_exp.runs.folder import load_run, run_folder
        from asr_exp.runs.untrained import of_checkpoint
        from asr_exp.sweeps.record import SweepCell, ended

        hydra = HydraConfig.get()
        asked: Any = OmegaConf.to_container(hydra.overrides.task)
        number = 1 + int(
            (config.sweep.trial if config.sweep.trial is not None else hydra.job.num) if self.record else 0
        )
        cell = SweepCell(
            number,
            "running",
            shlex.join(word for word in asked if not word.startswith(("sweep.", "sweeper="))),
        )
        if self.record and rank() == 0:
            print(f"\ncell {cell.cell}: {cell.overrides or '(defaults)'}", flush=True)
        try:
            if config.run and (is_run(config.run) or self.command not in OF_CHECKPOINTS):
                config = load_run(config.run, asked, self.config_dir)
            elif config.run and self.command == "evaluate":
                config = of_checkpoint(asked, self.config_dir)
            configs.validate(config)
            run = run_of(self.command)
            import_plugins(config)
            if config.rehearsal and not config.run:
                from asr_exp.rehearsal import rehearse as rehearsal

                config = rehearsal.rehearsal_config(config)
                run = partial(rehearsal.rehearse, run=run) if self.command == "train" else run
            cell = self._noted(replace(cell, folder=config.run or str(run_folder(config))))
            done = run(config) or 0
            folder, status = (done, 0) if isinstance(done, Path) else (Path(cell.folder), done)
            return self._noted(ended(cell, folder, config.split, status))
        except Stopped as error:
            self._noted(replace(cell, status="stopped", reason=str(error)))
            status = status_of(error)
            if "SUBMITIT_EXECUTOR" in os.environ and callable(requeue := signal.getsignal(error.signal)):
                # submitit's own: it puts the job back in the queue and ends this process
                requeue(error.signal, None)
            raise SystemExit(status) from error  # past Hydra, which would go on with the next cell
        except Pruned as error:
            print(f"Pruned: {error}", flush=True)
            return self._noted(ended(cell, Path(cell.folder), config.split, 0))
        except KeyboardInterrupt as error:
            self._noted(replace(cell, status="stopped", reason="interrupted"))
            if self.command == "train":
                told = (
                    "Interrupted. A run goes on from its last checkpoint when it is given the same command."
                )
                raise KeyboardInterrupt(told) from error
            raise
        except BrokenPipeError:
            raise
        except Exception as error:
            return self.failed(cell, error)

    def failed(self, cell: "SweepCell", error: Exception) -> "SweepCell":
        """Tell of a cell that failed, and note it."""
        status = status_of(error, f"cell {cell.cell}: " if self.record else "")
        reason = (str(error).splitlines() or [""])[0]
        reason = reason if status == 2 else f"{type(error).__name__}: {reason}"
        return self._noted(replace(cell, status="failed", code=status, reason=reason))

    def _noted(self, cell: "SweepCell") -> "SweepCell":
        if self.record and rank() == 0:
            from asr_exp.sweeps.record import note

            note(self.record, cell)
        return cell
