"""When a checkpoint is due besides those of evaluations, by a clock of the test's own."""

import pytest

from asr_exp.training import save_schedule
from asr_exp.training.save_schedule import SaveSchedule


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(save_schedule.time, "monotonic", lambda: now[0])
    return now


def lost(clock, every, step_takes, scored_each=10**9, scoring_takes=0.0, saving_takes=0.0, steps=400):
    """The most training that a kill at the worst moment loses, in seconds."""
    schedule, kept = SaveSchedule(every), clock[0]
    most = 0.0
    for step in range(1, steps):
        clock[0] += step_takes
        schedule.stepped()
        due = schedule.is_due(step, (step + 1) % scored_each == 0)
        scored = step % scored_each == 0
        if scored:
            with schedule.scoring():
                clock[0] += scoring_takes
        if due or scored:
            with schedule.saving():
                clock[0] += saving_takes
            most, kept = max(most, clock[0] - kept), clock[0]
        most = max(most, clock[0] - kept)
    return most


def test_no_more_is_lost_than_was_asked_for(clock):
    assert lost(clock, "10min", 7.0) <= 600
    assert lost(clock, "10min", 7.0, saving_takes=40.0) <= 640  # the first time, it is not known yet
    assert lost(clock, "10min", 7.0, scored_each=60, scoring_takes=250.0) <= 600
    assert 590 < lost(clock, "10min", 1.0, steps=2000) <= 600


def test_steps_are_counted_from_the_start_of_the_run(clock):
    schedule = SaveSchedule("500")
    assert [s for s in range(1, 1600) if schedule.is_due(s, False)] == [500, 1000, 1500]
    assert SaveSchedule(3).steps == 3


@pytest.mark.parametrize(("text", "seconds"), [("10min", 600), ("90s", 90), ("1.5h", 5400), ("2 min", 120)])
def test_a_time_has_its_unit(text, seconds):
    assert SaveSchedule(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "min", "0", "0s", "-5", "1.5", "5 weeks"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match=text or "^$"):
        SaveSchedule(text)
