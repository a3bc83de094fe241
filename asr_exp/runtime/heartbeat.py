"""Ranks tell each other that they are alive, so that one whose machine or link is lost ends the others within
minutes.

A collective cannot tell: ranks wait in it for hours while one decodes audio or evaluates.
"""

import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist

from asr_exp.core.errors import Pruned, Stopped
from asr_exp.core.exit_status import say

SILENCE = 180.0  # seconds without a sign of life, after which a rank counts as lost
BEATS = 18  # in that time: so many may be missed
LEFT = 2**40  # what a rank adds to its count of beats when it leaves the run in good order

# A connection of its own to the store in which the ranks have met, which waits so long for an answer.
Connect = Callable[[timedelta], dist.Store]


class Heartbeat:
    """While it lasts, two threads of a rank tell the others that it is alive, and end this process with
    status 1 where another rank, or the store itself, has been silent for too long.

    A kernel of NCCL that waits for a lost rank cannot be interrupted, hence the end of the process. Time is
    counted by what this process was awake for, so that one that was suspended does not take the others for
    lost.

    Args:
        connect: opens a connection to the store. It is called anew after a connection has failed.
        rank: of this process.
        world: how many ranks there are.
        silence: seconds; None: the environment's ASR_EXP_SILENCE_SECONDS, by default SILENCE.
    """

    def __init__(self, connect: Connect, rank: int, world: int, silence: float | None = None):
        self.silence = silence or float(os.environ.get("ASR_EXP_SILENCE_SECONDS") or SILENCE)
        self.rank = rank
        self._connect, self._interval = connect, self.silence / BEATS
        self._beats = dict.fromkeys((other for other in range(world) if other != rank), -1)
        self._hosts: dict[int, str] = {}
        # intervals since a rank has been heard of, and since the store has answered
        self._silent: dict[int, float] = dict.fromkeys(self._beats, 0.0)
        self._store_silent = 0.0
        self._over, self._failed = threading.Event(), False
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._beat, self._watch)]

    def __enter__(self) -> "Heartbeat":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Tell the others that this rank has left, and stop.

        Where it leaves because of an error it only stops beating: the others cannot go on either, and this
        process may still have to be ended, if the error was the loss of another rank.
        """
        if kind is not None and not issubclass(kind, (Stopped, Pruned, KeyboardInterrupt)):
            self._failed = True
            return
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=self._interval)  # a connection that hangs is left to itself

    def _beat(self) -> None:
        """The thread that talks to the store, which may block."""
        store: dist.Store | None = None
        over = False
        while not over:
            over = self._over.is_set()
            try:
                if store is None:
                    store = self._connect(timedelta(seconds=max(1.0, self.silence / 3)))
                    store.set(f"host of {self.rank}", socket.gethostname())
                if not self._failed:
                    store.add(f"beats of {self.rank}", LEFT if over else 1)
                for other in self._beats:
                    self._hear(store, other)
                self._store_silent = 0.0
            except RuntimeError:  # torch's DistError is one
                store = None
            self._over.wait(self._interval)

    def _hear(self, store: dist.Store, other: int) -> None:
        """Note whether another rank has beaten since the last time."""
        beats = store.add(f"beats of {other}", 0)
        if beats >= LEFT:
            self._silent[other] = -math.inf
        elif beats != self._beats[other]:
            self._silent[other] = 0.0
        self._beats[other] = beats
        if other not in self._hosts and beats:
            self._hosts[other] = store.get(f"host of {other}").decode()

    def _watch(self) -> None:
        """The thread that counts, which never blocks."""
        while not self._over.wait(self._interval):
            self._store_silent += 1
            for other in self._silent:
                self._silent[other] += 1
            lost = [other for other, intervals in self._silent.items() if intervals > BEATS]
            if lost and not self._over.is_set():
                self._end(lost)

    def _end(self, lost: list[int]) -> NoReturn:
        """Print who has not been heard of, and end this process at once."""
        named = ", ".join(
            f"rank {other}" + (f" of host {self._hosts[other]}" if other in self._hosts else "")
            for other in lost[:4]
        ) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
        if self._store_silent > BEATS:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            named += f" (the store of the ranks, {address}, does not answer)"
        took = f"{self.silence / 60:g} min" if self.silence >= 60 else f"{self.silence:g} s"
        label = "error: " if self.rank == 0 else f"error (rank {self.rank}): "
        say(label, f"Nothing has been heard for {took} of {named}; this rank ends. The same command goes on.")
        sys.stdout.flush()
        os._exit(1)
