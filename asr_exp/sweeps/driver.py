"""Run a sweep: every cell of a grid, or a search by one or more workers; and tell how it went.

Cells are run by Hydra's launcher, here or elsewhere (hydra/launcher=joblib, submitit_slurm), and write their
rows of the record themselves. A search's workers are what is launched: each takes trials from the study until
there are enough.
"""

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Protocol

from asr_exp.config import compose as configs
from asr_exp.config.groups import conf_folders
from asr_exp.config.schema import keys
from asr_exp.config.validation import bound_problems
from asr_exp.core.console import percent
from asr_exp.core.errors import UserError
from asr_exp.runs.results import read_result
from asr_exp.runs.untrained import trains_nothing
from asr_exp.sweeps import record
from asr_exp.sweeps.ranges import Range, split_overrides
from asr_exp.sweeps.record import SweepCell
from asr_exp.sweeps.study import Study

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

SWEEP_KEYS = {name: one.metadata for name, one in keys() if name == "sweeper" or name.startswith("sweep.")}
DRAW_SECONDS = 60  # between drawings of the pictures while a search goes on


class CellRunner(Protocol):
    """A command to be called with a composed config, which keeps the record of its cell (see __main__)."""

    @property
    def command(self) -> str: ...

    @property
    def config_dir(self) -> str | None: ...

    def __call__(self, config: "DictConfig") -> SweepCell: ...

    def failed(self, cell: SweepCell, error: Exception) -> SweepCell: ...


