"""What requests and streams share: the model's batcher, the threads that decode, the limits and the counts."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from asr_exp.serving.batcher import Batcher, Transcribe
from asr_exp.serving.limits import Limits
from asr_exp.serving.metrics import Metrics
from asr_exp.serving.uploads import Upload, header, samples
from asr_exp.transcriber import Transcript

R = TypeVar("R")


class Service:
    """A recogniser at work for many clients. transcribe: clips (int16, mono, at `rate`) to transcripts; model: its name; language:
    its code, where it is known. streams: WebSocket sessions open now."""

    def __init__(self, transcribe: Transcribe, rate: int, model: str, language: str | None, limits: Limits, batch_seconds: float = 100.0,
                 window: float = 0.01, decoders: int = 2):
        self.rate, self.model, self.language, self.limits, self.metrics = rate, model, language, limits, Metrics()
        self.batcher = Batcher(transcribe, rate, batch_seconds, window, limits.queue_seconds, self.metrics)
        self.pool = ThreadPoolExecutor(decoders, "decoder")
        self.streams = 0

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: Any) -> None:
        self.batcher.close()
        self.pool.shutdown(cancel_futures=True)

    async def transcript(self, file: BinaryIO, read: Callable[[BinaryIO], Upload]) -> Transcript:
        """What is said in a recording that was sent. Raises Refused where it cannot be had.

        The file is read twice, and not kept: as many recordings are in memory undecoded as there are threads to decode them.
        """
        clip = await self.aside(lambda: header(read(file), self.limits))
        with self.batcher.held(clip.seconds):
            return await self.batcher.recognise(await self.aside(lambda: samples(read(file), self.rate)))

    async def aside(self, work: Callable[[], R]) -> R:
        """Have one of the decoding threads do it, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)
