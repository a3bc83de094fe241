"""The process around the application: the address, the signals, and connections on which no request comes."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from asr_exp.commands.serve.middleware import IDLE
from asr_exp.commands.serve.stream import FRAME_BYTES
from asr_exp.core.errors import UserError

# seconds for what is under way when the server is asked to stop; the batch at hand has one more
LAST_WORDS = 4
BACKLOG = 1024  # connections not yet taken


def bound(host: str, port: int) -> socket.socket:
    """A socket that has its address; nobody is let in yet. port: 0 for any that is free. Raises UserError
    where it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as why:
        reason = why.strerror or str(why)
        at = f"serve.host={host} serve.port={port}"
        raise UserError(
            f"{at} cannot be had ({reason}); give another port, or serve.port=0 for any that is free."
        ) from None
    return found


def url(at: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = at.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(at: socket.socket) -> None:
    """Take connections from now on. Raises UserError where another server has come first."""
    try:
        at.listen(BACKLOG)
    except OSError as why:
        raise UserError(
            f"{url(at)} is taken ({why.strerror}); give another serve.port, or serve.port=0 for any."
        ) from None


def serve(app: FastAPI, at: socket.socket) -> tuple[int, int]:
    """Answer until a signal comes, and what is under way then -> the signal, and how many had no answer in
    time.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what senders do wrong is theirs to hear
    server = Server(
        uvicorn.Config(
            app,
            http=Http,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=LAST_WORDS,
            ws_max_size=FRAME_BYTES,
            proxy_headers=False,
        )
    )
    server.run(sockets=[at])
    return server.asked, server.cut


class Server(uvicorn.Server):
    """uvicorn's, which leaves at the first signal, at once at the second, and says which it was. asked: 0 for
    none; cut: requests that had no answer."""

    asked = cut = 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.cut = len(self.server_state.tasks)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self.asked = self.asked or sig


class Http(H11Protocol):
    """uvicorn's, which closes a connection that brings no whole head of a request for a while."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        self._wait_for_head()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._calm()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def _calm(self) -> None:
        if self._patience:
            self._patience.cancel()

    def _wait_for_head(self) -> None:
        self._calm()
        self._patience = self.loop.call_later(IDLE, self._close_if_headless)

    def _close_if_headless(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()
