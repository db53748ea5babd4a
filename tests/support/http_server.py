"""Serves HTTP in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from threading import Thread
from typing import Final, TypeVar

Server = TypeVar("Server", bound=HTTPServer)

POLL_S: Final = 0.01
"""How long, in seconds, a server may take to notice that it is to end: half a second by default, for each test."""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Let a server answer requests during a block, and close it."""
    with server:
        Thread(target=server.serve_forever, args=(POLL_S,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
