"""Run a sweep, which is a grid of cells or a search, and print how it went.

Cells are run by Hydra's launcher, on this machine or others (hydra/launcher=joblib, submitit_slurm), and each
writes its own row of the record. A search launches workers instead (see search.py).
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from asr_exp.config.bounds import bound_problems
from asr_exp.config.compose import compose_with_hydra
from asr_exp.config.hydra_internals import hydra_at, launching_by
from asr_exp.config.overrides import to_hydra_overrides
from asr_exp.config.schema import keys
from asr_exp.core.errors import UserError
from asr_exp.sweeps import record
from asr_exp.sweeps.ranges import Range, split_overrides
from asr_exp.sweeps.record import run_overrides
from asr_exp.sweeps.search import CellRunner, runs_here, search

if TYPE_CHECKING:
    from omegaconf import DictConfig

MOST_CELLS = 10_000  # of a grid: Hydra composes all of them before the first one runs
SWEEP_KEYS = {name: one.metadata for name, one in keys() if name == "sweeper" or name.startswith("sweep.")}


def sweep(
    folders: Sequence[Path], make_job: Callable[[Path], CellRunner], command: str, overrides: list[str]
) -> int:
    """Run the sweep of a command line -> exit status, 1 where a cell failed. Raises UserError.

    folders: where YAML files are. make_job: the command, as a function of the folder of the sweep's record.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "-m under torchrun would leave all ranks waiting when one cell fails. Start it with `python -m"
            " asr_exp -m ...`, and trainer.devices=N for N processes a cell."
        )
    fixed, ranges = split_overrides(overrides)
    config = _common_config(fixed, folders)
    _check_bounds(config)
    folder = Path("sweeps") / (config.sweep.name or derived_name(command, overrides, ranges))
    # hydra.sweeper.params is null since the overrides hold already what it varies
    overrides = [f"hydra.sweep.dir={folder}", "hydra.sweeper.params=null", *overrides]
    if not runs_here(config):
        print(
            f"Cells are run by {config.hydra.launcher._target_.rpartition('.')[2]}; {folder / 'table.md'}"
            " grows as they end.",
            flush=True,
        )
    hydra = hydra_at(folders)
    if config.sweeper == "grid":
        if endless := [str(one) for one in ranges if one.values is None]:
            raise UserError(
                f"{endless[0]} has no end of values; search it with sweeper=optuna or sweeper=random, or list"
                " values."
            )
        cells = math.prod(len(one.values or ()) for one in ranges)
        if cells > MOST_CELLS:
            raise UserError(
                f"This grid has {cells:,} cells, and {MOST_CELLS:,} are the most; draw some of them with"
                " sweeper=random sweep.trials=N."
            )
        with _outliving_lost_jobs(config):
            batches = hydra.multirun(
                config_name="config", task_function=make_job(folder.absolute()), overrides=overrides
            )
        return print_summary(
            folder, {cell.return_value.overrides for batch in batches or () for cell in batch}
        )
    if not ranges:
        raise UserError(
            f"sweeper={config.sweeper} has nothing to search: give a range, such as"
            " optimizer.lr=tag(log,interval(1e-5,1e-3))."
        )
    if config.sweeper == "wandb":
        from asr_exp.sweeps.wandb_file import write

        return write(folder, command, to_hydra_overrides(run_overrides(fixed)), ranges, config)
    with _outliving_lost_jobs(config):
        search(hydra, make_job(folder.absolute()), folder, config, overrides)
    return print_summary(folder)


def _outliving_lost_jobs(config: "DictConfig") -> AbstractContextManager[None]:
    """While it lasts, a job that is lost does not end the launcher that the config chooses."""
    target = config.hydra.launcher._target_
    if "submitit" in target:
        from asr_exp.sweeps.submitit_launcher import launch
    elif "joblib" in target:
        from asr_exp.sweeps.joblib_launcher import launch
    else:
        return nullcontext()
    return launching_by(target, launch)


def derived_name(command: str, overrides: Sequence[str], ranges: Sequence[Range]) -> str:
    """The name of a sweep whose command line gives none: what is varied, and a hash of the command line.

    The order of the overrides does not matter, so that the same sweep goes on in the same folder.
    """
    words = record.identity(overrides)
    sweeper = [word for word in overrides if word.startswith("sweeper=")]
    digest = hashlib.sha256(json.dumps([command, *sweeper, words]).encode()).hexdigest()[:6]
    varied = sorted(one.name.lstrip("+").rpartition(".")[2] for one in ranges)
    experiments = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    return re.sub(r"[^\w.+-]+", "-", "-".join([*(varied[:4] or experiments or [command]), digest]))


def _common_config(fixed: Sequence[str], folders: Sequence[Path]) -> "DictConfig":
    """The config that all cells share, Hydra's own section included; what varies is left at its default."""
    plain = [word for word in fixed if not word.startswith("hydra.mode=")]
    return compose_with_hydra([*plain, "hydra.mode=RUN"], folders)


def _check_bounds(config: "DictConfig") -> None:
    """Raise UserError for keys of the sweep that are out of bounds; a cell checks those of its run."""
    values = {
        name: config.sweep[name.partition(".")[2]] if "." in name else config.sweeper for name in SWEEP_KEYS
    }
    problems = [
        message
        for name, value in values.items()
        if value is not None
        for message in bound_problems(name, value, SWEEP_KEYS[name])
    ]
    if problems:
        raise UserError("\n".join(problems))


def print_summary(folder: Path, overrides: set[str] | None = None) -> int:
    """Print a line for each cell of a record that has these overrides (None: for all of them) -> exit status.

    It is 1 where one of them has failed, was lost or has stopped.
    """
    cells = [cell for cell in record.read(folder) if overrides is None or cell.overrides in overrides]
    by_status: dict[str, list[record.SweepCell]] = {}
    for cell in cells:
        by_status.setdefault(cell.status, []).append(cell)
    done = sum(len(by_status.get(status, ())) for status in ("finished", "pruned"))
    parts = [f"{done} of {len(cells)} cells done"]
    for status in ("failed", "lost", "stopped", "running"):
        if those := by_status.get(status):
            reasons = dict.fromkeys(cell.reason for cell in those)
            parts.append(f"{len(those)} {status}" + f" ({', '.join(reasons)})" * (status == "lost"))
    unfinished = "lost" in by_status or "stopped" in by_status
    print("\n" + ", ".join(parts) + "; the same command goes on" * unfinished + f": {folder / 'table.md'}")
    # In a line, a key goes by its last part: lr=0.001.
    names = [
        re.sub(r"(^| )\+*(?:\w+\.)+(\w+=)", r"\1\2", name)
        for name in record.varied(cell.overrides for cell in cells)
    ]
    width = max(map(len, names), default=0)
    for cell, name in zip(cells, names, strict=True):
        status = "ok" if cell.status == "finished" else cell.status
        message = cell.as_message() or shorten(
            cell.reason.removeprefix("Pruned: "), max(30, 69 - width), placeholder=" ..."
        )
        print(f"{status:<7}  {name:<{width}}  {message}".rstrip())
    return int(unfinished or "failed" in by_status)
