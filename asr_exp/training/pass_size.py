"""How large the passes of a run are: what the forecast of memory allows, corrected once by what the first
steps really took; and smaller from the step on at which one did not fit.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from asr_exp.core import console
from asr_exp.runtime.distributed import Runtime
from asr_exp.training.memory import MemoryForecast
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import State

log = logging.getLogger(__name__)

USABLE = 0.9  # of the free memory: the rest is for what the allocator cannot use, and for libraries
MEASURED = (2, 3)  # steps; in the first the optimizer has no moments yet
EFFECTIVE = 12  # the first step of the corrected size; batches of nearer steps are being made meanwhile
MOST_ABOVE = 1.1  # how far the corrected size may exceed the forecast one
LEAST = 10.0  # seconds
SAMPLED = 3  # steps whose largest pass is looked for


def usable_memory(device: torch.device) -> float:
    """Bytes of a GPU that a run may plan with, what it has allocated already included."""
    free, _ = torch.cuda.mem_get_info(device)
    return USABLE * (free + torch.cuda.memory_reserved(device))


def largest_pass(forecast: MemoryForecast, longest: float, runtime: Runtime) -> float:
    """The most that a pass may cost on a GPU, see `batch_plan.PassCost`: the same on all ranks. longest:
    seconds of the longest utterance.
    """
    return _lowest(forecast.seconds_within(usable_memory(runtime.device), longest), runtime)


def expected_memory(setup: TrainingSetup) -> float:
    """The forecast of a device's peak in bytes, over the first steps."""
    forecast, plan = setup.forecast, setup.plan
    world = setup.runtime.world
    assert forecast
    steps = [
        [plan.seconds[one] for one in plan.micro_batches(step, rank, world)]
        for step in range(1, min(SAMPLED, setup.total, plan.steps_per_epoch) + 1)
        for rank in range(world)
    ]
    return max(map(forecast.peak, steps), default=forecast.peak([]))


def _lowest(seconds: float, runtime: Runtime) -> float:
    return float(-runtime.all_reduce_max(-math.floor(max(LEAST, seconds))))


class PassSizes:
    """Keeps the size of passes in the state of a run, so that a run that is resumed makes the same passes."""

    def __init__(self, setup: TrainingSetup, state: State):
        self.setup = setup
        self.state = state
        # a size of 0 stands for passes of one utterance
        on_gpu = setup.runtime.device.type == "cuda"
        self._automatic = setup.automatic_size and on_gpu and setup.plan.device_seconds(1) > 0
        if self._automatic and state.sizes:
            setup.plan.set_sizes(state.sizes)
        elif self._automatic:
            state.sizes = list(setup.plan.sizes)

    @contextmanager
    def measured(self, step: int) -> Iterator[None]:
        """While it lasts the step is made; after the last of MEASURED, all ranks correct the size."""
        if not self._automatic or len(self.state.sizes) > 1 or step not in MEASURED:
            yield
            return
        device = self.setup.runtime.device
        torch.cuda.reset_peak_memory_stats(device)
        yield
        ratio = self._ratio(step, torch.cuda.max_memory_allocated(device))
        self.state.memory_ratio = max(self.state.memory_ratio, ratio)
        if step == MEASURED[-1]:
            self._correct(step)

    def _ratio(self, step: int, peak: int) -> float:
        """What the largest pass of a step took beyond what is there when it begins, of what was expected."""
        setup, forecast = self.setup, self.setup.forecast
        plan, runtime = setup.plan, setup.runtime
        passes = plan.micro_batches(step, runtime.rank, runtime.world)
        assert forecast
        dropped = len(setup.model.dropped_layers)
        expected = max(
            (forecast.activations.of_pass(plan.seconds[one], dropped) for one in passes), default=0.0
        )
        return max(0.0, peak - forecast.before(len(passes))) / max(1.0, expected)

    def _correct(self, step: int) -> None:
        before = self.setup.plan.device_seconds(step)
        seconds = before * min(MOST_ABOVE, 1.0 / max(self.state.memory_ratio, 0.1))
        after = _lowest(seconds, self.setup.runtime)
        self.state.sizes = [(1, before), (EFFECTIVE, after)]
        self.setup.plan.set_sizes(self.state.sizes)
        if self.setup.runtime.main and after != before:
            log.info(
                "step %d: passes take %s of the memory forecast; from step %d on they have up to %.0f s.",
                step,
                console.percent(self.state.memory_ratio),
                EFFECTIVE,
                after,
            )

    def agree(self) -> None:
        """Take the lowest limit that a rank has set where a pass did not fit; every rank takes part."""
        self.setup.pass_limit.agree(self.setup.runtime)
        self.state.pass_seconds = self.setup.pass_limit.seconds
