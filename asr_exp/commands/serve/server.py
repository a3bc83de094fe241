"""The web server around the application: the address, the signals, and connections that send no request."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from asr_exp.commands.serve.exchange import IDLE_TIMEOUT
from asr_exp.commands.serve.stream import MAX_MESSAGE_BYTES
from asr_exp.core.errors import UserError

GRACE_PERIOD = 4  # seconds for requests in flight when the server is stopped; the current batch has one more
BACKLOG = 1024  # connections that the kernel queues before the server accepts them


@dataclass(frozen=True)
class Shutdown:
    """How a server stopped. signal: the number of the signal, 0 where none came. unanswered: requests that
    had no response when the grace period was over.
    """

    signal: int
    unanswered: int


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, which accepts no connections yet. port: 0 for any free one.

    Raises UserError where the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as why:
        reason = why.strerror or str(why)
        raise UserError(
            f"serve.host={host} serve.port={port} cannot be had ({reason}); give another port, or"
            " serve.port=0 for any that is free."
        ) from None
    return listener


def url(listener: socket.socket) -> str:
    """The address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(listener: socket.socket) -> None:
    """Accept connections from now on. Raises UserError where another server has the address."""
    try:
        listener.listen(BACKLOG)
    except OSError as why:
        raise UserError(
            f"{url(listener)} is taken ({why.strerror}); give another serve.port, or serve.port=0 for any."
        ) from None


def serve(app: FastAPI, listener: socket.socket) -> Shutdown:
    """Run the application until SIGINT or SIGTERM, then answer the requests in flight for `GRACE_PERIOD`
    seconds.
    """
    # it warns of every malformed form, which is the client's mistake and answered with status 400
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    server = Server(
        uvicorn.Config(
            app,
            http=IdleTimeoutProtocol,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_PERIOD,
            ws_max_size=MAX_MESSAGE_BYTES,
            proxy_headers=False,
        )
    )
    server.run(sockets=[listener])
    return Shutdown(server.stop_signal, server.unanswered)


# ------------------------------------------------------------------------------------------------------------
# What follows overrides methods of uvicorn that its documentation does not name; seen with 0.40 and 0.54.
# tests/commands/serve/test_serve.py fails where uvicorn no longer calls them: its tests of signals and of
# clients that hang.


class Server(uvicorn.Server):
    """A uvicorn server that stops at the first signal, gives up on requests in flight at the second, and
    remembers which signal it was. unanswered: see `Shutdown`.
    """

    stop_signal = 0
    unanswered = 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.unanswered = unanswered_requests(self)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own would raise the signal again at the end, which kills the process before its message
        previous = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stop_signal = self.stop_signal or sig


class IdleTimeoutProtocol(H11Protocol):
    """An HTTP connection that is closed when no complete request head arrives within `IDLE_TIMEOUT` seconds
    after it was opened, or after the last response.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_head_timer()

    def on_response_complete(self) -> None:
        self._start_head_timer()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel_head_timer()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        super().connection_lost(exc)

    def _cancel_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()

    def _start_head_timer(self) -> None:
        self._cancel_head_timer()
        self._head_timer = self.loop.call_later(IDLE_TIMEOUT, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not has_request_in_flight(self) and not self.transport.is_closing():
            self.transport.close()


def has_request_in_flight(connection: H11Protocol) -> bool:
    """Whether a connection has sent a whole request head that is not answered yet.

    Reads `cycle`, an undocumented attribute of uvicorn's connections; seen with uvicorn 0.40 and 0.54.
    Without it every connection counts as in flight: none is closed for sending nothing, so that clients which
    hang keep their sockets, but no request is cut off.
    """
    try:
        cycle = connection.cycle
        return cycle is not None and not cycle.response_complete
    except AttributeError:
        return True


def unanswered_requests(server: uvicorn.Server) -> int:
    """How many requests a server that has shut down left unanswered.

    Reads `server_state.tasks`, an undocumented attribute of uvicorn's servers; seen with uvicorn 0.40 and
    0.54. Without it the number is 0, and the last message says that all requests were answered.
    """
    state = getattr(server, "server_state", None)
    return len(getattr(state, "tasks", ()))
