"""Speech as it is spoken, over a WebSocket: partial transcripts while it comes, the whole when it ends.

What has been said in the last `WINDOW` seconds is recognised anew each time; what lies before is settled and
stays. So memory and the time of a pass are bounded, and speech shorter than the window ends in the transcript
that its file would get.
"""

import array
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from asr_exp.commands.serve.limits import HTTPError, error_body, error_response
from asr_exp.commands.serve.responses import words
from asr_exp.commands.serve.service import Service
from asr_exp.commands.serve.uploads import resampled
from asr_exp.decoding.alignment import Word
from asr_exp.inference.transcriber import Transcript

WINDOW = 15.0  # seconds
STEP = 0.4  # seconds of new speech that are worth another pass
QUIET = 30.0  # seconds a client may send nothing
FIRST = 5.0  # seconds it has for its first message
NEWCOMERS = 64  # clients that have not sent it yet, but for those whose header bears the token
RATES = (4000, 192000)
FRAME_BYTES = 2**20  # of one message


class Speech:
    """What is heard of one speaker: samples of the window, and what was said before it. rate: of the 16-bit
    mono samples.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self.pcm = bytearray()
        self.start = 0.0  # where the window begins, in seconds
        self.committed: list[str] = []
        self.words: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """All that was heard."""
        return self.start + self.held

    @property
    def held(self) -> float:
        return len(self.pcm) // 2 / self.rate

    def add(self, pcm: bytes) -> None:
        """Samples, little-endian. Raises Refused (400) for half a sample."""
        if len(pcm) % 2:
            raise HTTPError(400, "A message holds an odd number of bytes; send 16-bit samples.")
        if sys.byteorder == "big":
            swapped = array.array("h", pcm)
            swapped.byteswap()
            pcm = swapped.tobytes()
        self.pcm += pcm

    def cut(self, spoken: list[Word]) -> float:
        """Where to part the window, in seconds from its start: in the longest pause within its middle
        third.
        """
        first, last = self.held / 3, self.held * 2 / 3
        edges = [first, *(edge for word in spoken for edge in (word.start, word.end)), last]
        pauses = [
            (max(left, first), min(right, last)) for left, right in zip(edges[::2], edges[1::2], strict=True)
        ]
        left, right = max(pauses, key=lambda pause: pause[1] - pause[0])
        return (left + right) / 2 if right > left else self.held / 2

    def commit(self, seconds: float, transcript: Transcript) -> None:
        """Take the window's first seconds for said, and forget their samples."""
        self.committed += [transcript.text] if transcript.text else []
        self.words += words(transcript, self.start)
        samples = round(seconds * self.rate)
        del self.pcm[: 2 * samples]
        self.start += samples / self.rate

    def as_message(self, transcript: Transcript, final: bool) -> dict[str, Any]:
        """What is sent: all text so far, and its words with times since the beginning."""
        text = " ".join([*self.committed, transcript.text]).strip()
        return {
            "text": text,
            "words": self.words + words(transcript, self.start),
            "seconds": round(self.seconds, 3),
            "final": final,
        }


