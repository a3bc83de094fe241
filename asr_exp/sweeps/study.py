"""The study behind a search: Optuna's record of the trials, which any number of workers share.

A trial is sampled in a copy of the study, by a sampler that is seeded with (seed, number of trials): no
sampler's state is kept, a search that was killed goes on with the trials that it would have drawn, and
nothing is drawn twice. Each running trial has a file lock, which ends with the process that runs it; a trial
that is running and not locked was left by a worker that died, and another worker goes on with it.
"""

import itertools
import logging
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.core.console import measured
from asr_exp.core.errors import UserError
from asr_exp.core.locks import FileLock, Timeout
from asr_exp.sweeps.optuna_access import make_sampler, open_study, params_of, reopened_trial
from asr_exp.sweeps.ranges import Range

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

LISTED = 100_000  # spaces of at most so many combinations are searched without repetition until none is left


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler: `tpe`, `gp` or `random`; `tpe` draws the first `startup` trials at random."""

    name: str
    seed: int
    startup: int


class Study:
    """An Optuna study over ranges of overrides, and the locks of its running trials.

    Args:
        folder: of the sweep's record; its name is the study's, and the locks are in it.
        storage: URL of an Optuna storage, or a journal file; None: study.db in the folder.
        ranges: what a trial draws one value each of.
        settings: what is searched, in words; a study that was made with other words is another one.
        sampler: how values are drawn.

    Raises:
        UserError: the storage cannot be opened, or holds a study of other settings.
    """

    def __init__(
        self,
        folder: Path,
        storage: str | None,
        ranges: Sequence[Range],
        settings: str,
        sampler: SamplerSettings,
    ):
        self.folder = folder
        self.ranges = ranges
        self.sampler = sampler
        self.storage = storage or f"sqlite:///{folder.absolute() / 'study.db'}"
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "locks" / "study.lock")
        with self._lock:
            self.study = open_study(self.storage, folder.name, create=True)
            made_with = self.study.user_attrs.get("settings")
            if made_with is None:
                self.study.set_user_attr("settings", settings)
            elif made_with != settings:
                raise UserError(
                    f"{folder} holds a sweep of other settings ({made_with}); give another sweep.name, or"
                    " delete that folder."
                )

    @contextmanager
    def claimed(self, total: int) -> Iterator["optuna.Trial | None"]:
        """The next trial to run, locked while the block lasts; None where nothing is left to run.

        That is so once the study has `total` trials, or every combination was tried. A trial that a worker
        left when it died comes before a new one.
        """
        with self._lock:
            trial, lock = self._left_behind() or self._new(total)
        try:
            yield trial
        finally:
            if lock:
                lock.release()

    def tell(self, number: int, value: float | None, pruned: bool = False) -> None:
        """Record how a trial ended: with a value, pruned, or, without a finite value, failed."""
        from optuna.trial import TrialState

        if pruned:
            self.study.tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)

    def retry_failed(self) -> None:
        """Queue each combination once more that has failed, unless another trial of it has not."""
        from optuna.trial import TrialState

        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            others = {self.key(params_of(one)) for one in trials if one.state != TrialState.FAIL}
            failed = {
                self.key(params_of(one)): params_of(one) for one in trials if one.state == TrialState.FAIL
            }
            for key, params in failed.items():
                if key not in others:
                    self.study.enqueue_trial(params)

    def abandoned(self) -> list[int]:
        """The numbers of the trials that a worker left when it ended, and that no other has taken up."""
        from optuna.trial import TrialState

        numbers = []
        with self._lock:
            for one in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                if lock := self._lock_of(one.number):
                    lock.release()
                    numbers.append(one.number)
        return numbers

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides that a trial is run with; params: the value of each range, by its name."""
        return [one.override(params[one.name]) for one in self.ranges]

    def key(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What trials of one combination have in common: the overrides, "" where a value is missing."""
        return tuple(one.override(params[one.name]) if one.name in params else "" for one in self.ranges)

    # --------------------------------------------------------------------------------------------------------

    def _left_behind(self) -> "tuple[optuna.Trial, FileLock] | None":
        import optuna

        for one in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if not (lock := self._lock_of(one.number)):
                continue
            if self.study.get_trials(deepcopy=False)[one.number].state != optuna.trial.TrialState.RUNNING:
                lock.release()  # it ended between the two looks
                continue
            return self._suggested(reopened_trial(self.study, one)), lock
        return None

    def _new(self, total: int) -> "tuple[optuna.Trial | None, FileLock | None]":
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        if not any(one.state == TrialState.WAITING for one in trials):
            tried = {self.key(params_of(one)) for one in trials}
            params = self._sample(trials, tried) if len(tried) < total else None
            if params is None:
                return None, None
            self.study.enqueue_trial(params)
        trial = self._suggested(self.study.ask())
        return trial, self._lock_of(trial.number)

    def _sample(
        self, trials: "list[optuna.trial.FrozenTrial]", tried: set[tuple[str, ...]]
    ) -> dict[str, Any] | None:
        """The values to try next, which were not tried before; None where every combination was."""
        import optuna

        seed = self.sampler.seed * 1_000_003 + len(trials)
        copy = optuna.create_study(
            direction="minimize", sampler=make_sampler(self.sampler.name, seed, self.sampler.startup)
        )
        copy.add_trials([one for one in trials if one.state != optuna.trial.TrialState.FAIL])
        drawn = self._suggested(copy.ask()).params
        params = {one.name: one.rounded(drawn[one.name]) for one in self.ranges}
        if self.key(params) not in tried:
            return params
        values = [one.values for one in self.ranges]
        if any(one is None for one in values) or math.prod(len(one or ()) for one in values) > LISTED:
            return params
        names = [one.name for one in self.ranges]
        left = [
            combination
            for each in itertools.product(*values)  # type: ignore[arg-type]
            if self.key(combination := dict(zip(names, each, strict=True))) not in tried
        ]
        return random.Random(seed).choice(left) if left else None

    def _suggested(self, trial: "optuna.Trial") -> "optuna.Trial":
        """The trial with a value for each range; values that it has already are kept."""
        for one in self.ranges:
            if one.kind == "choice":
                trial.suggest_categorical(one.name, list(one.choices))
            elif one.kind == "int":
                trial.suggest_int(one.name, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
            else:
                trial.suggest_float(one.name, one.low, one.high, step=one.step, log=one.log)
        return trial

    def _lock_of(self, number: int) -> FileLock | None:
        """The lock of a trial, acquired; None where another worker has it."""
        lock = FileLock(self.folder / "locks" / f"{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock


class Pruner:
    """Reports the dev scores of a trial to its study, and says whether the trial should end.

    Args:
        storage: the URL or journal file of the study.
        name: of the study.
        trial: its number.
        prune: whether a trial may be ended at all; without it the scores are reported alone.
        startup: how many trials have to be finished before one is ended.
        metric: of the scores, for messages: wer, cer, per, loss, or none.
    """

    def __init__(self, storage: str, name: str, trial: int, prune: bool, startup: int, metric: str = ""):
        import optuna

        study = open_study(storage, name)
        study.pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=startup) if prune else optuna.pruners.NopPruner()
        )
        self.trial = reopened_trial(study, study.get_trials(deepcopy=False)[trial])
        self.metric = metric

    def __call__(self, step: int, value: float) -> str | None:
        """The reason to end the trial, or None. A storage that fails costs the report, not the run.

        value: the dev score at this step, a rate as a fraction.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a resumed run reports its last evaluation a second time
                self.trial.report(value, step)
            if self.trial.should_prune():
                return (
                    f"dev {measured(self.metric, value)} at step {step} is worse than the median of the"
                    " sweep's trials there."
                )
        except Exception as error:
            log.warning("step %d: the score could not be reported to the study: %s", step, error)
        return None
