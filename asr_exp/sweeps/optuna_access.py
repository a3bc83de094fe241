"""Optuna's studies, samplers and trials as a search needs them, undocumented attributes among them."""

import warnings
from typing import TYPE_CHECKING, Any

from asr_exp.core.errors import UserError

if TYPE_CHECKING:
    import optuna

BUSY_SECONDS = 120  # how long sqlite waits for another worker


def params_of(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """The values of a trial, also of one that is queued, or whose worker died before they were suggested.

    Optuna keeps what was queued under `fixed_params` in `system_attrs`, which it does not document (seen in
    Optuna 5.0). Without it such a trial would seem to have no values, and they could be drawn again.
    """
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def open_study(storage: str, name: str, create: bool = False) -> "optuna.Study":
    """The study of that name in a storage, made anew where there is none and `create` is true.

    Raises UserError where Optuna is missing or the storage cannot be opened.
    """
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
    """A sampler: `tpe` (Bergstra et al. 2011), `gp` (a Gaussian process) or `random`.

    startup: how many trials TPE draws at random first. Raises UserError where SciPy is missing.
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


def reopened_trial(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> "optuna.Trial":
    """A trial of a study that can be suggested values and report scores again, from its record.

    Optuna makes such a trial by the record's `_trial_id`, which it does not document (seen in Optuna 5.0).
    Raises UserError without it: no search could go on, and no trial could be pruned.
    """
    import optuna

    if not hasattr(trial, "_trial_id"):
        raise UserError(
            f"With Optuna {optuna.__version__} no search can go on, as its trials have no `_trial_id`:"
            ' pip install "optuna>=5,<5.1".'
        )
    return optuna.Trial(study, trial._trial_id)
