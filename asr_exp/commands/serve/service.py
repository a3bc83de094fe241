"""What requests and streams share: the model's batcher, the threads that decode, the limits and the
counts.
"""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from asr_exp.commands.serve.batcher import Batcher, Transcribe
from asr_exp.commands.serve.limits import ServeLimits
from asr_exp.commands.serve.metrics import Metrics
from asr_exp.commands.serve.uploads import samples
from asr_exp.inference.transcriber import Transcript

R = TypeVar("R")


class Service:
    """A recogniser at work for many clients. transcribe: clips (int16, mono, at `rate`) to transcripts;
    model: its name; language: its code, where it is known. long: seconds; recordings that are longer do not
    hold others up. streams: WebSocket sessions open now; newcomers: clients that have yet to show a token in
    one."""

    def __init__(
        self,
        transcribe: Transcribe,
        rate: int,
        model: str,
        language: str | None,
        limits: ServeLimits,
        batch_seconds: float = 30.0,
        window: float = 0.01,
        decoders: int = 2,
        long: float = math.inf,
    ):
        self.rate = rate
        self.model = model
        self.language = language
        self.limits = limits
        self.metrics = Metrics()
        self.batcher = Batcher(
            transcribe, rate, batch_seconds, window, limits.queue_seconds, self.metrics, long
        )
        self.pool = ThreadPoolExecutor(decoders, "decoder")
        self.streams = self.newcomers = 0

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: Any) -> None:
        self.batcher.close()
        self.pool.shutdown(cancel_futures=True)

    async def transcript(self, read: Callable[[], bytes]) -> Transcript:
        """What is said in a recording that was sent; `read` gives its bytes. Raises Refused where it cannot
        be had.

        As many recordings are in memory undecoded as there are threads to decode them.
        """
        clip = await self.aside(lambda: samples(read(), self.rate, self.limits))
        with self.batcher.held(len(clip) / self.rate):
            return await self.batcher.recognise(clip)

    async def aside(self, work: Callable[[], R]) -> R:
        """Have one of the decoding threads do it, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)
