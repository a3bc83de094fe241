"""Forward passes without gradients, for scoring and transcribing: two side by side on a CPU; on a GPU the
next one is launched before the result of the last is read. A pass that does not fit in a GPU's memory is
split.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from asr_exp.core.errors import UserError
from asr_exp.data.batch import Batch, prefetch
from asr_exp.data.batch_plan import pack
from asr_exp.model.conv_frontend import SignalStatistics
from asr_exp.model.recogniser import Emissions, Recogniser
from asr_exp.runtime.fsdp import is_cut
from asr_exp.runtime.out_of_memory import free_cached, is_out_of_memory
from asr_exp.runtime.precision import scoring_in
from asr_exp.runtime.threads import Turns, side_by_side

log = logging.getLogger(__name__)
CPU_SECONDS = 20.0  # the most audio of a pass on a CPU: more is not faster there, and takes more memory
CPU_PASSES = 2  # forward passes that run at a time on a CPU
# Seconds of audio where trainer.device_seconds is `auto`: the same on all ranks, each of which plans all
# passes for itself. A pass that does not fit is split.
AUTO_SECONDS = {"cpu": 100.0, "cuda": 400.0}

# (indices of the utterances, their emissions) -> a number for each utterance
Measure = Callable[[np.ndarray, Emissions], torch.Tensor]


def seconds_of(device_seconds: float | str, device: torch.device) -> float:
    """`trainer.device_seconds` as a number for passes without gradients."""
    return AUTO_SECONDS[device.type] if device_seconds == "auto" else float(device_seconds)


def pass_seconds(device_seconds: float | str, device: torch.device) -> float:
    """The most audio in a forward pass without gradients. device_seconds: as `trainer.device_seconds`."""
    seconds = seconds_of(device_seconds, device)
    return min(seconds, CPU_SECONDS) if device.type == "cpu" else seconds


def even_budget(costs: np.ndarray, budget: float) -> float:
    """The most that a pass may cost, `budget` or less, for the passes to be a multiple of CPU_PASSES: with an
    odd one, a worker would wait for the other. costs: of the recordings.
    """
    for smaller in budget * np.linspace(1.0, 0.5, 26):
        count = len(pack(np.arange(len(costs)), costs, smaller))
        if count <= 1 or count % CPU_PASSES == 0:
            return float(smaller)
    return budget


@dataclass(frozen=True)
class PassResult:
    """What a forward pass gives, on the CPU. indices: of the utterances in their split; measured: what the
    `Measure` made of the emissions, (batch,), None without one.
    """

    indices: np.ndarray
    emissions: Emissions
    measured: torch.Tensor | None = None


class ForwardPasses:
    """Runs the forward passes of a recogniser, without gradients. Several threads may use it at once: they
    take turns, pass by pass.

    Args:
        model: in evaluation mode.
        device: that the model is on.
        precision: of `evaluate.precision`.
        name_of: names the utterance with this index, in an error.
        remedy: what to do about a recording that does not fit in the GPU's memory, in an error.
    """

    def __init__(
        self,
        model: Recogniser,
        device: torch.device,
        precision: str = "fp32",
        name_of: Callable[[int], str] = lambda index: "a recording",
        remedy: str = "evaluate.precision=bf16 or trainer.device=cpu",
    ):
        self.model = model
        self.device = device
        self.precision = precision
        self.name_of = name_of
        self.remedy = remedy
        self.turns = Turns(CPU_PASSES)
        self._fits = float("inf")  # samples of a batch, with padding; more has not fitted

    @property
    def side_by_side(self) -> bool:
        """Whether several passes run at a time: on a CPU, unless the weights are cut across ranks, because
        FSDP gathers them in one thread only.
        """
        cpu = self.device.type == "cpu"
        return cpu and torch.get_num_threads() >= CPU_PASSES and not is_cut(self.model)

    def run(
        self,
        items: Iterable[Any],
        make: Callable[[Any], Batch],
        measure: Measure | None = None,
        statistics: SignalStatistics | None = None,
        at_once: int = CPU_PASSES,
    ) -> Iterator[PassResult]:
        """Yield the result of a pass for each item, in their order.

        Args:
            items: one for each pass.
            make: makes the batch of an item; in another thread, while the device computes.
            measure: called with the emissions on the device; on a GPU its result is read with them.
            statistics: of the recording that all rows are pieces of, see `Recogniser.forward`.
            at_once: how many passes may run at a time on a CPU.

        Raises:
            UserError: one utterance alone does not fit in the GPU's memory.
        """
        if self.device.type == "cuda":
            yield from self._launched_ahead(items, make, measure, statistics)
            return
        shares = CPU_PASSES // at_once if self.side_by_side else CPU_PASSES

        @torch.inference_mode()
        def forward(batch: Batch) -> PassResult:
            with self.turns.take(shares):
                return PassResult(batch.indices, self.emissions(batch, statistics))

        if shares < CPU_PASSES:
            results: Iterable[PassResult] = side_by_side(items, lambda item: forward(make(item)), at_once)
        else:
            results = map(forward, _made(items, make))
        for result in results:
            yield replace(result, measured=measure(result.indices, result.emissions)) if measure else result

    @torch.inference_mode()
    def emissions(self, batch: Batch, statistics: SignalStatistics | None = None) -> Emissions:
        """The emissions of a batch, on the device. A batch that does not fit in the GPU's memory is split in
        two, and those that are as large from then on: in the order of its rows, padded as they are.

        Raises UserError where one utterance alone does not fit.
        """
        if len(batch) == 1 or batch.audio.numel() < self._fits:
            try:
                with scoring_in(self.precision, self.device):
                    return self.model(batch.to(self.device), statistics)
            except Exception as why:
                if not is_out_of_memory(why):
                    raise
                if len(batch) <= 1:
                    seconds = batch.samples / self.model.extractor.sampling_rate
                    raise UserError(
                        f"{self.name_of(int(batch.indices[0]))} ({seconds:.1f} s) does not fit in the GPU's"
                        f" memory by itself; give {self.remedy}."
                    ) from why
            self._fits = batch.audio.numel()
            log.warning("A pass of %d recordings does not fit in the GPU's memory: it is split.", len(batch))
            free_cached(self.device)
        half = len(batch) // 2
        parts = (batch.rows(0, half), batch.rows(half, len(batch)))
        # without gradients nothing is drawn that the whole batch would have to agree on
        return _joined([self.emissions(replace(part, part=None), statistics) for part in parts])

    def _launched_ahead(
        self,
        items: Iterable[Any],
        make: Callable[[Any], Batch],
        measure: Measure | None,
        statistics: SignalStatistics | None,
    ) -> Iterator[PassResult]:
        """`run` on a GPU. A pass is launched, and its result is asked for, before that of the pass before is
        waited for: so the GPU computes while its user decodes.
        """
        launched: deque[_Launched] = deque()
        for batch in _made(items, lambda item: make(item).pinned()):
            with self.turns.take(CPU_PASSES), torch.inference_mode():
                emissions = self.emissions(batch, statistics)
                measured = measure(batch.indices, emissions) if measure else None
                launched.append(_Launched(batch.indices, emissions, measured))
            if len(launched) > 1:
                yield launched.popleft().result()
        while launched:
            yield launched.popleft().result()


class _Launched:
    """A pass under way on a GPU, whose result is being copied to pinned memory."""

    def __init__(self, indices: np.ndarray, emissions: Emissions, measured: torch.Tensor | None):
        logits = _copy_to_host(emissions.logits)
        measured = None if measured is None else _copy_to_host(measured)
        self._result = PassResult(indices, Emissions(logits, emissions.frames), measured)
        self._copied = torch.cuda.Event(blocking=True)  # blocking: the thread sleeps while it waits
        self._copied.record()

    def result(self) -> PassResult:
        """The result, waited for."""
        self._copied.synchronize()
        return self._result


def _made(items: Iterable[Any], make: Callable[[Any], Batch]) -> Iterator[Batch]:
    """The batches of the items, made in another thread. One that is alone is made here, where nobody waits
    for a thread to end.
    """
    alone = isinstance(items, Sequence) and len(items) == 1
    return iter([make(items[0])]) if alone else prefetch(items, make)  # type: ignore[index]


def _copy_to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory, which is whole once the device has come so far."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _joined(parts: Sequence[Emissions]) -> Emissions:
    """The emissions of the rows of several batches, one after the other."""
    rows = [row for part in parts for row in part.logits]
    return Emissions(
        nn.utils.rnn.pad_sequence(rows, batch_first=True), [n for part in parts for n in part.frames]
    )
