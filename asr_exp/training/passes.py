"""The forward and backward passes that a rank makes in a step: those of the batch plan, each in parts where
it does not fit into memory.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from asr_exp.core.errors import SmallerPasses, UserError
from asr_exp.data.batch import Batch
from asr_exp.data.batch_plan import runs
from asr_exp.runtime.out_of_memory import free_cached, is_out_of_memory
from asr_exp.training.setup import TrainingSetup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass. number: of the pass in the batch plan that it is, or is a part of."""

    number: int
    batch: Batch
    last: bool  # of this rank in the step


class StepPasses:
    """The passes of a rank in a step, made again where one of them runs out of memory:

    passes = StepPasses(setup, step, batches)
    for attempt in passes.attempts():
        with passes.halved_where_they_do_not_fit():
            for one in attempt: ...
    """

    def __init__(self, setup: TrainingSetup, step: int, batches: Sequence[Batch]):
        self.setup = setup
        self.step = step
        self.batches = batches
        self._done = False
        self._current: Batch | None = None
        self._alone: list[int] = []  # utterances that did not fit alone

    def attempts(self) -> Iterator[Iterator[Pass]]:
        """The passes, from the first to the last, as often as it takes for all of them to fit."""
        yield self._passes()
        while not self._done:
            # The error is gone by now, and with it all that its traceback kept alive.
            for parameter in self.setup.trained:
                parameter.grad = None
            self.setup.gradients.restart()
            free_cached(self.setup.runtime.device)
            yield self._passes()

    def _passes(self) -> Iterator[Pass]:
        most = self.setup.pass_limit.seconds
        parts = [
            (number, batch.rows(*rows))
            for number, batch in enumerate(self.batches)
            for rows in runs(self._seconds(batch), most)
        ]
        for place, (number, part) in enumerate(parts, 1):
            self._current = part
            yield Pass(number, part, place == len(parts))

    def _seconds(self, batch: Batch) -> np.ndarray:
        """The length of each row as the batch plan has it, which every rank knows."""
        return self.setup.plan.seconds[batch.indices]

    @contextmanager
    def halved_where_they_do_not_fit(self) -> Iterator[None]:
        """Where memory runs out within, halve the size of passes from now on, for another attempt.

        Raises UserError where an utterance does not fit alone, and SmallerPasses where the ranks share their
        passes.
        """
        try:
            yield
            self._done = True
        except Exception as error:
            if not is_out_of_memory(error) or self._current is None:
                raise
            self._halve(self._current)

    def _halve(self, part: Batch) -> None:
        setup = self.setup
        lengths = self._seconds(part)
        seconds = float(lengths.sum())
        if len(part) == 1:
            index = int(part.indices[0])
            # Once more where the other ranks do not wait, after the allocator has given back what it keeps.
            if setup.sharded or index in self._alone:
                raise UserError(_too_long(setup, index, seconds))
            self._alone.append(index)
            return
        setup.pass_limit.lower(max(float(lengths.max()), seconds / 2))
        most = setup.pass_limit.seconds
        happened = f"A forward and backward pass over {seconds:.0f} s of audio does not fit into memory"
        if setup.sharded:
            setup.pass_limit.write()
            raise SmallerPasses(
                f"{happened} at step {self.step}. With trainer.strategy=fsdp all ranks make the same passes,"
                f" so they start again from the last checkpoint, with at most {most:.0f} s in a pass."
            )
        log.warning(
            "step %d: %s; from now on passes are made in parts of at most %.0f s.", self.step, happened, most
        )


def _too_long(setup: TrainingSetup, index: int, seconds: float) -> str:
    """The sentence for an utterance that does not fit alone."""
    name = setup.split.utterances[index].id
    keys = [f"dataset.max_seconds={max(1, math.floor(seconds) - 1)} leaves it out"]
    if not any(getattr(module, "gradient_checkpointing", False) for module in setup.model.network.modules()):
        keys.append("trainer.gradient_checkpointing=true takes less memory")
    if setup.runtime.precision == "fp32" and setup.runtime.device.type == "cuda":
        keys.append("so does trainer.precision=bf16")
    if not setup.sharded:
        keys.append("trainer.strategy=fsdp with trainer.devices=2 or more cuts the weights")
    return (
        f"Utterance {name} of {seconds:.1f} s does not fit into the memory of {setup.runtime.device} alone:"
        f" {', '.join(keys)}."
    )
