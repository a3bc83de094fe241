"""The signals upon which a run saves and leaves."""

import contextlib
import os
import signal
import time
from typing import Any

from asr_exp.core.errors import Stopped
from asr_exp.core.exit_status import rank

# Upon these a run saves and leaves. SLURM sends SIGTERM when it preempts, requeues or cancels a job, submitit
# has it send SIGUSR2 when the time is nearly over, and SIGUSR1 is what scripts ask for (`--signal=USR1@60`).
LEAVE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Seconds within which a SIGINT counts as the same Ctrl-C: a terminal sends it to every process of a run, and
# the process that has started the ranks hands it on to them.
SAME = 0.5

BETWEEN = "Stopped between steps; the same command goes on from there."
SAVING = "\nCtrl-C: this step is finished and saved before the run leaves; once more leaves at once.\n"
AT_ONCE = "\nLeft at once. The same command goes on from the last checkpoint.\n"


class Signals:
    """While it lasts, `received` is the number of the last signal of LEAVE, or of SIGINT (Ctrl-C), or 0; the
    training loop reads it after each step. A second Ctrl-C ends the process at once, with status 130.

    at_once: raise Stopped as soon as the first signal comes, where there is nothing to save: while data is
    prepared or a split is scored; SIGINT then raises KeyboardInterrupt, as Python has it. Signals that come
    later are noted and change nothing, so that a run that is leaving is not disturbed. One may last inside
    another, and each hears of what the other has received: where a library that was being imported has made
    another error of Stopped, or has dropped it, it is raised again.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.received = at_once, 0
        self._raised = False
        self._before: dict[int, Any] = {}
        self._interrupted: float | None = None  # when the first Ctrl-C came

    def __enter__(self) -> "Signals":
        outer = getattr(signal.getsignal(LEAVE[0]), "__self__", None)
        if isinstance(outer, Signals) and outer.received:
            self.received = outer.received
            if self.at_once:
                raise Stopped(BETWEEN, self.received)
        handlers = dict.fromkeys(LEAVE, self._note)
        # where SIGINT is ignored, as in what a shell script starts in the background, it stays so
        if not self.at_once and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = self._interrupt
        for number, handler in handlers.items():
            # a thread other than the main one cannot handle signals
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, handler)
        return self

    def _note(self, number: int, _: Any) -> None:
        first, self.received = not self.received, number
        if self.at_once and first:
            self._raised = True
            raise Stopped(BETWEEN, number)

    def _interrupt(self, number: int, _: Any) -> None:
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted, self.received = now, number
            _tell(SAVING)
        elif now - self._interrupted > SAME:
            _tell(AT_ONCE)
            os._exit(128 + number)

    def __exit__(self, _: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self._before.items():
            outer = getattr(handler, "__self__", None)
            if self.received and isinstance(outer, Signals):
                outer.received = self.received
            signal.signal(number, handler)
        if self._raised and isinstance(error, Exception) and not isinstance(error, Stopped):
            raise Stopped(BETWEEN, self.received) from error


def _tell(text: str) -> None:
    """Write to stderr from a handler of signals, where `print` may be at work already."""
    if rank() == 0:
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def handler_outside(number: int) -> Any:
    """The handler that a signal has outside of every `Signals`."""
    handler = signal.getsignal(number)
    while isinstance(one := getattr(handler, "__self__", None), Signals):
        handler = one._before.get(number)
    return handler