def sweep(hydra: "Hydra", make_job: Callable[[Path], CellRunner], command: str, overrides: list[str]) -> int:
    """Run the sweep that a command line asks for -> exit status, 1 where a cell failed. Raises UserError.

    make_job: the command, given the folder of the record.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "-m under torchrun would leave all ranks waiting when one cell fails. Start it with `python -m"
            " asr_exp -m ...`, and trainer.devices=N for N processes a cell."
        )
    config = _composed(hydra, [word for word in overrides if not word.startswith("hydra.mode=")])
    values = {
        name: config.sweep[name.partition(".")[2]] if "." in name else config.sweeper for name in SWEEP_KEYS
    }
    if found := [
        told
        for name, value in values.items()
        if value is not None
        for told in bound_problems(name, value, SWEEP_KEYS[name])
    ]:
        raise UserError("\n".join(found))
    fixed, ranges = split_overrides(overrides)
    folder = Path("sweeps") / (config.sweep.name or derived_name(command, overrides, ranges))
    # which the overrides have taken in
    asked = [f"hydra.sweep.dir={folder}", "hydra.sweeper.params=null", *overrides]
    if not _here(config):
        print(
            f"Cells are run by {config.hydra.launcher._target_.rpartition('.')[2]}; {folder / 'table.md'}"
            " grows as they end.",
            flush=True,
        )
    if config.sweeper == "grid":
        if endless := [str(one) for one in ranges if one.values is None]:
            raise UserError(
                f"{endless[0]} has no end of values; search it with sweeper=optuna or sweeper=random, or list"
                " values."
            )
        returned = hydra.multirun(
            config_name="config", task_function=make_job(folder.absolute()), overrides=asked
        )
        return _told(folder, {done.return_value.overrides for batch in returned or () for done in batch})
    if not ranges:
        raise UserError(
            f"sweeper={config.sweeper} has nothing to search: give a range, such as"
            " optimizer.lr=tag(log,interval(1e-5,1e-3))."
        )
    if config.sweeper == "wandb":
        from asr_exp.sweeps.wandb_file import write

        return write(folder, command, configs.to_hydra_overrides(_own(fixed)), ranges, config)
    return _search(hydra, make_job(folder.absolute()), folder, config, fixed, ranges, asked)


def derived_name(command: str, overrides: Sequence[str], ranges: Sequence[Range]) -> str:
    """A name for the record that the same command leads to again, in whatever order its words are: what is
    varied, and a hash.
    """
    words = record.identity(overrides)
    sweeper = [word for word in overrides if word.startswith("sweeper=")]
    digest = hashlib.sha256(json.dumps([command, *sweeper, words]).encode()).hexdigest()[:6]
    varied = sorted(one.name.lstrip("+").rpartition(".")[2] for one in ranges)
    asked = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    return re.sub(r"[^\w.+-]+", "-", "-".join([*(varied[:4] or asked or [command]), digest]))


def _composed(hydra: "Hydra", overrides: Sequence[str]) -> "DictConfig":
    """The config that is common to all cells, Hydra's own part included: what has several values is left at
    its default.
    """
    from hydra.types import RunMode

    fixed, _ = split_overrides(overrides)
    return hydra.compose_config(
        "config", [*fixed, "hydra.mode=RUN"], run_mode=RunMode.RUN, with_log_configuration=False
    )


def _here(config: "DictConfig") -> bool:
    """Whether cells run in this process, one after another."""
    return config.hydra.launcher._target_.endswith("BasicLauncher")


def _own(overrides: Sequence[str]) -> list[str]:
    """Overrides less Hydra's own keys and the sweep's."""
    return [word for word in overrides if not re.match(r"[+~]*(hydra[./]|sweeper=|sweep\.)", word)]


# ------------------------------------------------------------------------------------------------------------
# a search


@dataclass(frozen=True)
class Worker:
    """Takes trials from a study until there are enough. Called with a config by a launcher, or directly."""

    job: CellRunner
    folder: Path
    storage: str
    fixed: tuple[str, ...]
    ranges: tuple[Range, ...]
    settings: str
    options: dict[str, Any]

    @property
    def measure(self) -> str | None:
        split, _, rate = (self.options["metric"] or "").partition(".")
        return f"{split} {rate.upper()}" if rate else None

    def study(self) -> Study:
        o = self.options
        return Study(
            self.folder, self.storage, self.ranges, self.settings, o["sampler"], o["seed"], o["startup"]
        )

    def __call__(self, _: "DictConfig | None" = None) -> None:
        study, drawn = self.study(), time.monotonic()
        while True:
            with study.claimed(self.options["trials"]) as trial:
                if trial is None:
                    return
                cell = self._run(trial.number, study.overrides(trial.params))
                study.tell(trial.number, None if cell.code else self._value(cell), cell.status == "pruned")
            if time.monotonic() - drawn > DRAW_SECONDS:
                draw(study, self.measure)
                drawn = time.monotonic()

    def _run(self, number: int, varied: list[str]) -> SweepCell:
        """One trial, composed afresh as a run of its own."""
        folders = conf_folders(self.job.config_dir)
        own = [f"sweep.trial={number}", f"sweep.name={self.folder.name}", f"sweep.storage='{self.storage}'"]
        asked = [*configs.to_hydra_overrides([*self.fixed, *varied]), *own, "hydra.mode=RUN"]
        try:
            return (
                configs.hydra_at(folders)
                .run(config_name="config", task_function=self.job, overrides=asked)
                .return_value
            )
        except Exception as error:  # it could not be composed
            cell = SweepCell(number + 1, "failed", shlex.join(_own([*self.fixed, *varied])))
            return self.job.failed(cell, configs.translate_error(error, folders) or error)

    def _value(self, cell: SweepCell) -> float | None:
        """What the search minimises."""
        if not (metric := self.options["metric"]):
            return cell.dev if self.job.command == "train" else cell.score
        split, _, rate = metric.partition(".")
        return ((read_result(Path(cell.folder)) or {}).get("splits", {}).get(split) or {}).get(rate)


def _search(
    hydra: "Hydra",
    job: CellRunner,
    folder: Path,
    config: "DictConfig",
    fixed: Sequence[str],
    ranges: Sequence[Range],
    asked: list[str],
) -> int:
    own, options = _own(fixed), dict(config.sweep)
    if options["metric"] and not re.fullmatch(r"(train|dev|test)\.(wer|cer|per)", options["metric"]):
        raise UserError(
            f"sweep.metric={options['metric']} is not SPLIT.RATE, such as dev.wer, dev.cer or test.per."
        )
    if job.command == "train" and trains_nothing(config) and (options["metric"] or "dev").startswith("dev"):
        raise UserError(
            "A run that trains nothing (model.head=keep trainer.max_steps=0) reads no dev and has no dev"
            " score to search by; search with evaluate -m run=CHECKPOINT split=dev, or give"
            " sweep.metric=test.wer."
        )
    if config.sweeper == "random":
        options["sampler"] = "random"
    kept = [word for word in fixed if re.match(r"sweep\.(prune|startup)=", word)]
    settings = " ".join(
        [job.command, *sorted(own), *map(str, ranges), f"minimise={options['metric'] or 'best'}"]
    )
    storage = options["storage"] or f"sqlite:///{folder.absolute() / 'study.db'}"
    worker = Worker(job, folder.absolute(), storage, (*own, *kept), tuple(ranges), settings, options)
    study = worker.study()
    if options["retry"]:
        study.retry_failed()
    try:
        _work(hydra, worker, config, asked)
    finally:
        draw(study, worker.measure)
    _say_best(study, folder, options["trials"])
    return _told(folder, None)


def _work(hydra: "Hydra", worker: Worker, config: "DictConfig", asked: list[str]) -> None:
    """Let the workers work: one here, or as many as are asked for through Hydra's launcher."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    count = worker.options["workers"]
    if _here(config):
        if count > 1:
            raise UserError(
                f"sweep.workers={count} needs hydra/launcher=joblib (this machine) or submitit_slurm (a"
                " cluster), or give the same command in several shells."
            )
        worker()
        return
    plain = [word for word in split_overrides(asked)[0] if not word.startswith("hydra.mode=")]
    master = hydra.compose_config(
        "config", [*plain, "hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master))
    launcher = Plugins.instance().instantiate_launcher(
        config=master, hydra_context=context, task_function=worker
    )
    for done in launcher.launch([_own(plain)] * count, initial_job_idx=0):
        _ = done.return_value  # raises what a worker has raised


def draw(study: Study, measure: str | None) -> None:
    """The study as pictures, where there is something to see. measure: what is searched (None: the best on
    dev).
    """
    from asr_exp.sweeps.pictures import draw_study

    metric = next((cell.metric for cell in record.read(study.folder) if cell.metric), "wer")
    draw_study(study.study, study.folder, study.ranges, measure or f"dev {metric.upper()}")


# ------------------------------------------------------------------------------------------------------------
# how it went


def _say_best(study: Study, folder: Path, total: int) -> None:
    from optuna.trial import TrialState

    done = study.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if done:
        best = min(done, key=lambda one: one.value or 0.0)
        print(
            f"\nbest of {len(done)} finished trials: {percent(best.value)} by trial {best.number + 1}:\n  "
            + shlex.join(study.overrides(best.params))
        )
        print(f"pictures, study, table: {folder} (sweep.trials={2 * total} goes on with it)")


def _told(folder: Path, overrides: set[str] | None) -> int:
    """A line a cell (of these overrides; None: of all) and the exit status: 1 where one has failed."""
    cells = [cell for cell in record.read(folder) if overrides is None or cell.overrides in overrides]
    failed = sum(cell.status == "failed" for cell in cells)
    print(
        f"\n{len(cells) - failed} of {len(cells)} cells done"
        + (f", {failed} failed" if failed else "")
        + f": {folder / 'table.md'}"
    )
    # In a line, a key goes by its last part: lr=0.001.
    names = [
        re.sub(r"(^| )\+*(?:\w+\.)+(\w+=)", r"\1\2", name)
        for name in record.varied(cell.overrides for cell in cells)
    ]
    width = max(map(len, names), default=0)
    for cell, name in zip(cells, names, strict=True):
        status = "ok" if cell.status == "finished" else cell.status
        said = cell.as_message() or shorten(
            cell.reason.removeprefix("Pruned: "), max(30, 69 - width), placeholder=" ..."
        )
        print(f"{status:<7}  {name:<{width}}  {said}".rstrip())
    return 1 if failed else 0
