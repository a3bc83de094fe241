"""The outermost layer of the application: it checks every request's origin, token, size and duration, counts
it, and answers it whatever happens.
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
from starlette.types import ASGIApp, Receive, Scope, Send

from asr_exp.commands.serve.exchange import InFlight, RequestBody, TrackedResponse
from asr_exp.commands.serve.limits import HTTPError, ServeLimits, error_response
from asr_exp.commands.serve.metrics import Metrics

PUBLIC_PATHS = ("/", "/healthz")  # need no token, nor does anything below /page/
# paths that have a label of their own in the metrics
COUNTED_PATHS = (*PUBLIC_PATHS, "/predict", "/v1/audio/transcriptions", "/v1/models", "/metrics")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")  # names of this machine in a Host header
TOKEN_NEEDED = "This server wants its token: send the header 'Authorization: Bearer TOKEN'."

R = TypeVar("R")


class RequestLimits:
    """ASGI middleware that enforces limits and the token.

    Args:
        app: the application that it stands in front of.
        limits: see `ServeLimits`.
        token: the token that requests must carry; None where they need none.
        metrics: where requests are counted.
        headers: sent with every response.
        local_only: whether requests must name this machine in their Host header.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: ServeLimits,
        token: str | None,
        metrics: Metrics,
        headers: Mapping[str, str],
        local_only: bool,
    ):
        self.app = app
        self.limits = limits
        self.token = token
        self.metrics = metrics
        self.local_only = local_only
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                self._check_head(scope)
            except HTTPError as error:
                return await error_response(error)(scope, receive, send)
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        body = RequestBody(self.limits, self.in_flight, scope, receive)
        response = TrackedResponse(body, send, self.headers)
        try:
            self._check(scope, body)
            with self._slot(scope):
                async with asyncio.timeout(self.limits.timeout):
                    await self.app(scope, body.receive, response.send)
        except HTTPError as error:
            await error_response(error)(scope, receive, response.send)
        except TimeoutError:
            if response.status:
                raise
            await error_response(self._timeout_error(body))(scope, receive, response.send)
        except asyncio.CancelledError:  # the server is stopping, and its grace period is over
            if not response.status:
                await error_response(HTTPError(503, "The server is stopping.", 5))(scope, receive, send)
        finally:
            disconnected = body.disconnected and not response.complete
            self.metrics.disconnects.inc(disconnected)
            self.in_flight.bytes -= body.received_bytes
            path = _path_label(scope)
            self.metrics.requests.labels(path, "gone" if disconnected else response.status).inc()
            self.metrics.latency.labels(path).observe(time.perf_counter() - start)

    def _check(self, scope: Scope, body: RequestBody) -> None:
        """Raises HTTPError for a request whose head alone shows that it is refused."""
        self._check_head(scope)
        path = scope["path"]
        public = path in PUBLIC_PATHS or path.startswith("/page/")
        if not public and not is_authorised(self.token, HTTPConnection(scope)):
            raise HTTPError(401, TOKEN_NEEDED)
        if body.declared_bytes > body.max_bytes:
            raise body.too_large()

    def _check_head(self, scope: Scope) -> None:
        """Raises HTTPError for a request that a page of another site makes a browser send (403), also where
        the page's own host name resolves to this machine (421), and for a WebSocket with a wrong token (401).
        """
        connection = HTTPConnection(scope)
        headers = connection.headers
        is_stream = scope["type"] == "websocket"
        host = headers.get("host", "")
        if self.local_only and re.sub(r":\d*$", "", host.lower()) not in LOCAL_HOSTS:
            raise HTTPError(
                421,
                "This server answers to the names 127.0.0.1 and localhost; with serve.token=WORD it answers"
                " to any.",
            )
        if (is_stream or scope["method"] == "POST") and _is_cross_site(connection):
            raise HTTPError(
                403,
                "A page of another site may not use this server. A proxy before it has to pass the header"
                " Host on.",
            )
        has_bearer = headers.get("authorization", "").lower().startswith("bearer ")
        if is_stream and has_bearer and not is_authorised(self.token, connection):
            raise HTTPError(401, TOKEN_NEEDED)

    @contextmanager
    def _slot(self, scope: Scope) -> Iterator[None]:
        """Count a request that brings a recording as in flight. Raises HTTPError (503) where there are as
        many as the limits allow.
        """
        if scope["method"] != "POST":
            yield
            return
        if self.in_flight.requests >= self.limits.queue:
            raise HTTPError(
                503,
                f"The server has {self.limits.queue} recordings under way, as many as it takes; try again"
                " shortly.",
                1,
            )
        self.in_flight.requests += 1
        self.metrics.in_flight.set(self.in_flight.requests)
        try:
            yield
        finally:
            self.in_flight.requests -= 1
            self.metrics.in_flight.set(self.in_flight.requests)

    def _timeout_error(self, body: RequestBody) -> HTTPError:
        seconds = f"{self.limits.timeout:g} s"
        if body.complete:
            return HTTPError(
                503, f"The recording was not recognised within {seconds}; the server is busy.", 5
            )
        return HTTPError(408, f"The request was not sent within {seconds}.")


def _is_cross_site(connection: HTTPConnection) -> bool:
    """Whether a browser sent this request for a page of another site."""
    headers = connection.headers
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") == "cross-site":
        return True
    try:
        return bool(origin) and urlsplit(origin).netloc != headers.get("host", "")
    except ValueError:  # an origin that is no URL
        return True


def _path_label(scope: Scope) -> str:
    """The path of a request as the metrics have it: few labels, whatever clients send."""
    if route := scope.get("route"):
        return route.path
    return scope["path"] if scope["path"] in COUNTED_PATHS else "other"


def is_authorised(token: str | None, connection: HTTPConnection, offered: str = "") -> bool:
    """Whether a client has the token: `offered`, or else the bearer token of its header Authorization.

    True for everyone where `token` is None.
    """
    scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    return token is None or hmac.compare_digest(
        (offered or bearer).encode("utf-8", "surrogatepass"), token.encode()
    )


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Await `work`, and cancel it when the client disconnects. The request's body must have been read.

    Raises ClientDisconnect when the client disconnects first.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)
