"""The size of passes on a GPU: by the forecast, corrected once, and kept for a run that is resumed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asr_exp.data.batch_plan import BatchPlan, PassCost, pack, runs
from asr_exp.runtime.distributed import Runtime
from asr_exp.training import pass_size
from asr_exp.training.memory import MemoryForecast
from asr_exp.training.pass_limit import PassLimit
from asr_exp.training.pass_size import EFFECTIVE, PassSizes
from asr_exp.training.state import State

GIB = 2.0**30
GPU = Runtime(0, 0, 1, torch.device("cuda", 0), "bf16")
FORECAST = MemoryForecast(4 * GIB, GIB, GIB / 50, 0.0, 1000.0)  # 50 s of audio take a GiB
SECONDS = np.full(400, 10.0)


def a_setup(size: float = 200.0) -> SimpleNamespace:
    plan = BatchPlan(SECONDS, 400, size, 0, pass_cost=FORECAST.pass_cost)
    return SimpleNamespace(
        plan=plan, forecast=FORECAST, runtime=GPU, automatic_size=True, pass_limit=PassLimit()
    )


@pytest.fixture
def peaks(monkeypatch):
    """peaks(GiB a pass takes beyond what is always there) -> the allocator says so."""

    def set_peak(gib: float) -> None:
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(
            torch.cuda, "max_memory_allocated", lambda device: int(FORECAST.fixed + gib * GIB)
        )

    return set_peak


def steps(setup: SimpleNamespace, state: State, first: int = 1, last: int = 3) -> PassSizes:
    sizes = PassSizes(setup, state)
    for step in range(first, last + 1):
        with sizes.measured(step):
            pass
    return sizes


@pytest.mark.parametrize(("took", "size"), [(4.0, 200), (8.0, 100), (2.0, 220), (100.0, 10)])
def test_the_first_steps_correct_it(peaks, took, size):
    """A pass of 200 s is expected to take 4 GiB."""
    setup, state = a_setup(), State()
    peaks(took)
    steps(setup, state)
    assert [setup.plan.device_seconds(s) for s in (1, EFFECTIVE - 1, EFFECTIVE)] == [200, 200, size]
    assert max(len(one) for one in setup.plan.micro_batches(EFFECTIVE)) == size // 10


def test_a_resumed_run_has_the_same_sizes(peaks):
    whole, state = a_setup(), State()
    peaks(8.0)
    steps(whole, state)
    stopped, first = a_setup(), State()
    steps(stopped, first, last=2)
    resumed = a_setup(size=350.0)  # more is free when it is resumed
    peaks(1.0)
    steps(resumed, State(sizes=first.sizes, memory_ratio=first.memory_ratio), first=3)
    assert resumed.plan.sizes == whole.plan.sizes
    later = a_setup(size=350.0)
    steps(later, State(sizes=state.sizes, memory_ratio=state.memory_ratio), first=9, last=20)
    assert later.plan.sizes == whole.plan.sizes


def test_a_number_is_left_alone(peaks):
    setup, state = a_setup(), State()
    setup.automatic_size = False
    peaks(100.0)
    steps(setup, state)
    assert setup.plan.sizes == [(1, 200)] and state.sizes == []


def test_what_fits():
    assert FORECAST.seconds_within(9 * GIB) == pytest.approx(200)
    assert FORECAST.seconds_within(1000 * GIB) == 1000
    assert FORECAST.peak(200, passes=2) == pytest.approx(9 * GIB)
    assert FORECAST.peak(200, passes=1) == pytest.approx(8 * GIB)  # gradients come while activations go
    assert FORECAST.peak(10, passes=1) == pytest.approx(5 * GIB)
    squares = MemoryForecast(0, 0, 2.0, 0.1, 1000.0).pass_cost
    assert squares.of(np.array([20.0])) == pytest.approx(40.0)  # 2 * 20 bytes, and 0.1 * 20 ** 2


def test_the_least_limit_of_all_ranks_counts():
    limit = PassLimit()
    limit.lower(None)
    assert limit.seconds is None
    limit.lower(49.99999)
    limit.lower(80.0)
    assert limit.seconds == 49.999
    other = SimpleNamespace(all_reduce_max=lambda value: max(value, -20_000))
    limit.agree(other)
    assert limit.seconds == 20.0


def test_passes_without_padding_cost_their_audio():
    seconds = np.array([10.0, 1.0, 1.0, 9.0, 1.0])
    linear = PassCost(math.inf, padded=False)
    assert [p.tolist() for p in pack(np.arange(5), linear.of(seconds), 12.0, padded=False)] == [
        [0],
        [3, 1, 2, 4],
    ]
    assert [p.tolist() for p in pack(np.arange(5), linear.of(seconds), 12.0)] == [[0], [3], [1, 2, 4]]
    assert linear.of_pass(seconds) == 22.0 and PassCost(math.inf).of_pass(seconds) == 50.0


def test_runs_are_as_few_as_there_can_be():
    assert runs(np.array([5.0, 5.0, 5.0, 5.0]), 10.0) == [(0, 2), (2, 4)]
    assert runs(np.array([12.0, 5.0, 4.0]), 10.0) == [(0, 1), (1, 3)]
    assert runs(np.array([5.0, 5.0]), None) == [(0, 2)]


def test_the_corrected_size_comes_after_the_batches_that_are_being_made():
    """Two are in the queue of `prefetch`, one is being put there, one is being used."""
    assert pass_size.MEASURED[-1] + 4 < EFFECTIVE
