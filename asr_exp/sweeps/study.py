"""The study behind a search: Optuna's record of the trials, which any number of workers share.

A trial is sampled from (seed, its number) and the trials before it, in a copy of the study: no sampler's
state is kept, a sweep that was killed draws what it would have drawn, and nothing is drawn twice. The lock on
a trial goes with the process that runs it; a trial that is running and not locked was left by a dead worker,
and the next one goes on with it.
"""

import itertools
import logging
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from asr_exp.core.console import percent
from asr_exp.core.errors import UserError
from asr_exp.sweeps.ranges import Range

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

BUSY_SECONDS = 120  # how long sqlite waits for another worker
LISTED = 100_000  # spaces of at most so many combinations are searched without repetition until none is left


class Study:
    """An Optuna study over ranges. `settings` say what is searched: a study of other settings is refused with
    a UserError.
    """

    def __init__(
        self,
        folder: Path,
        storage: str | None,
        ranges: Sequence[Range],
        settings: str,
        sampler: str,
        seed: int,
        startup: int,
    ):
        self.folder = folder
        self.ranges = ranges
        self.sampler = sampler
        self.seed = seed
        self.startup = startup
        self.storage = storage or f"sqlite:///{folder.absolute() / 'study.db'}"
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "locks" / "study.lock")
        with self._lock:
            self.study = open_study(self.storage, folder.name, create=True)
            kept = self.study.user_attrs.get("settings")
            if kept is None:
                self.study.set_user_attr("settings", settings)
            elif kept != settings:
                raise UserError(
                    f"{folder} holds a sweep of other settings ({kept}); give another sweep.name, or delete"
                    " that folder."
                )

    @contextmanager
    def claimed(self, total: int) -> Iterator["optuna.Trial | None"]:
        """The next trial to run, held while the block lasts, or None where `total` trials are there or no
        combination is left.

        A trial that a dead worker left comes before a new one.
        """
        with self._lock:
            trial, hold = self._left_behind() or self._new(total)
        try:
            yield trial
        finally:
            if hold:
                hold.release()

    def tell(self, number: int, value: float | None, pruned: bool = False) -> None:
        """How a trial ended: with a value, pruned, or (neither) failed."""
        from optuna.trial import TrialState

        if pruned:
            self.study.tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)

    def retry_failed(self) -> None:
        """Put the trials that failed, and that nothing has come of since, in the queue once more."""
        from optuna.trial import TrialState

        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            better = {self.key(_params(one)) for one in trials if one.state != TrialState.FAIL}
            for key, params in {
                self.key(_params(one)): _params(one) for one in trials if one.state == TrialState.FAIL
            }.items():
                if key not in better:
                    self.study.enqueue_trial(params)

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        return [one.override(params[one.name]) for one in self.ranges]

    def key(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """What tells trials apart: the overrides they are run with."""
        return tuple(one.override(params[one.name]) if one.name in params else "" for one in self.ranges)

    # --------------------------------------------------------------------------------------------------------

    def _left_behind(self) -> "tuple[optuna.Trial, FileLock] | None":
        import optuna

        for one in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if not (hold := self._hold(one.number)):
                continue
            if self.study.get_trials(deepcopy=False)[one.number].state != optuna.trial.TrialState.RUNNING:
                hold.release()  # it has ended while we looked
                continue
            return self._suggested(optuna.Trial(self.study, one._trial_id)), hold
        return None

    def _new(self, total: int) -> "tuple[optuna.Trial | None, FileLock | None]":
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        if not any(one.state == TrialState.WAITING for one in trials):
            tried = {self.key(_params(one)) for one in trials}
            params = self._sample(trials, tried) if len(tried) < total else None
            if params is None:
                return None, None
            self.study.enqueue_trial(params)
        trial = self._suggested(self.study.ask())
        return trial, self._hold(trial.number)

    def _sample(
        self, trials: "list[optuna.trial.FrozenTrial]", tried: set[tuple[str, ...]]
    ) -> dict[str, Any] | None:
        """What to try next, which is nothing that was tried; None where nothing is left."""
        import optuna

        seed = self.seed * 1_000_003 + len(trials)
        copy = optuna.create_study(
            direction="minimize", sampler=make_sampler(self.sampler, seed, self.startup)
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
            found
            for each in itertools.product(*values)  # type: ignore[arg-type]
            if self.key(found := dict(zip(names, each, strict=True))) not in tried
        ]
        return random.Random(seed).choice(left) if left else None

    def _suggested(self, trial: "optuna.Trial") -> "optuna.Trial":
        """A trial with a value for each range; one that has values keeps them."""
        for one in self.ranges:
            if one.kind == "choice":
                trial.suggest_categorical(one.name, list(one.choices))
            elif one.kind == "int":
                trial.suggest_int(one.name, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
            else:
                trial.suggest_float(one.name, one.low, one.high, step=one.step, log=one.log)
        return trial

    def _hold(self, number: int) -> FileLock | None:
        lock = FileLock(self.folder / "locks" / f"{number}.lock", is_singleton=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock


def _params(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """A trial's values, also of one that was queued or killed before it had taken them."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


# ------------------------------------------------------------------------------------------------------------
# Optuna's parts


def open_study(storage: str, name: str, create: bool = False) -> "optuna.Study":
    """The study of that name. Raises UserError where Optuna is missing or the storage cannot be opened."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise UserError(
            'sweeper=optuna and sweeper=random need Optuna: pip install "asr_exp[sweep]".'
        ) from error
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if storage.endswith((".log", ".journal")):
            from optuna.storages.journal import JournalFileBackend

            place: Any = optuna.storages.JournalStorage(JournalFileBackend(storage))
        else:
            waits = {"connect_args": {"timeout": BUSY_SECONDS}} if storage.startswith("sqlite") else {}
            place = optuna.storages.RDBStorage(storage, engine_kwargs=waits)
        open_ = optuna.create_study if create else optuna.load_study
        more: dict[str, Any] = {"load_if_exists": True, "direction": "minimize"} if create else {}
        return open_(storage=place, study_name=name, sampler=optuna.samplers.RandomSampler(), **more)
    except (ImportError, OSError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise UserError(
            f"sweep.storage={storage} cannot be opened: {str(error).partition(chr(10))[0]}"
        ) from error


def make_sampler(name: str, seed: int, startup: int) -> "optuna.samplers.BaseSampler":
    """TPE (Bergstra et al. 2011), a Gaussian process, or random draws. Raises UserError where a library is
    missing.
    """
    import optuna

    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError('sweep.sampler=gp needs SciPy: pip install "asr_exp[sweep]".') from error
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)


class Pruner:
    """Told of a trial's score at each evaluation, says whether the trial should end there."""

    def __init__(self, storage: str, name: str, trial: int, prune: bool, startup: int):
        import optuna

        study = open_study(storage, name)
        study.pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=startup) if prune else optuna.pruners.NopPruner()
        )
        self.trial = optuna.Trial(study, study.get_trials(deepcopy=False)[trial]._trial_id)

    def __call__(self, step: int, value: float) -> str | None:
        """The reason to end, or None. A storage that fails costs the report, not the run."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a resumed run reports its last evaluation a second time
                self.trial.report(value, step)
            if self.trial.should_prune():
                return (
                    f"dev {percent(value)} at step {step} is worse than the median of the sweep's trials"
                    " there."
                )
        except Exception as error:
            log.warning("step %d: the study could not be told of the score: %s", step, error)
        return None
