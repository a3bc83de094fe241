"""Speech recognised while it is spoken, over a WebSocket: partial transcripts, then the final one.

The last `WINDOW` seconds are recognised anew in every pass; the transcript of everything before is committed
and does not change. So memory and the time of a pass are bounded, and a recording shorter than the window
gets the same transcript as its file would.
"""

import array
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection

from asr_exp.commands.serve.limits import HTTPError, error_body, error_response
from asr_exp.commands.serve.responses import words_as_json
from asr_exp.commands.serve.service import Service
from asr_exp.commands.serve.uploads import resample
from asr_exp.decoding.alignment import Word
from asr_exp.inference.transcriber import Transcript

WINDOW = 15.0  # seconds of uncommitted audio; more is committed after the next pass
MIN_INTERVAL = 0.4  # seconds of new audio between two passes
IDLE_TIMEOUT = 30.0  # seconds a client may send nothing
FIRST_MESSAGE_TIMEOUT = 5.0  # seconds until a client has sent its first message
# connections at once that have not sent it, not counting those whose header carries the token
MAX_UNAUTHENTICATED = 64
RATES = (4000, 192000)  # lowest and highest, samples per second
MAX_MESSAGE_BYTES = 2**20

# (connection, token of its first message, "" before that) -> whether the client may have a session
Authorise = Callable[[HTTPConnection, str], bool]


