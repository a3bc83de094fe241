"""The signals upon which a run saves and leaves."""

import contextlib
import os
import signal
from typing import Any

from asr_exp.core.errors import Stopped

# Upon these a run saves and leaves. Under submitit it is SIGUSR2, because submitit handles SIGTERM itself.
LEAVE = (
    (signal.SIGUSR1, signal.SIGUSR2)
    if "SUBMITIT_EXECUTOR" in os.environ
    else (signal.SIGTERM, signal.SIGUSR1)
)


class Signals:
    """While it lasts, `received` is the number of the last signal of LEAVE, or 0; the training loop reads it
    after each step.

    at_once: raise Stopped as soon as the signal comes, where there is nothing to save: while data is prepared
    or a split is scored.
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
        self.received = number
        if self.at_once:
            raise Stopped("Stopped between steps; the same command goes on from there.", number)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
