"""Signals that ask a run to save and leave."""

import contextlib
import os
import signal
from typing import Any

from asr_exp.core.errors import Stopped

# What asks a run to save and leave. submitit has SIGUSR2 for it and keeps SIGTERM, which comes beside it, to
# itself.
LEAVE = (
    (signal.SIGUSR1, signal.SIGUSR2)
    if "SUBMITIT_EXECUTOR" in os.environ
    else (signal.SIGTERM, signal.SIGUSR1)
)


class Signals:
    """Remembers that a signal of LEAVE came, for the training loop to save and leave at its next step.

    at_once: where there is nothing to save (data is prepared, a split is scored), raise Stopped then and
    there.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.at_once, self.received = at_once, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in LEAVE:
            # not the main thread: the signals are someone else's business
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        if self.at_once:
            raise Stopped("Stopped between steps; the same command goes on from there.", number)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