class StreamBuffer:
    """The audio of a session that is not committed yet, and the transcript that is.

    rate: samples per second. pcm: the uncommitted audio, 16-bit mono samples. start: where it begins, in
    seconds from the beginning of the session. committed_texts, committed_words: the transcript before
    `start`.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self.pcm = bytearray()
        self.start = 0.0
        self.committed_texts: list[str] = []
        self.committed_words: list[dict[str, Any]] = []

    @property
    def total_seconds(self) -> float:
        """All audio since the beginning of the session, in seconds."""
        return self.start + self.seconds

    @property
    def seconds(self) -> float:
        """The uncommitted audio, in seconds."""
        return len(self.pcm) // 2 / self.rate

    def add(self, pcm: bytes) -> None:
        """Append 16-bit little-endian samples. Raises HTTPError (400) for an odd number of bytes."""
        if len(pcm) % 2:
            raise HTTPError(400, "A message holds an odd number of bytes; send 16-bit samples.")
        if sys.byteorder == "big":
            swapped = array.array("h", pcm)
            swapped.byteswap()
            pcm = swapped.tobytes()
        self.pcm += pcm

    def split_point(self, words: list[Word]) -> float:
        """The middle of the longest pause in the middle third of the uncommitted audio, in seconds from its
        start. words: the words of this audio, with times from its start.
        """
        first = self.seconds / 3
        last = self.seconds * 2 / 3
        edges = [first, *(edge for word in words for edge in (word.start, word.end)), last]
        pauses = [
            (max(start, first), min(end, last)) for start, end in zip(edges[::2], edges[1::2], strict=True)
        ]
        start, end = max(pauses, key=lambda pause: pause[1] - pause[0])
        return (start + end) / 2 if end > start else self.seconds / 2

    def commit(self, seconds: float, transcript: Transcript) -> None:
        """Commit `transcript` for the first `seconds` of the uncommitted audio, and drop their samples."""
        if transcript.text:
            self.committed_texts.append(transcript.text)
        self.committed_words += words_as_json(transcript, self.start)
        samples = round(seconds * self.rate)
        del self.pcm[: 2 * samples]
        self.start += samples / self.rate

    def as_message(self, transcript: Transcript, final: bool) -> dict[str, Any]:
        """The message to the client: the text of the whole session, and its words with times from the
        beginning. transcript: of the uncommitted audio.
        """
        return {
            "text": " ".join([*self.committed_texts, transcript.text]).strip(),
            "words": self.committed_words + words_as_json(transcript, self.start),
            "seconds": round(self.total_seconds, 3),
            "final": final,
        }


class StreamSession:
    """One WebSocket session: receives audio, sends transcripts."""

    def __init__(self, socket: WebSocket, service: Service, authorise: Authorise):
        self.socket = socket
        self.service = service
        self.authorise = authorise

    async def receive_rate(self) -> int:
        """The sampling rate in the first message, {"rate": 16000}, which may bring the token as well.

        Raises HTTPError for a message of another form (400), without the server's token (401), and where none
        comes in time (408).
        """
        try:
            message = json.loads((await self._receive(FIRST_MESSAGE_TIMEOUT)).get("text") or "")
            rate = int(message["rate"])
            token = str(message.get("token") or "")
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            raise HTTPError(
                400,
                'The first message is to be JSON text: {"rate": 16000}, the samples per second that follow.',
            ) from None
        if not self.authorise(self.socket, token):
            raise HTTPError(
                401,
                "This server wants its token: send it in the header 'Authorization: Bearer TOKEN' or in the"
                " first message.",
            )
        if not RATES[0] <= rate <= RATES[1]:
            raise HTTPError(
                400,
                f"A rate of {rate} is not one this server takes; send {RATES[0]} to {RATES[1]} samples per"
                " second.",
            )
        return rate

    async def run(self, rate: int) -> None:
        """The session after its first message, until the client ends it. rate: samples per second.

        Raises HTTPError for a message of a wrong form (400), an idle client (408) and a session that is too
        long (413); WebSocketDisconnect when the client disconnects.
        """
        buffer = self.buffer = StreamBuffer(rate)
        max_seconds = self.service.limits.max_seconds
        partial: asyncio.Task | None = None
        recognised_seconds = 0.0
        interval = MIN_INTERVAL
        try:
            while (pcm := await self._receive_audio()) is not None:
                buffer.add(pcm)
                if buffer.total_seconds > max_seconds:
                    break
                # where the model cannot keep up, no more audio is received until its pass is done
                if partial and (partial.done() or buffer.seconds > 2 * WINDOW):
                    interval = max(MIN_INTERVAL, await partial)
                    partial = None
                if not partial and buffer.total_seconds - recognised_seconds >= interval:
                    recognised_seconds = buffer.total_seconds
                    partial = asyncio.create_task(self._send_partial())
            if partial:
                await partial
            partial = None
            while buffer.seconds > WINDOW * 1.5:
                await self._commit_part(await self._recognise(buffer.seconds))
            await self.socket.send_json(buffer.as_message(await self._recognise(buffer.seconds), True))
        finally:
            if partial:
                partial.cancel()
                await asyncio.gather(partial, return_exceptions=True)
        if buffer.total_seconds > max_seconds:
            raise HTTPError(413, f"The session has come to the {max_seconds:g} s that this server takes.")

    async def _receive_audio(self) -> bytes | None:
        """The samples of the next message; None for the message that ends the session."""
        message = await self._receive(IDLE_TIMEOUT)
        if (pcm := message.get("bytes")) is not None:
            return pcm
        try:
            content = json.loads(message.get("text") or "")
            if isinstance(content, dict) and "end" in content:
                return None
        except (ValueError, RecursionError):
            pass
        raise HTTPError(400, 'A message is to be 16-bit samples (binary) or the text {"end": true}.')

    async def _receive(self, timeout: float) -> Any:
        """The next message that is not empty. Raises HTTPError (408) where none comes within `timeout`
        seconds, and WebSocketDisconnect.
        """
        try:
            async with asyncio.timeout(timeout):
                while (message := await self.socket.receive()).get("bytes") == b"":
                    pass
        except TimeoutError:
            raise HTTPError(408, f"Nothing was sent for {timeout:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message

    async def _recognise(self, seconds: float) -> Transcript:
        """The transcript of the first `seconds` of the uncommitted audio."""
        buffer = self.buffer
        pcm = bytes(buffer.pcm[: 2 * round(seconds * buffer.rate)])
        clip = await self.service.run_in_thread(lambda: resample(pcm, buffer.rate, self.service.model.rate))
        return await self.service.batcher.recognise(clip)

    async def _send_partial(self) -> float:
        """Recognise the uncommitted audio and send the result -> the seconds that took."""
        start = time.monotonic()
        transcript = await self._recognise(self.buffer.seconds)
        await self.socket.send_json(self.buffer.as_message(transcript, False))
        if transcript.seconds > WINDOW:
            await self._commit_part(transcript)
        return time.monotonic() - start

    async def _commit_part(self, transcript: Transcript) -> None:
        """Commit the audio before the split point, recognised by itself. transcript: of all uncommitted
        audio.
        """
        seconds = self.buffer.split_point(transcript.words)
        self.buffer.commit(seconds, await self._recognise(seconds))


async def serve_stream(socket: WebSocket, service: Service, authorise: Authorise) -> None:
    """Accept a WebSocket and run its session; errors are sent to the client before it is closed.

    Raises only what is the server's own failure.
    """
    authorised = authorise(socket, "")
    if not authorised and service.unauthenticated_streams >= MAX_UNAUTHENTICATED:
        return await socket.send_denial_response(
            error_response(HTTPError(503, "Too many clients are beginning a session.", FIRST_MESSAGE_TIMEOUT))
        )
    session = StreamSession(socket, service, authorise)
    timeout = 2 * service.limits.max_seconds + IDLE_TIMEOUT
    try:
        service.unauthenticated_streams += not authorised
        try:
            await socket.accept()
            rate = await session.receive_rate()
        finally:
            service.unauthenticated_streams -= not authorised
        with _session_slot(service):
            async with asyncio.timeout(timeout):
                await session.run(rate)
        await socket.close()
    except HTTPError as error:
        await close_with_error(socket, error)
    except TimeoutError:
        await close_with_error(socket, HTTPError(408, f"The session has taken more than {timeout:g} s."))
    except WebSocketDisconnect:
        service.metrics.disconnects.inc()
    except Exception:
        await close_with_error(socket, HTTPError(500, "The server failed; this is not your fault."))
        raise


@contextmanager
def _session_slot(service: Service) -> Iterator[None]:
    """Count a session as open. Raises HTTPError (503) where as many are open as the limits allow."""
    if service.open_streams >= service.limits.streams:
        raise HTTPError(
            503,
            f"The server has {service.open_streams} sessions open, as many as it takes; try again shortly.",
        )
    service.open_streams += 1
    service.metrics.streams.inc()
    try:
        yield
    finally:
        service.open_streams -= 1
        service.metrics.streams.dec()


async def close_with_error(socket: WebSocket, error: HTTPError) -> None:
    """Send an error and close a WebSocket, with code 1008 (policy violation), 1011 (internal error) or 1013
    (try again later).
    """
    with suppress(WebSocketDisconnect, RuntimeError):  # the client may have disconnected
        await socket.send_json(error_body(error.status_code, str(error.detail)))
        await socket.close({500: 1011, 503: 1013}.get(error.status_code, 1008))
