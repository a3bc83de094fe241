"""Search ranges of overrides: workers, here or launched by Hydra, that take trials from one study in turn."""

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from asr_exp.config.compose import translate_error
from asr_exp.config.groups import conf_folders
from asr_exp.config.hydra_internals import hydra_at, launch
from asr_exp.config.overrides import quoted, to_hydra_overrides
from asr_exp.core.console import percent
from asr_exp.core.errors import Stopped, UserError
from asr_exp.runs.results import read_result
from asr_exp.runs.untrained import trains_nothing
from asr_exp.runtime.signals import Signals
from asr_exp.runtime.slurm_job import leave
from asr_exp.sweeps import record
from asr_exp.sweeps.ranges import Range, split_overrides
from asr_exp.sweeps.record import SweepCell, run_overrides
from asr_exp.sweeps.study import SamplerSettings, Study

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asr_exp.config.hydra_internals import Hydra

DRAW_SECONDS = 60  # between two drawings of the study's pictures while a search goes on


class CellRunner(Protocol):
    """A command to be called with a composed config; it keeps its cell's record (see cli/run_command.py)."""

    @property
    def command(self) -> str: ...

    @property
    def config_dir(self) -> str | None: ...

    def __call__(self, config: "DictConfig") -> SweepCell: ...

    def failed(self, cell: SweepCell, error: Exception) -> SweepCell: ...


@dataclass(frozen=True)
class Worker:
    """A process of a search. Called, it runs trials of the study until there are enough.

    A launcher calls it with a config, which it does not need: each trial is composed afresh.
    """

    job: CellRunner
    folder: Path
    storage: str
    fixed: tuple[str, ...]
    ranges: tuple[Range, ...]
    settings: str
    options: dict[str, Any]  # the section `sweep` of the config

    @property
    def measure(self) -> str | None:
        """What is minimised, as a label: 'dev CER'; None for the best dev score."""
        split, _, rate = (self.options["metric"] or "").partition(".")
        return f"{split} {rate.upper()}" if rate else None

    def study(self) -> Study:
        """The study, opened."""
        o = self.options
        sampler = SamplerSettings(o["sampler"], o["seed"], o["startup"])
        return Study(self.folder, self.storage, self.ranges, self.settings, sampler)

    def __call__(self, _: "DictConfig | None" = None) -> None:
        try:
            with Signals(at_once=True):
                self._work()
        except Stopped as error:  # between two trials
            leave(error)

    def _work(self) -> None:
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
        """Compose one trial and run it as a run of its own.

        Its number, study and storage are overrides of it like any others: with trainer.devices=N the run
        starts N processes with its overrides, and the first of them reports to the study.
        """
        folders = conf_folders(self.job.config_dir)
        trial = [
            f"sweep.trial={number}",
            f"sweep.name={quoted(self.folder.name)}",
            f"sweep.storage={quoted(self.storage)}",
        ]
        overrides = [*to_hydra_overrides([*self.fixed, *varied]), *trial, "hydra.mode=RUN"]
        try:
            return (
                hydra_at(folders)
                .run(config_name="config", task_function=self.job, overrides=overrides)
                .return_value
            )
        except Exception as error:  # it could not be composed
            cell = SweepCell(number + 1, "failed", shlex.join(run_overrides([*self.fixed, *varied])))
            return self.job.failed(cell, translate_error(error, folders) or error)

    def _value(self, cell: SweepCell) -> float | None:
        """What the search minimises, of a cell that has ended."""
        if not (metric := self.options["metric"]):
            return cell.dev if self.job.command == "train" else cell.score
        split, _, rate = metric.partition(".")
        return ((read_result(Path(cell.folder)) or {}).get("splits", {}).get(split) or {}).get(rate)


