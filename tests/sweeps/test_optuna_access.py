"""The attributes that Optuna does not document: what they are needed for, and what happens without them."""

import optuna
import pytest
from optuna.trial import TrialState

from asr_exp.core.errors import UserError
from asr_exp.sweeps.optuna_access import open_study, params_of, reopened_trial
from asr_exp.sweeps.study import Pruner


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def test_a_trial_goes_on_from_its_record(storage):
    """As in another process: the study is opened anew, and the trial is known by its record alone."""
    trial = open_study(storage, "s", create=True).ask()
    lr = trial.suggest_float("lr", 0, 1)
    study = open_study(storage, "s")
    again = reopened_trial(study, study.trials[0])
    again.report(0.5, step=3)
    assert again.suggest_float("lr", 0, 1) == lr and again.number == trial.number
    assert open_study(storage, "s").trials[0].intermediate_values == {3: 0.5}


def test_without_the_id_of_a_trial_the_remedy_is_named(storage):
    class Trial:
        number = 0

    with pytest.raises(UserError, match='_trial_id.*pip install "optuna'):
        reopened_trial(open_study(storage, "s", create=True), Trial())


def test_a_queued_trial_has_the_values_that_it_was_queued_with(storage):
    study = open_study(storage, "s", create=True)
    study.enqueue_trial({"lr": 0.25, "seed": 3})
    (trial,) = open_study(storage, "s").trials
    assert trial.state == TrialState.WAITING and trial.params == {}
    assert params_of(trial) == {"lr": 0.25, "seed": 3}
    started = study.ask()
    started.suggest_float("lr", 0, 1)
    assert params_of(study.trials[0]) == {"lr": 0.25, "seed": 3}  # its worker died before it took the seed


def test_a_pruner_reports_and_ends_what_is_worse_than_the_median(storage):
    study = open_study(storage, "s", create=True)
    for value in (0.1, 0.2, 0.3):
        done = optuna.trial.create_trial(value=value, intermediate_values={1: value})
        study.add_trial(done)
    for expected, value in ((None, 0.15), ("dev 90.00 % at step 1", 0.9)):
        number = study.ask().number
        reason = Pruner(storage, "s", number, prune=True, startup=1)(1, value)
        assert (reason is None) if expected is None else reason.startswith(expected)
        assert open_study(storage, "s").trials[number].intermediate_values == {1: value}
        assert Pruner(storage, "s", number, prune=False, startup=1)(1, value) is None
