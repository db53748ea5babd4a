"""The engines that are attached to a server, and the AWS plugin as a server for all engines of a checkout.

Starting a plugin is most of the work of a preview, because the bridge loads the schema of the whole provider. So the
plugin goes on running beside the AWS emulator, for the commands to come, and so does the language host.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2
from typing_extensions import override

from xfarm.file_locks import acquire
from xfarm.toolchain import service
from xfarm.toolchain.proxy import Bridge, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

IDLE_S: Final = 600
"""How long a server goes on running unused, in seconds. The plugin occupies 0.5 GB of memory, the host 0.1 GB."""

_CONNECT_S: Final = 5
"""How long an engine may take to accept a connection on a very busy machine, in seconds."""


class Engines(engine_pb2_grpc.EngineServicer):
    """The attached engines, which the bridge sees as one engine."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}
        self._address: dict[str, str] = {}
        self._number = 0
        self._lock = Lock()

    def serve(self) -> str:
        """Serve the bridges as the one engine, and return the address."""
        server = grpc.server(ThreadPoolExecutor(), options=service.CHANNEL_OPTIONS)
        engine_pb2_grpc.add_EngineServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    def attach(self, peer: str, address: str) -> None:
        """Remember an engine.

        Args:
            peer: The address that its calls come from.
            address: The address that it serves at.
        """
        with self._lock:
            self._number += 1
            self._address[peer] = address
            if address not in self._channels:
                self._channels[address] = grpc.insecure_channel(address)

    def remember_stack(self, urn: str, peer: str) -> None:
        """Remember that the engine at `peer` works on the stack of `urn`."""
        with self._lock:
            self._address[_stack(urn)] = self._address.get(peer, "")

    def address(self, peer: str) -> str:
        """Return the address that the engine serves at whose calls come from `peer`."""
        return self._address[peer]

    def runs(self, peer: str) -> bool:
        """Return whether the engine still runs whose calls come from `peer`."""
        return peer in self._address and _accepts_connections(self._address[peer])

    def any_runs(self) -> bool:
        """Return whether any engine still runs; forget those that have ended."""
        ended = {address for address in list(self._channels) if not _accepts_connections(address)}
        with self._lock:
            self._address = {key: address for key, address in self._address.items() if address not in ended}
            for address in ended:
                self._channels.pop(address).close()
            return bool(self._channels)

    def log(self, peer: str, message: str, *, error: bool = False) -> None:
        """Show a message in the engine whose calls come from `peer`, unless it has ended."""
        severity = engine_pb2.ERROR if error else engine_pb2.INFO
        if channel := self._channels.get(self._address.get(peer, "")):
            _log(channel, engine_pb2.LogRequest(severity=severity, message=message))

    @override
    def Log(self, request: engine_pb2.LogRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Forward a message of the bridge to the engine of the stack in its URN, or to all engines if it has none."""
        channels = dict(self._channels)
        address = self._address.get(_stack(request.urn))
        for channel in [channels[address]] if address in channels else channels.values():
            _log(channel, request)
        return empty_pb2.Empty()

    def wait_until_unused(self, users: Path) -> None:
        """Wait until no engine has been attached for `IDLE_S`, and no process has the file of users locked."""
        self._users = users.open()  # and locked until this process has ended, so that no command finds it
        while True:
            number = self._number
            time.sleep(IDLE_S)
            if number == self._number and not self.any_runs() and acquire(self._users):
                return


def _accepts_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def _log(channel: grpc.Channel, request: engine_pb2.LogRequest) -> None:
    with suppress(grpc.RpcError, ValueError):  # the engine has just ended, or its channel was closed
        engine_pb2_grpc.EngineStub(channel).Log(request)


def _stack(urn: str) -> str:
    """Return the part of a URN that names stack and project: `urn:pulumi:dev::storage`."""
    return "::".join(urn.split("::")[:2])


class SharedProxy(Proxy):
    """A plugin that several engines attach to."""

    def __init__(
        self, engines: Engines, start: Callable[[], Bridge], zips: Path, types: Collection[str], projects: Path
    ) -> None:
        super().__init__(start, zips, types)
        self._engines = engines
        self._projects = projects

    @override
    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        if method == "Attach":
            self._engines.attach(context.peer(), plugin_pb2.PluginAttach.FromString(request).address)
        return super().answer(method, request, context)

    @override
    def in_use(self, peer: str) -> bool:
        return self._engines.runs(peer)

    @override
    def folder(self, urn: str, peer: str) -> Path:
        self._engines.remember_stack(urn, peer)
        return self._projects / urn.split("::")[1] if urn else self._projects
