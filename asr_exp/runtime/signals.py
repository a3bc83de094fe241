"""The signals upon which a run saves and leaves."""

import contextlib
import signal
from typing import Any

from asr_exp.core.errors import Stopped

# Upon these a run saves and leaves. SLURM sends SIGTERM when it preempts, requeues or cancels a job, submitit
# has it send SIGUSR2 when the time is nearly over, and SIGUSR1 is what scripts ask for (`--signal=USR1@60`).
LEAVE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """While it lasts, `received` is the number of the last signal of LEAVE, or 0; the training loop reads it
    after each step.

    at_once: raise Stopped as soon as the first signal comes, where there is nothing to save: while data is
    prepared or a split is scored. Those that come later are noted and change nothing, so that a run that is
    leaving is not disturbed. One may last inside another, which hears of what the inner one has received.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.received = at_once, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in LEAVE:
            # a thread other than the main one cannot handle signals
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        first, self.received = not self.received, number
        if self.at_once and first:
            raise Stopped("Stopped between steps; the same command goes on from there.", number)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            outer = getattr(handler, "__self__", None)
            if self.received and isinstance(outer, Signals):
                outer.received = self.received
            signal.signal(number, handler)
