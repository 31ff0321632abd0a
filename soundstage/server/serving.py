"""Run a server in this process: listen, answer, and end in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from soundstage.errors import RequestError
from soundstage.server.connections import HEAD_BYTES, TimedProtocol

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 2048  # connections that wait to be taken
END_S = 10  # for answers under way when the server ends
KEEP_ALIVE_S = 30
MAX_CONNECTIONS = 4000  # at once; more get 503


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises RequestError where that cannot be; port 0 is any that is free."""
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on, and each answer on an open connection takes 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((name, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        told = getattr(error, "strerror", None) or error
        raise RequestError(
            f"the server cannot listen on {host} port {port} ({told}); give another --port or --host"
        ) from None
    return listening


def address_of(host: str, listening: socket.socket) -> str:
    """Return the address that a browser opens."""
    port = listening.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name and not name.startswith('[') else name}:{port}"


class Serving(uvicorn.Server):
    """Serves an app until a signal comes.

    drain: called once then, in a thread, while the server answers on. hurry: called at a second signal.
    """

    def __init__(self, app: FastAPI, drain: Callable[[], object], hurry: Callable[[], object]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=END_S,
                ws="none",
                http=TimedProtocol,
                h11_max_incomplete_event_size=HEAD_BYTES,
                limit_concurrency=MAX_CONNECTIONS,
            )
        )
        self._drain, self._hurry = drain, hurry
        self._asked = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals while the server runs; afterwards they are as before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at once at the second."""
        if self._asked.is_set():
            self.should_exit = self.force_exit = True
            self._hurry()
            return
        self.ask_to_end()

    def ask_to_end(self) -> None:
        """Drain in a thread, then end. Any thread may call it."""
        self._asked.set()
        threading.Thread(target=self._end, name="drain", daemon=True).start()

    def _end(self) -> None:
        try:
            self._drain()
        finally:
            self.should_exit = True

    def serve_on(self, listening: socket.socket) -> None:
        """Serve on a socket until the end."""
        asyncio.run(self.serve(sockets=[listening]))