def search(
    hydra: "Hydra", job: CellRunner, folder: Path, config: "DictConfig", overrides: Sequence[str]
) -> None:
    """Run trials until there are `sweep.trials` of them, draw the study, and print the best trial.

    Raises UserError for keys that contradict each other, and what a worker has raised.

    Args:
        hydra: from `hydra_at`; its launcher starts the workers where they are not to run here.
        job: the command that a trial runs.
        folder: of the sweep's record.
        config: what all trials share.
        overrides: of the command line, ranges included.
    """
    fixed, ranges = split_overrides(overrides)
    options = dict(config.sweep)
    _check_metric(options["metric"], job.command, config)
    if config.sweeper == "random":
        options["sampler"] = "random"
    shared = run_overrides(fixed)
    kept = [word for word in fixed if re.match(r"sweep\.(prune|startup)=", word)]
    settings = " ".join(
        [job.command, *sorted(shared), *map(str, ranges), f"minimise={options['metric'] or 'best'}"]
    )
    storage = options["storage"] or f"sqlite:///{folder.absolute() / 'study.db'}"
    worker = Worker(job, folder.absolute(), storage, (*shared, *kept), tuple(ranges), settings, options)
    study = worker.study()
    if options["retry"]:
        study.retry_failed()
    try:
        if runs_here(config):
            _check_one_worker(options["workers"])
            worker()
        else:
            plain = [word for word in fixed if not word.startswith("hydra.mode=")]
            ended = launch(hydra, worker, plain, [run_overrides(plain)] * options["workers"])
            lost = [one.reason for one in ended if isinstance(one, SweepCell)]
            for number in study.abandoned() if lost else ():
                row = next((cell for cell in record.read(folder) if cell.cell == number + 1), None)
                if row:
                    record.note_lost(folder, replace(row, status="lost", reason="; ".join(lost), code=1))
    finally:
        draw(study, worker.measure)
    _print_best(study, folder, options["trials"])


def _check_metric(metric: str | None, command: str, config: "DictConfig") -> None:
    """Raise UserError for a `sweep.metric` that is none, or that the runs will not have."""
    if metric and not re.fullmatch(r"(train|dev|test)\.(wer|cer|per)", metric):
        raise UserError(f"sweep.metric={metric} is not SPLIT.RATE, such as dev.wer, dev.cer or test.per.")
    if command == "train" and trains_nothing(config) and (metric or "dev").startswith("dev"):
        raise UserError(
            "A run that trains nothing (model.head=keep trainer.max_steps=0) reads no dev and has no dev"
            " score to search by; search with evaluate -m run=CHECKPOINT split=dev, or give"
            " sweep.metric=test.wer."
        )


def _check_one_worker(workers: int) -> None:
    if workers > 1:
        raise UserError(
            f"sweep.workers={workers} needs hydra/launcher=joblib (this machine) or submitit_slurm (a"
            " cluster), or give the same command in several shells."
        )


def runs_here(config: "DictConfig") -> bool:
    """Whether cells run in this process, one after another."""
    return config.hydra.launcher._target_.endswith("BasicLauncher")


def draw(study: Study, measure: str | None) -> None:
    """Draw the study's pictures, where there is something to see.

    measure: the label of what is minimised (None: the best dev score, in the metric of the cells).
    """
    from asr_exp.sweeps.pictures import draw_study

    metric = next(
        (cell.dev_metric or cell.metric for cell in record.read(study.folder) if cell.metric), "wer"
    )
    draw_study(study.study, study.folder, study.ranges, measure or f"dev {metric.upper()}")


def _print_best(study: Study, folder: Path, total: int) -> None:
    from optuna.trial import TrialState

    finished = study.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if finished:
        best = min(finished, key=lambda one: one.value or 0.0)
        print(
            f"\nbest of {len(finished)} finished trials: {percent(best.value)} by trial {best.number + 1}:"
            "\n  " + shlex.join(study.overrides(best.params))
        )
        print(f"pictures, study, table: {folder} (sweep.trials={2 * total} goes on with it)")
