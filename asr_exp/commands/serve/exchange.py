"""One HTTP request and its response, tracked while they are received and sent."""

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from asr_exp.commands.serve.limits import HTTPError, ServeLimits

IDLE_TIMEOUT = 10.0  # seconds a client may send nothing in the middle of a request
DRAIN_TIMEOUT = 5.0  # seconds for reading the rest of a refused body, so that its client gets to the response
FORM_OVERHEAD = 64 * 1024  # bytes of a body beside the recording: the fields of a form, the braces of JSON
MAX_LARGEST = 32  # recordings of the largest size whose bytes may be in flight at once


@dataclass
class InFlight:
    """What all requests to a server hold together. requests: those that bring a recording and are not
    answered yet. bytes: received of all requests that are not answered yet.
    """

    requests: int = 0
    bytes: int = 0


class RequestBody:
    """The body of a request, measured while it is received.

    declared_bytes: its length by the header Content-Length, 0 where that is missing. max_bytes: the length it
    may have. received_bytes: its length so far. complete: whether all of it has come, or its client has
    disconnected.
    """

    def __init__(self, limits: ServeLimits, in_flight: InFlight, scope: Scope, receive: Receive):
        self._limits = limits
        self._in_flight = in_flight
        self._receive = receive
        headers = HTTPConnection(scope).headers
        length = headers.get("content-length", "")
        is_base64 = "json" in headers.get("content-type", "")
        self.declared_bytes = int(length) if length.isdecimal() else 0
        self.max_bytes = limits.max_bytes * (4 if is_base64 else 3) // 3 + FORM_OVERHEAD
        self.received_bytes = 0
        self.disconnected = False
        self.complete = not self.declared_bytes and "transfer-encoding" not in headers
        # a client that waits for "100 Continue" sends nothing of a body that is refused
        self._expects_continue = "100-continue" in headers.get("expect", "").lower()

    async def receive(self) -> Message:
        """The next ASGI message. Raises HTTPError where the client sends too slowly (408) or too much (413),
        and where all clients together do (503).
        """
        if self.complete:
            message = await self._receive()
            self.disconnected = message["type"] == "http.disconnect"
            return message
        try:
            async with asyncio.timeout(IDLE_TIMEOUT):
                message = await self._receive()
        except TimeoutError:
            raise HTTPError(408, f"Nothing was sent for {IDLE_TIMEOUT:g} s.") from None
        self._expects_continue = False
        self.disconnected = message["type"] == "http.disconnect"
        self.complete = self.disconnected or not message.get("more_body")
        size = len(message.get("body", b""))
        self.received_bytes += size
        self._in_flight.bytes += size
        if self.received_bytes > self.max_bytes:
            raise self.too_large()
        if self._in_flight.bytes > MAX_LARGEST * self._limits.max_bytes:
            raise HTTPError(
                503, "The server is being sent more than it can hold at once; try again shortly.", 2
            )
        return message

    def too_large(self) -> HTTPError:
        """The error for a body of more than `max_bytes`."""
        megabytes = self._limits.max_bytes / 2**20
        return HTTPError(
            413,
            f"The recording is larger than the {megabytes:g} MB this server takes; send a shorter or"
            " compressed one.",
        )

    async def drain(self) -> None:
        """Receive the rest of the body and drop it, for `DRAIN_TIMEOUT` seconds at the most.

        A client that is still sending when the connection is closed sees a broken connection instead of the
        response.
        """
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while not self.complete and not self._expects_continue:
                    message = await self._receive()
                    self.complete = message["type"] == "http.disconnect" or not message.get("more_body")
        except TimeoutError:
            pass


class TrackedResponse:
    """The response to a request, tracked while it is sent.

    status: its HTTP status, 0 before it begins. complete: whether all of it was sent to a client that was
    still connected.
    """

    def __init__(self, body: RequestBody, send: Send, headers: list[tuple[bytes, bytes]]):
        self._body = body
        self._send = send
        self._headers = headers
        self.status = 0
        self.complete = False

    async def send(self, message: Message) -> None:
        """Send an ASGI message. Before the first one, the rest of the request's body is drained."""
        if message["type"] == "http.response.start":
            await self._body.drain()
            self.status = message["status"]
            close: list[Any] = [] if self._body.complete else [(b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", []), *self._headers, *close]}
        await self._send(message)
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        self.complete |= is_last and not self._body.disconnected
