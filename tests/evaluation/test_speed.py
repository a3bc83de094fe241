"""The passes that a speed is made of, by a clock that the test moves."""

from types import SimpleNamespace

import pytest

from asr_exp.evaluation import speed
from asr_exp.evaluation.speed import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    return now


def passed(watch: Stopwatch, clock: list[float], seconds: float, audio: float) -> None:
    clock[0] += seconds
    watch.passed(audio)


def test_the_first_pass_and_what_was_under_way_do_not_count(clock):
    watch = Stopwatch(SimpleNamespace(world=1))
    passed(watch, clock, 30, 100)
    passed(watch, clock, 1, 100)
    assert watch.figures() is None
    passed(watch, clock, 1, 80)
    passed(watch, clock, 2, 40)
    assert watch.figures() == {"rtfx": 30.0, "audio_seconds": 120.0, "wall_seconds": 4.0}


def test_after_a_pass_of_warm_up_all_count(clock):
    watch = Stopwatch(SimpleNamespace(world=1), warm=True)
    passed(watch, clock, 2, 100)
    assert watch.figures() == {"rtfx": 50.0, "audio_seconds": 100.0, "wall_seconds": 2.0}


def test_a_round_of_all_ranks_is_left_out(clock):
    watch = Stopwatch(SimpleNamespace(world=2))
    for seconds in (9, 0, 1, 0, 1, 1):
        passed(watch, clock, seconds, 10)
    assert watch.figures() == {"rtfx": 6.67, "audio_seconds": 20.0, "wall_seconds": 3.0}
