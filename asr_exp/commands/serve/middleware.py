"""Every request on its way in and out: how many, how large, how slow, and by whom; counted, and answered
whatever happens.
"""

import asyncio
import hmac
import re
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi.requests import HTTPConnection
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr_exp.commands.serve.limits import HTTPError, ServeLimits, error_response
from asr_exp.commands.serve.metrics import Metrics

IDLE = 10.0  # seconds a sender may say nothing
LINGER = 5.0  # seconds in which the rest of a refused body is read, so that its sender comes to read why
ENVELOPE = 64 * 1024  # bytes of a body beside the recording: the form's fields, JSON's braces
HELD = 32  # recordings of the largest size that may be under way at once, in bytes
OPEN = ("/", "/healthz")  # paths that ask for no token, as does what is below /page
# paths that are counted by their name
KNOWN = (*OPEN, "/predict", "/v1/audio/transcriptions", "/v1/models", "/metrics")
LOCAL = ("127.0.0.1", "localhost", "[::1]")  # what this machine is called on itself
WANTED = "This server wants its token: send the header 'Authorization: Bearer TOKEN'."

R = TypeVar("R")


class RequestLimits:
    """The outermost part of the application (ASGI). token: what requests must bear, if anything; local:
    whether it answers to the names of this machine alone."""

    def __init__(
        self,
        app: ASGIApp,
        limits: ServeLimits,
        token: str | None,
        metrics: Metrics,
        headers: Mapping[str, str],
        local: bool,
    ):
        self.app = app
        self.limits = limits
        self.token = token
        self.metrics = metrics
        self.local = local
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.under_way = 0
        self.bytes_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                self._check_head(scope)
            except HTTPError as why:
                return await error_response(why)(scope, receive, send)
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, body = time.perf_counter(), Body(self, scope, receive)
        answer = Answer(body, send, self.headers)
        try:
            self._check(scope, body)
            with self._place(scope):
                async with asyncio.timeout(self.limits.timeout):
                    await self.app(scope, body.receive, answer.send)
        except HTTPError as why:
            await error_response(why)(scope, receive, answer.send)
        except TimeoutError:
            if answer.status:
                raise
            late = HTTPError(
                503,
                f"The recording was not recognised within {self.limits.timeout:g} s; the server is busy.",
                5,
            )
            slow = HTTPError(408, f"The request was not sent within {self.limits.timeout:g} s.")
            await error_response(late if body.whole else slow)(scope, receive, answer.send)
        except asyncio.CancelledError:  # the server has been asked to stop, and waits no longer
            if not answer.status:
                await error_response(HTTPError(503, "The server is stopping.", 5))(scope, receive, send)
        finally:
            gone = body.gone and not answer.complete
            self.metrics.vanished.inc(gone)
            self.bytes_held -= body.size
            path = (
                route.path
                if (route := scope.get("route"))
                else scope["path"]
                if scope["path"] in KNOWN
                else "other"
            )
            self.metrics.requests.labels(path, "gone" if gone else answer.status).inc()
            self.metrics.latency.labels(path).observe(time.perf_counter() - begun)

    def _check(self, scope: Scope, body: "Body") -> None:
        self._check_head(scope)
        path = scope["path"]
        if (
            path not in OPEN
            and not path.startswith("/page/")
            and not is_authorised(self.token, HTTPConnection(scope))
        ):
            raise HTTPError(401, WANTED)
        if body.promised > body.most:
            raise body.too_large()

    def _check_head(self, scope: Scope) -> None:
        """Raises Refused for what a page of another site has its reader's browser send (403), also by a name
        of that site which leads here (421), and for a stream with another token than the server's (401)."""
        connection = HTTPConnection(scope)
        headers, stream = connection.headers, scope["type"] == "websocket"
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and re.sub(r":\d*$", "", host.lower()) not in LOCAL:
            raise HTTPError(
                421,
                "This server answers to the names 127.0.0.1 and localhost; with serve.token=WORD it answers"
                " to any.",
            )
        try:
            foreign = bool(origin) and urlsplit(origin).netloc != host
        except ValueError:
            foreign = True
        if (stream or scope["method"] == "POST") and (
            foreign or headers.get("sec-fetch-site") == "cross-site"
        ):
            raise HTTPError(
                403,
                "A page of another site may not use this server. A proxy before it has to pass the header"
                " Host on.",
            )
        if (
            stream
            and headers.get("authorization", "").lower().startswith("bearer ")
            and not is_authorised(self.token, connection)
        ):
            raise HTTPError(401, WANTED)

    @contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """A place among the requests under way, for one that brings a recording. Raises Refused (503) where
        all are taken.
        """
        if scope["method"] != "POST":
            yield
            return
        if self.under_way >= self.limits.queue:
            raise HTTPError(
                503,
                f"The server has {self.limits.queue} recordings under way, as many as it takes; try again"
                " shortly.",
                1,
            )
        self.under_way += 1
        self.metrics.under_way.set(self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1
            self.metrics.under_way.set(self.under_way)


class Body:
    """The body of a request, measured while it is read. promised: what its header says; most: bytes it may
    have.

    whole: whether all of it has come, or its sender is gone.
    """

    def __init__(self, intake: RequestLimits, scope: Scope, receive: Receive):
        self._intake, self._receive = intake, receive
        headers = HTTPConnection(scope).headers
        length = headers.get("content-length", "")
        self.promised = int(length) if length.isdecimal() else 0
        in_base64 = "json" in headers.get("content-type", "")
        self.most = intake.limits.max_bytes * (4 if in_base64 else 3) // 3 + ENVELOPE
        self.size, self.gone = 0, False
        self.whole = not self.promised and "transfer-encoding" not in headers
        self._asks_first = "100-continue" in headers.get("expect", "").lower()

    async def receive(self) -> Message:
        """The next part. Raises Refused where the sender is too slow (408) or sends too much (413, 503)."""
        if self.whole:
            message = await self._receive()
            self.gone = message["type"] == "http.disconnect"
            return message
        try:
            async with asyncio.timeout(IDLE):
                message = await self._receive()
        except TimeoutError:
            raise HTTPError(408, f"Nothing was sent for {IDLE:g} s.") from None
        self._asks_first = False
        self.gone = message["type"] == "http.disconnect"
        self.whole = self.gone or not message.get("more_body")
        size = len(message.get("body", b""))
        self.size += size
        self._intake.bytes_held += size
        if self.size > self.most:
            raise self.too_large()
        if self._intake.bytes_held > HELD * self._intake.limits.max_bytes:
            raise HTTPError(
                503, "The server is being sent more than it can hold at once; try again shortly.", 2
            )
        return message

    def too_large(self) -> HTTPError:
        megabytes = self._intake.limits.max_bytes / 2**20
        return HTTPError(
            413,
            f"The recording is larger than the {megabytes:g} MB this server takes; send a shorter or"
            " compressed one.",
        )

    async def drain(self) -> None:
        """Read the rest and forget it, for a moment: who is still sending would otherwise see a broken
        connection, and no answer.
        """
        try:
            async with asyncio.timeout(LINGER):
                while not self.whole and not self._asks_first:
                    message = await self._receive()
                    self.whole = message["type"] == "http.disconnect" or not message.get("more_body")
        except TimeoutError:
            pass


class Answer:
    """What goes back. status: 0 until it has begun; complete: whether all of it went to someone."""

    def __init__(self, body: Body, send: Send, headers: list[tuple[bytes, bytes]]):
        self._body = body
        self._send = send
        self._headers = headers
        self.status, self.complete = 0, False

    async def send(self, message: Message) -> None:
        """Pass a message on; before the first, what is left of the request is read."""
        if message["type"] == "http.response.start":
            await self._body.drain()
            self.status = message["status"]
            more: list[Any] = [] if self._body.whole else [(b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", []), *self._headers, *more]}
        await self._send(message)
        self.complete |= (
            message["type"] == "http.response.body" and not message.get("more_body") and not self._body.gone
        )


def is_authorised(token: str | None, connection: HTTPConnection, given: str = "") -> bool:
    """Whether a request bears the token, in its header or as given otherwise; or none is asked for."""
    scheme, _, borne = connection.headers.get("authorization", "").partition(" ")
    borne = borne.strip() if scheme.lower() == "bearer" else ""
    return token is None or hmac.compare_digest(
        (given or borne).encode("utf-8", "surrogatepass"), token.encode()
    )


async def while_there(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """What the work gives; it is cancelled when the client goes away (its request has been read). Raises
    ClientDisconnect then.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
