"""Listening socket and uvicorn, shared by the prediction server and the review page."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tagger.errors import UsageError

HEAD_SECONDS = 20
"""Maximum time to receive the headers, or the rest of a body whose request was refused."""
KEEP_ALIVE_SECONDS = 75
DRAIN_SECONDS = 60
"""Maximum time to finish requests in progress when the server ends."""
BACKLOG = 2048


def run(app: FastAPI, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are answered before it returns."""
    server = uvicorn.Server(uvicorn.Config(app, **_SETTINGS))

    def end(number: int, frame: object) -> None:
        server.should_exit = True

    for each in (signal.SIGTERM, signal.SIGINT):  # uvicorn handles them while it runs, and raises them again then
        signal.signal(each, end)
    on_start()
    server.run(sockets=[listener])


class _Protocol(H11Protocol):
    """HTTP/1.1 with a timeout for the headers, and for the rest of a body after an early response."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Receive a piece of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Continue with the next request, or discard the rest of the body."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            self._stop()
        elif not self._deadline:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


_SETTINGS: dict[str, Any] = {
    "http": _Protocol,
    "ws": "none",
    "lifespan": "on",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_keep_alive": KEEP_ALIVE_SECONDS,
    "timeout_graceful_shutdown": DRAIN_SECONDS,
    "backlog": BACKLOG,
}
"""Settings of uvicorn."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises UsageError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)  # asyncio sets TCP_NODELAY only where the protocol is known
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
