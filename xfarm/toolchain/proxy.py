"""Passes the engine's calls on to the Terraform bridge, under the bridge's names."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, NoReturn, cast

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2
from typing_extensions import override

from xfarm.errors import UserError
from xfarm.toolchain import aws_types, service
from xfarm.toolchain.renaming import Call

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection

    _Handler = grpc.RpcMethodHandler[bytes, bytes]

_SERVICE: Final = provider_pb2.DESCRIPTOR.services_by_name["ResourceProvider"]
_RENAMED: Final = {"Check", "Diff", "Create", "Read", "Update", "Delete", "Invoke"}
_REFUSED: Final = {"Handshake", "Parameterize", "GetSchema", "List", "Construct", "Call"}
"""The bridge has no `Handshake`, and its responses to the others would contain its own names."""
_ANSWERED: Final = {
    "Attach": b"",
    "GetPluginInfo": plugin_pb2.PluginInfo(version=version("pulumi-aws")).SerializeToString(),
}
_NOT_IN_TERRAFORM: Final = ("unknown resource token", "unknown datasource token")
"""The bridge's errors for what its provider lacks (`pkg/pf/tfbridge/provider.go` in pulumi-terraform-bridge)."""
_DETAILS_KEY: Final = "grpc-status-details-bin"
"""The metadata key of gRPC's richer error model; the engine finds the state of a half-created resource in it."""


@dataclass(frozen=True)
class Bridge:
    """A Terraform bridge: the channel to it, and a function that kills it."""

    channel: grpc.Channel
    kill: Callable[[], None]


@dataclass(frozen=True)
class Configured:
    """A bridge with configured provider, and its response to `Configure`."""

    bridge: Bridge
    region: str
    response: bytes


class Proxy(grpc.GenericRpcHandler):
    """Serves `pulumirpc.ResourceProvider` by calling a bridge.

    Several engines may call at the same time. Engines with the same provider settings share a bridge.
    """

    def __init__(self, start: Callable[[], Bridge], zips: Path, types: Collection[str]) -> None:
        """Start the first bridge.

        Args:
            start: Starts a bridge.
            zips: The folder for zip files of code archives.
            types: The tokens of the types and functions that a bridge includes.
        """
        self._start = start
        self._zips = zips
        self._types = types
        self._starting = ThreadPoolExecutor()
        self._first = self._starting.submit(start)
        self._configured: dict[bytes, Future[Configured]] = {}
        self._by_peer: dict[str, Configured] = {}
        self._lock = Lock()

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """Return the handler of a method, or None if the plugin has no such method: gRPC responds "unimplemented"."""
        method = handler_call_details.method.rpartition("/")[2]
        if method in _REFUSED or method not in _SERVICE.methods_by_name:
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return self.answer(method, request, context)
            except UserError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        # The type in gRPC's stub is a function that takes any arguments.
        return grpc.unary_unary_rpc_method_handler(answer)  # pyrefly: ignore[bad-argument-type]

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Return the response to one call.

        Raises:
            UserError: The plugin can't do what the call asks for.
        """
        if method in _ANSWERED:
            return _ANSWERED[method]
        if method == "Configure":
            return self._configure(request, context).response
        configured = self._by_peer.get(context.peer())
        bridge = configured.bridge if configured else self._first.result()
        if method not in _RENAMED:
            return _forward(bridge.channel, method, request, context)
        types = _SERVICE.methods_by_name[method]
        message = GetMessageClass(types.input_type).FromString(request)
        folder = self.folder(getattr(message, "urn", ""), context.peer())
        call = Call(method, message, self._zips, configured.region if configured else "", folder)
        aws_types.require_known(call.token, self._types)
        response = GetMessageClass(types.output_type).FromString(
            _forward(bridge.channel, method, message.SerializeToString(), context, call)
        )
        call.rename_response(response)
        return response.SerializeToString()

    def folder(self, urn: str, peer: str) -> Path:  # noqa: ARG002 - for the subclass
        """Return the folder of the project that `urn` belongs to: the working directory that the engine has set."""
        return Path()

    def _configure(self, request: bytes, context: grpc.ServicerContext) -> Configured:
        settings = provider_pb2.ConfigureRequest.FromString(request)
        for name in ("id", "name", "type", "urn"):  # differ from engine to engine
            settings.ClearField(name)
        key = settings.SerializeToString(deterministic=True)

        def configure(bridge: Future[Bridge]) -> Configured:
            response = bridge.result().channel.unary_unary(f"/{_SERVICE.full_name}/Configure")(request)
            return Configured(bridge.result(), _region(settings), response)

        with self._lock:
            if key not in self._configured:
                self._kill_unused()
                bridge = self._starting.submit(self._start) if self._configured else self._first
                self._configured[key] = self._starting.submit(configure, bridge)
        configuring = self._configured[key]
        try:
            configured = self._by_peer[context.peer()] = configuring.result()
        except grpc.RpcError as error:
            with self._lock:
                if self._configured.get(key) is configuring:
                    del self._configured[key]  # for the next engine, it may succeed
            _abort(error, context)
        return configured

    def in_use(self, peer: str) -> bool:  # noqa: ARG002 - for the subclass
        """Return whether the engine at `peer`, which has configured a bridge, still runs."""
        return True

    def _kill_unused(self) -> None:
        """Kill the bridges whose engines have all ended, but keep the first, which answers unconfigured engines."""
        self._by_peer = {peer: configured for peer, configured in self._by_peer.items() if self.in_use(peer)}
        used = [self._first.result(), *(configured.bridge for configured in self._by_peer.values())]
        for key, configuring in list(self._configured.items()):
            if configuring.done() and not configuring.exception() and configuring.result().bridge not in used:
                configuring.result().bridge.kill()
                del self._configured[key]


def _region(settings: provider_pb2.ConfigureRequest) -> str:
    """Return the region in the provider's settings, or else the one in the environment."""
    return settings.variables.get("aws:config:region") or os.environ.get("AWS_REGION", "")