class Listener:
    """One session: reads what the client sends, and tells what it hears."""

    def __init__(self, socket: WebSocket, service: Service, token: Any):
        self.socket = socket
        self.service = service
        self.token = token

    async def run(self, rate: int) -> None:
        """The session, from the message after the first to its last. Raises Refused for what is not served,
        WebSocketDisconnect when it is left."""
        speech = self.speech = Speech(rate)
        task: asyncio.Task | None = None
        recognised, pace = 0.0, STEP
        try:
            while (pcm := await self._next()) is not None:
                speech.add(pcm)
                if speech.seconds > self.service.limits.max_seconds:
                    break
                # behind: let no more come in before this is done
                if task and (task.done() or speech.held > 2 * WINDOW):
                    pace = max(STEP, await task)
                    task = None
                if not task and speech.seconds - recognised >= pace:
                    recognised = speech.seconds
                    task = asyncio.create_task(self._partial())
            if task:
                await task
            task = None
            while speech.held > WINDOW * 1.5:
                await self._shorten(await self._heard(speech.held))
            await self.socket.send_json(speech.as_message(await self._heard(speech.held), True))
        finally:
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if speech.seconds > self.service.limits.max_seconds:
            raise HTTPError(
                413,
                f"The session has come to the {self.service.limits.max_seconds:g} s that this server takes.",
            )

    async def rate(self) -> int:
        """The first message: {"rate": 16000}, with the token where one is asked for and no header
        bears it.
        """
        try:
            first = json.loads((await self._message(FIRST)).get("text") or "")
            rate, given = int(first["rate"]), str(first.get("token") or "")
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            raise HTTPError(
                400,
                'The first message is to be JSON text: {"rate": 16000}, the samples per second that follow.',
            ) from None
        if not self.token(self.socket, given):
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

    async def _next(self) -> bytes | None:
        """The samples of the next message; None where it says that this is the end."""
        message = await self._message(QUIET)
        if (pcm := message.get("bytes")) is not None:
            return pcm
        try:
            told = json.loads(message.get("text") or "")
            if isinstance(told, dict) and "end" in told:
                return None
        except (ValueError, RecursionError):
            pass
        raise HTTPError(400, 'A message is to be 16-bit samples (binary) or the text {"end": true}.')

    async def _message(self, patience: float) -> Any:
        """The next message that is not empty. Raises Refused (408) where none comes for so many seconds."""
        try:
            async with asyncio.timeout(patience):
                while (message := await self.socket.receive()).get("bytes") == b"":
                    pass
        except TimeoutError:
            raise HTTPError(408, f"Nothing was sent for {patience:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message

    async def _heard(self, seconds: float) -> Transcript:
        """What is said in the window's first seconds."""
        pcm, rate = bytes(self.speech.pcm[: 2 * round(seconds * self.speech.rate)]), self.service.rate
        return await self.service.batcher.recognise(
            await self.service.aside(lambda: resampled(pcm, self.speech.rate, rate))
        )

    async def _partial(self) -> float:
        """Tell what is heard so far -> the seconds that took."""
        start = time.monotonic()
        transcript = await self._heard(self.speech.held)
        await self.socket.send_json(self.speech.as_message(transcript, False))
        if transcript.seconds > WINDOW:
            await self._shorten(transcript)
        return time.monotonic() - start

    async def _shorten(self, transcript: Transcript) -> None:
        """Settle the first part of the window, recognised by itself."""
        seconds = self.speech.cut(transcript.words)
        self.speech.commit(seconds, await self._heard(seconds))


async def serve_stream(socket: WebSocket, service: Service, token: Any) -> None:
    """A WebSocket session, whatever happens. token: (connection, token given) -> whether it may go on."""
    known = token(socket, "")
    if not known and service.newcomers >= NEWCOMERS:
        return await socket.send_denial_response(
            error_response(HTTPError(503, "Too many clients are beginning a session.", FIRST))
        )
    listener, longest = Listener(socket, service, token), 2 * service.limits.max_seconds + QUIET
    try:
        service.newcomers += not known
        try:
            await socket.accept()
            rate = await listener.rate()
        finally:
            service.newcomers -= not known
        with _place(service):
            async with asyncio.timeout(longest):
                await listener.run(rate)
        await socket.close()
    except HTTPError as why:
        await refuse(socket, why)
    except TimeoutError:
        await refuse(socket, HTTPError(408, f"The session has taken more than {longest:g} s."))
    except WebSocketDisconnect:
        service.metrics.vanished.inc()
    except Exception:
        await refuse(socket, HTTPError(500, "The server failed; this is not your fault."))
        raise


@contextmanager
def _place(service: Service) -> Iterator[None]:
    """A place among the sessions that are open. Raises Refused (503) where all are taken."""
    if service.streams >= service.limits.streams:
        raise HTTPError(
            503, f"The server has {service.streams} sessions open, as many as it takes; try again shortly."
        )
    service.streams += 1
    service.metrics.streams.inc()
    try:
        yield
    finally:
        service.streams -= 1
        service.metrics.streams.dec()


async def refuse(socket: WebSocket, why: HTTPError) -> None:
    """Say why, and close: 1008 (policy), 1011 (our failure) or 1013 (try again later)."""
    with suppress(WebSocketDisconnect, RuntimeError):  # who has gone need not be told
        await socket.send_json(error_body(why.status_code, str(why.detail)))
        await socket.close({500: 1011, 503: 1013}.get(why.status_code, 1008))
