"""Recordings of many requests, recognised together: the short ones by one thread, the long ones by another,
so that nobody waits for a lecture to end. The two take turns with the model, pass by pass."""

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

QUIET = 1.0  # seconds without work

Transcribe = Callable[[Sequence[Samples]], list[Transcript]]


@dataclass(eq=False)
class PendingRequest:
    clip: Samples
    seconds: float
    done: Future = field(default_factory=Future)


class Batcher:
    """Gathers what waits into batches of about `batch_seconds` of audio, in the order it came; the first of a
    batch waits `window` seconds for company. transcribe: may be called by two threads. rate: of the clips,
    int16 mono. room: audio in seconds that may be held at once, see `held`. long: seconds; recordings that
    are longer do not stand in the way of others."""

    def __init__(
        self,
        transcribe: Transcribe,
        rate: int,
        batch_seconds: float,
        window: float,
        room: float,
        metrics: Metrics,
        long: float = math.inf,
    ):
        self.transcribe = transcribe
        self.rate = rate
        self.batch_seconds = batch_seconds
        self.window = window
        self.room = room
        self.metrics, self.long = metrics, long
        # what waits: short, long
        self._lanes: tuple[deque[PendingRequest], deque[PendingRequest]] = (deque(), deque())
        self._change = threading.Condition()
        self._closing = False
        self._held: list[float] = []
        self._audio = self._busy = 0.0  # seconds of audio recognised, and the time that took
        self._working, self._since = 0, 0.0  # threads at work, and since when there has been one
        self._threads = [
            threading.Thread(target=self._work, args=[lane], name="recogniser", daemon=True)
            for lane in self._lanes
        ]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Room for a recording while its request lasts. Raises Refused (503) where there is none; one alone
        always has it.
        """
        with self._change:
            if self._held and sum(self._held) + seconds > self.room:
                raise HTTPError(
                    503, "The server holds as much audio as it may; try again shortly.", self.delay()
                )
            self._held.append(seconds)
        try:
            yield
        finally:
            with self._change:
                self._held.remove(seconds)

    def delay(self) -> float:
        """Seconds after which what is held now should be done; 1 at the least, 60 at the most."""
        return float(np.clip(sum(self._held) * self._busy / self._audio if self._audio else 1.0, 1.0, 60.0))

    async def recognise(self, clip: Samples) -> Transcript:
        """The transcript of a clip, int16. When the caller is cancelled before its turn has come, the clip is
        dropped.

        Raises Refused (503) when the server is stopping, and whatever the model fails with on this clip.
        """
        job = PendingRequest(clip, len(clip) / self.rate)
        with self._change:
            if self._closing:
                raise HTTPError(503, "The server is stopping.", 5)
            self._lane(job).append(job)
            self._count()
            self._change.notify_all()
        try:
            return await asyncio.wrap_future(job.done)
        finally:
            with self._change:
                if job in self._lane(job):
                    self._taken_out(job)

    def close(self, patience: float = 1.0) -> None:
        """Let the batches at hand be finished, drop the rest, and end the threads, within `patience`
        seconds.
        """
        with self._change:
            self._closing = True
            self._change.notify_all()
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    # -- the threads
    # ------------------------------------------------------------------------------------------------------

    def _work(self, lane: deque[PendingRequest]) -> None:
        while jobs := self._gather(lane):
            self._recognise(jobs)
            del jobs  # while this thread waits it keeps no one's audio

    def _recognise(self, jobs: list[PendingRequest]) -> None:
        with self._change:
            self._since = self._since if self._working else time.perf_counter()
            self._working += 1
        try:
            for job, transcript in zip(jobs, self.transcribe([job.clip for job in jobs]), strict=True):
                job.done.set_result(transcript)
        except Exception as error:
            self._one_by_one([job for job in jobs if not job.done.done()], error)
        with self._change:
            now, audio = time.perf_counter(), sum(job.seconds for job in jobs)
            seconds, self._since = now - self._since, now  # by two threads at once it counts once
            self._working -= 1
            self._busy += seconds
            self._audio += audio
        self.metrics.busy.inc(seconds)
        self.metrics.audio.inc(audio)
        self.metrics.batch.observe(len(jobs))

    def _one_by_one(self, jobs: list[PendingRequest], error: Exception) -> None:
        """What failed together, alone: one clip that the model cannot take is no one else's harm."""
        for job in jobs:
            try:
                if len(jobs) == 1:
                    raise error
                job.done.set_result(self.transcribe([job.clip])[0])
            except Exception as why:
                job.done.set_exception(why)

    def _gather(self, lane: deque[PendingRequest]) -> list[PendingRequest]:
        """The next batch, waited for; none when the server is closing."""
        while True:
            self._wait(lambda: bool(lane) or self._closing)
            with self._change:
                if (taken := self._batch(lane)) or self._closing:
                    return taken

    def _wait(self, due: Callable[[], bool]) -> None:
        """Until there is a job, or the end. When none comes for a while, memory that is free goes back to the
        system.
        """
        with self._change:
            if self._change.wait_for(due, QUIET):
                return
        _give_back()
        with self._change:
            self._change.wait_for(due)

    def _batch(self, lane: deque[PendingRequest]) -> list[PendingRequest]:
        """What waits and goes together, in its order; when the server is closing, all are told."""
        deadline = time.monotonic() + self.window
        while not self._closing and sum(job.seconds for job in lane) < self.batch_seconds:
            if not self._change.wait(deadline - time.monotonic()):
                break
        taken: list[PendingRequest] = []
        room = self.batch_seconds
        while lane and (not taken or lane[0].seconds <= room):
            job = self._taken_out(lane[0])
            if not job.done.set_running_or_notify_cancel():
                continue  # its client has gone
            if self._closing:
                job.done.set_exception(HTTPError(503, "The server is stopping.", 5))
            else:
                taken.append(job)
                room -= job.seconds
        return taken

    def _lane(self, job: PendingRequest) -> deque[PendingRequest]:
        return self._lanes[job.seconds > self.long]

    def _taken_out(self, job: PendingRequest) -> PendingRequest:
        self._lane(job).remove(job)
        self._count()
        return job

    def _count(self) -> None:
        self.metrics.waiting.set(sum(job.seconds for lane in self._lanes for job in lane))


def _give_back() -> None:
    """Have the C library return the memory it keeps; glibc does not by itself what lies below something in
    use.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
