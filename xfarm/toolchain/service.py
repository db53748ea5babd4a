"""What both of our plugins have in common: they serve one gRPC service to the engine and end when told to."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE_LIMIT = 400 * 1024 * 1024
"""Bytes in one message: the limit of the engine itself (`rpcutil.GrpcChannelOptions` in pulumi/sdk)."""

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
]

_THREADS = 64
"""Requests served at once; each mostly waits for somebody else. The engine's own limit is its `--parallel`."""


def _nothing() -> None:
    """Do nothing."""


def end_at_once_when_told(before: Callable[[], None] = _nothing, unless: Callable[[], None] = _nothing) -> None:
    """On SIGINT, SIGTERM or the engine's own death end the process at once, after calling `before`.

    The engine interrupts its plugins when it is done with them, and waits 5 s for one that lingers. Should it die
    first, the pipe that it holds as our standard input closes; that counts once `unless` has returned.
    """

    def end(*_: object) -> None:
        try:
            before()
        finally:
            os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    threading.Thread(target=lambda: end(sys.stdin.read(), unless()), daemon=True).start()


def serve(register: Callable[[grpc.Server], None]) -> None:
    """Serve what `register` adds to the server, on a free port that the engine is told, until told to end.

    The port comes first: who calls before all is ready has to wait, and can do other things before that.
    """
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS), options=CHANNEL_OPTIONS)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    register(server)
    server.start()
    server.wait_for_termination()
