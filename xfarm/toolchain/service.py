"""What the AWS plugin and the language host share: serving one gRPC service to the engine, and exiting on request."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_MESSAGE_BYTES: Final = 400 * 1024 * 1024
"""The engine's own limit (`rpcutil.GrpcChannelOptions` in pulumi/sdk)."""

CHANNEL_OPTIONS: Final = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]

SERVICES: Final = "XFARM_SERVICES"
"""The variable with the services of AWS that `preloaded` imports, as `pulumi_aws` names them, without underscores."""

_THREADS: Final = 64
"""How many requests are served at once. They mostly wait; the engine limits their number with `--parallel`."""


def _nothing() -> None:
    """Do nothing."""


def _parent_ends() -> None:
    """Wait until the process that started this one has ended: its standard input closes."""
    sys.stdin.read()


def exit_on_request(cleanup: Callable[[], None] = _nothing, *waits: Callable[[], None]) -> None:
    """Exit at once on SIGINT and SIGTERM, and when something has happened.

    The engine interrupts its plugins when it no longer needs them, and waits up to 5 s for each.

    Args:
        cleanup: Called before the exit.
        waits: Each waits for an event to exit after; the end of the parent, unless given.
    """

    def end(*_: object) -> None:
        try:
            cleanup()
        finally:
            os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    for wait in waits or (_parent_ends,):
        threading.Thread(target=lambda wait=wait: end(wait()), daemon=True).start()


def serve(register: Callable[[grpc.Server], None]) -> None:
    """Serve what `register` adds to the server, on a free port that is printed for the engine.

    The port is printed first, so the engine can go on; its calls wait until the server is ready.
    """
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS), options=CHANNEL_OPTIONS)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    register(server)
    server.start()
    server.wait_for_termination()
