"""Batches the recordings of many requests. Short recordings have one thread and long ones another, so that
nobody waits until a lecture is transcribed; the two threads alternate on the model, forward pass by forward
pass.
"""

import asyncio
import ctypes
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from asr_exp.commands.serve.limits import HTTPError
from asr_exp.commands.serve.metrics import Metrics
from asr_exp.data.audio import Samples
from asr_exp.inference.transcriber import Transcript

TRIM_AFTER = 1.0  # seconds without work after which free memory is returned to the system

Transcribe = Callable[[Sequence[Samples]], list[Transcript]]


@dataclass(frozen=True)
class Batching:
    """How recordings are grouped. All values are seconds.

    batch_seconds: about how much audio goes into a batch. window: how long the first recording of a batch
    waits for others. long_seconds: a recording longer than this one is queued with the long ones.
    """

    batch_seconds: float = 30.0
    window: float = 0.01
    long_seconds: float = math.inf


@dataclass(eq=False)
class PendingRequest:
    """A clip that waits for the model, and the future that its transcript is set on."""

    clip: Samples
    seconds: float
    transcript: Future = field(default_factory=Future)


class Batcher:
    """Two queues, one of short and one of long recordings, each with a thread that forms batches in order of
    arrival and has them transcribed.

    Args:
        transcribe: called by both threads, perhaps at once.
        rate: samples per second of the clips (int16, mono).
        batching: see `Batching`.
        max_reserved_seconds: how much audio all requests together may hold, see `reserve`.
        metrics: where batches and waiting audio are counted.
    """

    def __init__(
        self,
        transcribe: Transcribe,
        rate: int,
        batching: Batching,
        max_reserved_seconds: float,
        metrics: Metrics,
    ):
        self.transcribe = transcribe
        self.rate = rate
        self.batching = batching
        self.max_reserved_seconds = max_reserved_seconds
        self.metrics = metrics
        # short recordings, long recordings
        self._queues: tuple[deque[PendingRequest], deque[PendingRequest]] = (deque(), deque())
        self._changed = threading.Condition()
        self._closing = False
        self._reserved: list[float] = []
        self._audio_seconds = 0.0  # recognised so far
        self._busy_seconds = 0.0  # during which at least one thread was at work
        self._threads_at_work = 0
        self._busy_since = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=[queue], name="recogniser", daemon=True)
            for queue in self._queues
        ]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def reserve(self, seconds: float) -> Iterator[None]:
        """Reserve room for a recording while its request lasts.

        Raises HTTPError (503) where it would exceed `max_reserved_seconds`; a recording that is alone always
        has room.
        """
        with self._changed:
            if self._reserved and sum(self._reserved) + seconds > self.max_reserved_seconds:
                raise HTTPError(
                    503,
                    "The server holds as much audio as it may; try again shortly.",
                    self.expected_delay(),
                )
            self._reserved.append(seconds)
        try:
            yield
        finally:
            with self._changed:
                self._reserved.remove(seconds)

    def expected_delay(self) -> float:
        """Seconds until the reserved audio should be recognised, between 1 and 60."""
        delay = sum(self._reserved) * self._busy_seconds / self._audio_seconds if self._audio_seconds else 1.0
        return float(np.clip(delay, 1.0, 60.0))

    async def recognise(self, clip: Samples) -> Transcript:
        """The transcript of a clip, (samples,) int16. A clip whose caller is cancelled while it waits is
        dropped.

        Raises HTTPError (503) when the server is stopping, and whatever the model raises for this clip.
        """
        request = PendingRequest(clip, len(clip) / self.rate)
        with self._changed:
            if self._closing:
                raise HTTPError(503, "The server is stopping.", 5)
            self._queue_of(request).append(request)
            self._update_waiting_metric()
            self._changed.notify_all()
        try:
            return await asyncio.wrap_future(request.transcript)
        finally:
            with self._changed:
                if request in self._queue_of(request):
                    self._remove(request)

    def close(self, timeout: float = 1.0) -> None:
        """Finish the current batches, drop what waits, and end the threads, within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # -- the threads
    # ------------------------------------------------------------------------------------------------------

    def _work(self, queue: deque[PendingRequest]) -> None:
        while requests := self._next_batch(queue):
            self._transcribe_batch(requests)
            del requests  # keep nobody's audio while this thread waits

    def _transcribe_batch(self, requests: list[PendingRequest]) -> None:
        with self._changed:
            if not self._threads_at_work:
                self._busy_since = time.perf_counter()
            self._threads_at_work += 1
        try:
            transcripts = self.transcribe([request.clip for request in requests])
            for request, transcript in zip(requests, transcripts, strict=True):
                request.transcript.set_result(transcript)
        except Exception as error:
            self._transcribe_alone([one for one in requests if not one.transcript.done()], error)
        with self._changed:
            now = time.perf_counter()
            audio = sum(request.seconds for request in requests)
            busy = now - self._busy_since
            self._busy_since = now  # time during which both threads work counts once
            self._threads_at_work -= 1
            self._busy_seconds += busy
            self._audio_seconds += audio
        self.metrics.busy_seconds.inc(busy)
        self.metrics.audio_seconds.inc(audio)
        self.metrics.batch_size.observe(len(requests))

    def _transcribe_alone(self, requests: list[PendingRequest], error: Exception) -> None:
        """Transcribe the clips of a failed batch one by one: only the clip at fault gets the error."""
        for request in requests:
            try:
                if len(requests) == 1:
                    raise error
                request.transcript.set_result(self.transcribe([request.clip])[0])
            except Exception as why:
                request.transcript.set_exception(why)

    def _next_batch(self, queue: deque[PendingRequest]) -> list[PendingRequest]:
        """Wait for the next batch; an empty list when the server is closing."""
        while True:
            self._wait(lambda: bool(queue) or self._closing)
            with self._changed:
                if (batch := self._take_batch(queue)) or self._closing:
                    return batch

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until a condition holds; after `TRIM_AFTER` seconds of waiting, free memory is returned."""
        with self._changed:
            if self._changed.wait_for(ready, TRIM_AFTER):
                return
        _trim_memory()
        with self._changed:
            self._changed.wait_for(ready)

    def _take_batch(self, queue: deque[PendingRequest]) -> list[PendingRequest]:
        """Take a batch out of a queue, in its order. When the server is closing, every request gets an
        error.
        """
        deadline = time.monotonic() + self.batching.window
        while not self._closing and sum(one.seconds for one in queue) < self.batching.batch_seconds:
            if not self._changed.wait(deadline - time.monotonic()):
                break
        batch: list[PendingRequest] = []
        room = self.batching.batch_seconds
        while queue and (not batch or queue[0].seconds <= room):
            request = queue[0]
            self._remove(request)
            if not request.transcript.set_running_or_notify_cancel():
                continue  # its client has disconnected
            if self._closing:
                request.transcript.set_exception(HTTPError(503, "The server is stopping.", 5))
            else:
                batch.append(request)
                room -= request.seconds
        return batch

    def _queue_of(self, request: PendingRequest) -> deque[PendingRequest]:
        return self._queues[request.seconds > self.batching.long_seconds]

    def _remove(self, request: PendingRequest) -> None:
        self._queue_of(request).remove(request)
        self._update_waiting_metric()

    def _update_waiting_metric(self) -> None:
        self.metrics.waiting_seconds.set(sum(one.seconds for queue in self._queues for one in queue))


def _trim_memory() -> None:
    """Have glibc return its free memory to the system: by itself it keeps free memory below blocks in use.

    Does nothing where the C library has no malloc_trim (macOS, musl).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
