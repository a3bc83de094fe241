"""The signals upon which a run saves and leaves."""

import contextlib
import signal
from typing import Any

from asr_exp.core.errors import Stopped

# Upon these a run saves and leaves. SLURM sends SIGTERM when it preempts, requeues or cancels a job, submitit
# has it send SIGUSR2 when the time is nearly over, and SIGUSR1 is what scripts ask for (`--signal=USR1@60`).
LEAVE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


BETWEEN = "Stopped between steps; the same command goes on from there."


class Signals:
    """While it lasts, `received` is the number of the last signal of LEAVE, or 0; the training loop reads it
    after each step.

    at_once: raise Stopped as soon as the first signal comes, where there is nothing to save: while data is
    prepared or a split is scored. Those that come later are noted and change nothing, so that a run that is
    leaving is not disturbed. One may last inside another, and each hears of what the other has received:
    where a library that was being imported has made another error of Stopped, or has dropped it, it is
    raised again.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.received = at_once, 0
        self._raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        outer = getattr(signal.getsignal(LEAVE[0]), "__self__", None)
        if isinstance(outer, Signals) and outer.received:
            self.received = outer.received
            if self.at_once:
                raise Stopped(BETWEEN, self.received)
        for number in LEAVE:
            # a thread other than the main one cannot handle signals
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        first, self.received = not self.received, number
        if self.at_once and first:
            self._raised = True
            raise Stopped(BETWEEN, number)

    def __exit__(self, _: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self._before.items():
            outer = getattr(handler, "__self__", None)
            if self.received and isinstance(outer, Signals):
                outer.received = self.received
            signal.signal(number, handler)
        if self._raised and isinstance(error, Exception) and not isinstance(error, Stopped):
            raise Stopped(BETWEEN, self.received) from error


def handler_outside(number: int) -> Any:
    """The handler that a signal has outside of every `Signals`."""
    handler = signal.getsignal(number)
    while isinstance(one := getattr(handler, "__self__", None), Signals):
        handler = one._before.get(number)
    return handler
