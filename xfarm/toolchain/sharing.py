"""One AWS plugin for all engines of a command, which attach to it instead of each starting its own.

Starting a plugin is most of the work of a preview, because the bridge loads the schema of the whole provider.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Condition
from typing import TYPE_CHECKING

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2
from typing_extensions import override

from xfarm.toolchain import service
from xfarm.toolchain.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path


class Engines(engine_pb2_grpc.EngineServicer):
    """The attached engines, which the bridge sees as one engine."""

    def __init__(self) -> None:
        self._attached: dict[str, grpc.Channel] = {}
        self._address: dict[str, str] = {}
        self._changed = Condition()

    def attach(self, peer: str, address: str) -> None:
        """Connect to an engine, and forget it when the connection is lost.

        Args:
            peer: The address that its calls come from.
            address: The address that it serves at.
        """
        channel = grpc.insecure_channel(address)
        connected = False

        def changed(state: grpc.ChannelConnectivity) -> None:
            nonlocal connected
            lost = connected and state is not grpc.ChannelConnectivity.READY
            connected = state is grpc.ChannelConnectivity.READY
            if lost or state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                with self._changed:
                    self._attached.pop(address, None)
                    self._changed.notify_all()

        with self._changed:
            self._address[peer] = address
            if address in self._attached:
                return
            self._attached[address] = channel
        channel.subscribe(changed, try_to_connect=True)

    def remember_stack(self, urn: str, peer: str) -> None:
        """Remember that the engine at `peer` works on the stack of `urn`."""
        self._address[_stack(urn)] = self._address.get(peer, "")

    def wait_until_all_ended(self) -> None:
        """Wait until no engine is attached."""
        with self._changed:
            self._changed.wait_for(lambda: not self._attached)

    @override
    def Log(self, request: engine_pb2.LogRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Forward a message of the bridge to the engine of the stack in its URN, or to all engines if it has none."""
        attached = dict(self._attached)
        address = self._address.get(_stack(request.urn))
        for channel in [attached[address]] if address in attached else attached.values():
            with suppress(grpc.RpcError):  # the engine has just ended
                engine_pb2_grpc.EngineStub(channel).Log(request)
        return empty_pb2.Empty()


def _stack(urn: str) -> str:
    """Return the part of a URN that names stack and project: `urn:pulumi:dev::storage`."""
    return "::".join(urn.split("::")[:2])


class SharedProxy(Proxy):
    """A plugin that several engines attach to."""

    def __init__(
        self, engines: Engines, start: Callable[[], grpc.Channel], zips: Path, types: Collection[str], projects: Path
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
    def folder(self, urn: str, peer: str) -> Path:
        self._engines.remember_stack(urn, peer)
        return self._projects / urn.split("::")[1] if urn else self._projects


def shared_plugin(
    start: Callable[[str], grpc.Channel],
    zips: Path,
    types: Collection[str],
    projects: Path,
    cleanup: Callable[[], None],
) -> SharedProxy:
    """Return a plugin for several engines; the process exits when standard input is closed and all engines have ended.

    Args:
        start: Starts a bridge for the engine at an address, and opens a channel to it.
        zips: The folder for zip files of code archives.
        types: The tokens of the types and functions that a bridge includes.
        projects: The folder with the projects, each in a folder of its name.
        cleanup: Called before the exit.
    """
    engines = Engines()
    service.exit_on_request(cleanup, wait=engines.wait_until_all_ended)
    server = grpc.server(ThreadPoolExecutor(), options=service.CHANNEL_OPTIONS)
    engine_pb2_grpc.add_EngineServicer_to_server(engines, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return SharedProxy(engines, lambda: start(f"127.0.0.1:{port}"), zips, types, projects)
