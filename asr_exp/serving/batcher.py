"""Recordings of many requests, recognised together by the one thread that owns the model."""

import asyncio
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from asr_exp.data.clips import Samples
from asr_exp.serving.limits import Refused
from asr_exp.serving.metrics import Metrics
from asr_exp.transcriber import Transcript

QUIET = 1.0  # seconds without work

Transcribe = Callable[[Sequence[Samples]], list[Transcript]]


@dataclass(eq=False)
class Job:
    clip: Samples
    seconds: float
    done: Future = field(default_factory=Future)


class Batcher:
    """Gathers what waits into batches of about `batch_seconds` of audio, in the order it came; the first of a batch waits `window`
    seconds for company. rate: of the clips, int16 mono. room: audio in seconds that may be held at once, see `held`."""

    def __init__(self, transcribe: Transcribe, rate: int, batch_seconds: float, window: float, room: float, metrics: Metrics):
        self.transcribe, self.rate, self.batch_seconds, self.window, self.room = transcribe, rate, batch_seconds, window, room
        self.metrics = metrics
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._held: list[float] = []
        self._audio = self._busy = 0.0  # seconds of audio recognised, and the time that took
        self._thread = threading.Thread(target=self._work, name="recogniser", daemon=True)
        self._thread.start()

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Room for a recording while its request lasts. Raises Refused (503) where there is none; one alone always has it."""
        with self._change:
            if self._held and sum(self._held) + seconds > self.room:
                raise Refused(503, "The server holds as much audio as it may; try again shortly.", self.delay())
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
        """The transcript of a clip, int16. When the caller is cancelled before its turn has come, the clip is dropped.

        Raises Refused (503) when the server is stopping, and whatever the model fails with on this clip.
        """
        job = Job(clip, len(clip) / self.rate)
        with self._change:
            if self._closing:
                raise Refused(503, "The server is stopping.", 5)
            self._jobs.append(job)
            self._count()
            self._change.notify()
        try:
            return await asyncio.wrap_future(job.done)
        finally:
            with self._change:
                if job in self._jobs:
                    self._taken_out(job)

    def close(self, patience: float = 1.0) -> None:
        """Let the batch at hand be finished, drop the rest, and end the thread, within `patience` seconds."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(patience)

    # -- the thread -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._gather():
            self._recognise(jobs)
            del jobs  # while this thread waits it keeps no one's audio

    def _recognise(self, jobs: list[Job]) -> None:
        start = time.perf_counter()
        try:
            for job, transcript in zip(jobs, self.transcribe([job.clip for job in jobs]), strict=True):
                job.done.set_result(transcript)
        except Exception as error:
            self._one_by_one([job for job in jobs if not job.done.done()], error)
        seconds, audio = time.perf_counter() - start, sum(job.seconds for job in jobs)
        self._busy += seconds
        self._audio += audio
        self.metrics.busy.inc(seconds)
        self.metrics.audio.inc(audio)
        self.metrics.batch.observe(len(jobs))

    def _one_by_one(self, jobs: list[Job], error: Exception) -> None:
        """What failed together, alone: one clip that the model cannot take is no one else's harm."""
        for job in jobs:
            try:
                if len(jobs) == 1:
                    raise error
                job.done.set_result(self.transcribe([job.clip])[0])
            except Exception as why:
                job.done.set_exception(why)

    def _gather(self) -> list[Job]:
        """The next batch, waited for; none when the server is closing."""
        while True:
            self._wait()
            with self._change:
                if (taken := self._batch()) or self._closing:
                    return taken

    def _wait(self) -> None:
        """Until there is a job, or the end. When none comes for a while, memory that is free goes back to the system."""
        with self._change:
            if self._change.wait_for(self._due, QUIET):
                return
        _give_back()
        with self._change:
            self._change.wait_for(self._due)

    def _due(self) -> bool:
        return bool(self._jobs) or self._closing

    def _batch(self) -> list[Job]:
        """What waits and goes together, in its order; when the server is closing, all are told."""
        deadline = time.monotonic() + self.window
        while not self._closing and sum(job.seconds for job in self._jobs) < self.batch_seconds:
            if not self._change.wait(deadline - time.monotonic()):
                break
        taken: list[Job] = []
        room = self.batch_seconds
        while self._jobs and (not taken or self._jobs[0].seconds <= room):
            job = self._taken_out(self._jobs[0])
            if not job.done.set_running_or_notify_cancel():
                continue  # its client has gone
            if self._closing:
                job.done.set_exception(Refused(503, "The server is stopping.", 5))
            else:
                taken.append(job)
                room -= job.seconds
        return taken

    def _taken_out(self, job: Job) -> Job:
        self._jobs.remove(job)
        self._count()
        return job

    def _count(self) -> None:
        self.metrics.waiting.set(sum(job.seconds for job in self._jobs))


def _give_back() -> None:
    """Have the C library return the memory it keeps; glibc does not by itself what lies below something in use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
