"""The size of passes on a GPU: by the forecast, corrected once, and kept for a run that is resumed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asr_exp.data.batch_plan import BatchPlan, PassCost, pack, runs
from asr_exp.runtime.distributed import Runtime
from asr_exp.training import pass_size
from asr_exp.training.activations import Activations
from asr_exp.training.memory import MemoryForecast
from asr_exp.training.pass_limit import PassLimit
from asr_exp.training.pass_size import EFFECTIVE, PassSizes
from asr_exp.training.state import State

GIB = 2.0**30
GPU = Runtime(0, 0, 1, torch.device("cuda", 0), "bf16")
FORECAST = MemoryForecast(4 * GIB, GIB, Activations(GIB / 50), 1000.0)  # 50 s of audio take a GiB
SECONDS = np.full(400, 10.0)


def a_setup(size: float = 200.0) -> SimpleNamespace:
    plan = BatchPlan(SECONDS, 400, size, 0, pass_cost=FORECAST.pass_cost)
    return SimpleNamespace(
        plan=plan,
        forecast=FORECAST,
        runtime=GPU,
        automatic_size=True,
        pass_limit=PassLimit(),
        model=SimpleNamespace(dropped_layers=()),
    )


@pytest.fixture
def peaks(monkeypatch):
    """peaks(GiB that a pass takes beyond weights and gradients) -> the allocator says so."""

    def set_peak(gib: float) -> None:
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: int(5 * GIB + gib * GIB))

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
    assert FORECAST.seconds_within(9 * GIB, 10.0) == pytest.approx(200)
    assert FORECAST.seconds_within(1000 * GIB, 10.0) == 1000
    one, short = np.full(20, 10.0), np.full(1, 10.0)
    assert FORECAST.peak([one, one]) == pytest.approx(9 * GIB)
    assert FORECAST.peak([one]) == pytest.approx(8 * GIB)  # gradients come while activations go
    assert FORECAST.peak([short]) == FORECAST.peak([]) == pytest.approx(5 * GIB)
    squares = Activations(2.0, kept_squares=0.1, utterance=6.0).pass_cost
    assert squares.of(np.array([20.0])) == pytest.approx(43.0)  # 2 * 20 bytes, 0.1 * 20 ** 2, and 6


def test_what_a_pass_takes_by_hand():
    seconds = np.array([10.0, 6.0])
    assert Activations(2.0, again=1.0, working=3.0, layer=0.5).of_pass(seconds, dropped=2) == 16 * 1 + 16 * 4
    assert Activations(2.0, front_end=9.0).of_pass(seconds) == 16 * 9  # before anything is kept
    alone = Activations(2.0, again=1.0, working=3.0, front_end=9.0, utterance=7.0, one_by_one=True)
    # the second's front end runs while the first waits; the backward pass is of one at a time
    assert alone.of_pass(seconds) == max(7 + 10 * 9, 10 * 2 + 7 + 7 + 6 * 9, 16 * 2 + 2 * 7 + 10 * 4)
    assert Activations(2.0, padded=True).of_pass(seconds) == 2 * 10 * 2
    # two calls of attention: what of the longer counts that is not freed by then
    attention = Activations(2.0, working=1.0, freed=2.0, working_squares=1.0)
    assert attention.of_pass(seconds) == 16 * 2 + 10**2 - 2 * 16
    assert Activations(1.0).of_pass(np.array([])) == 0.0


@pytest.mark.parametrize(
    "one",
    [
        Activations(2.0, again=1.0, working=1.0, working_squares=0.4),
        Activations(2.0, front_end=5.0),
        Activations(2.0, again=1.0, front_end=9.0, utterance=7.0, kept_squares=0.1, one_by_one=True),
    ],
)
@pytest.mark.parametrize("usable", [1000.0, 5000.0, 50_000.0])
def test_passes_within_a_cost_are_within_the_memory(one, usable):
    seconds = np.random.default_rng(0).uniform(1, 30, 20_000)
    size = one.seconds_within(usable, 30.0)
    passes = pack(np.arange(len(seconds)), one.pass_cost.of(seconds), size, one.padded)
    largest = max(one.of_pass(seconds[rows]) for rows in passes)
    assert 0.6 * usable < largest <= usable


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
