"""What all requests and streams share: the batcher in front of the model, the decoding threads, the limits
and the metrics.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from asr_exp.commands.serve.batcher import Batcher, Batching, Transcribe
from asr_exp.commands.serve.limits import ServeLimits
from asr_exp.commands.serve.metrics import Metrics
from asr_exp.commands.serve.uploads import decode_upload
from asr_exp.inference.transcriber import Transcript

R = TypeVar("R")


@dataclass(frozen=True)
class ServedModel:
    """The recogniser that clients use.

    transcribe: takes clips, each (samples,) int16 mono, and returns their transcripts; two threads may call
    it at once. rate: samples per second of the clips. name: the model's id in the API. language: the code of
    the language it recognises, None where that is not known.
    """

    transcribe: Transcribe
    rate: int
    name: str
    language: str | None = None


class Service:
    """A recogniser that many clients use at once; a context manager that ends its threads.

    decoder_threads: how many uploads are decoded at once. open_streams: WebSocket sessions now open.
    unauthenticated_streams: connections whose first message, which may bring the token, is still to come.
    """

    def __init__(
        self,
        model: ServedModel,
        limits: ServeLimits,
        batching: Batching | None = None,
        decoder_threads: int = 2,
    ):
        self.model = model
        self.limits = limits
        self.metrics = Metrics()
        self.batcher = Batcher(
            model.transcribe, model.rate, batching or Batching(), limits.queue_seconds, self.metrics
        )
        self.decoder_threads = ThreadPoolExecutor(decoder_threads, "decoder")
        self.open_streams = 0
        self.unauthenticated_streams = 0

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: Any) -> None:
        self.batcher.close()
        self.decoder_threads.shutdown(cancel_futures=True)

    async def transcribe_upload(self, read: Callable[[], bytes]) -> Transcript:
        """The transcript of an uploaded file. read: returns the bytes of the file.

        `read` runs in a decoding thread, so that no more files are in memory undecoded than there are such
        threads. Raises HTTPError where the file cannot be decoded (400), is too large or too long (413), or
        the server has no room for it (503).
        """
        clip = await self.run_in_thread(lambda: decode_upload(read(), self.model.rate, self.limits))
        with self.batcher.reserve(len(clip) / self.model.rate):
            return await self.batcher.recognise(clip)

    async def run_in_thread(self, function: Callable[[], R]) -> R:
        """Call a function in one of the decoding threads, so that the event loop is not blocked."""
        return await asyncio.get_running_loop().run_in_executor(self.decoder_threads, function)