def _forward(
    channel: grpc.Channel, method: str, request: bytes, context: grpc.ServicerContext, call: Call | None = None
) -> bytes:
    """Call the bridge; cancel the call if the engine does, and pass on an error with code, details and metadata."""
    future = channel.unary_unary(f"/{_SERVICE.full_name}/{method}").future(request)

    def cancel() -> None:
        future.cancel()

    context.add_callback(cancel)
    try:
        return future.result()
    except grpc.RpcError as error:
        _abort(error, context, call)


def _abort(caught: grpc.RpcError, context: grpc.ServicerContext, call: Call | None = None) -> NoReturn:
    error = cast("grpc.Call", caught)
    details = error.details() or ""
    metadata = tuple(error.trailing_metadata() or ())
    if call:
        missing = any(phrase in details for phrase in _NOT_IN_TERRAFORM)
        details = aws_types.not_in_terraform(call.token) if missing else call.rename_text(details)
        metadata = tuple(
            (key, rename_details(value, call) if isinstance(value, bytes) and key == _DETAILS_KEY else value)
            for key, value in metadata
        )
    context.set_trailing_metadata(metadata)
    context.abort(error.code(), details)


def rename_details(status: bytes, call: Call) -> bytes:
    """Return an error's details with names changed; they may contain the properties of a half-created resource."""
    message = status_pb2.Status.FromString(status)
    message.message = call.rename_text(message.message)
    failed = provider_pb2.ErrorResourceInitFailed()
    for detail in message.details:
        if detail.Unpack(failed):
            call.rename_response(failed)
            detail.Pack(failed)
    return message.SerializeToString()


def connect(child: subprocess.Popen[str], provider: str, types: Collection[str]) -> grpc.Channel:
    """Wait until a bridge serves its provider, and return the channel to it.

    Args:
        child: The bridge, which prints its port to standard output.
        provider: The path of Terraform's provider.
        types: The tokens of the types and functions to include, because loading all of them takes far longer.

    Raises:
        UserError: The bridge has ended, or can't load the provider.
    """
    port = child.stdout.readline().strip() if child.stdout else ""
    if not port:
        raise UserError("the Terraform bridge ended at once: see the messages above.")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=service.CHANNEL_OPTIONS)
    included = ",".join(sorted(map(aws_types.terraform_name, types)))
    request = provider_pb2.ParameterizeRequest(
        args=provider_pb2.ParameterizeRequest.ParametersArgs(
            args=[provider, "--provider-name", "aws", "--include", included]
        )
    )
    try:
        channel.unary_unary(f"/{_SERVICE.full_name}/Parameterize")(request.SerializeToString())
    except grpc.RpcError as error:
        details = (cast("grpc.Call", error).details() or "no details").rstrip(".")
        raise UserError(f"the Terraform bridge can't use {provider}: {details}.") from error
    return channel
