"""The AWS plugin's conversation: what the engine asks is handed on to the bridge, under the names that it knows."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NoReturn, cast

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

_SERVICE = provider_pb2.DESCRIPTOR.services_by_name["ResourceProvider"]
_RENAMED = {"Check", "Diff", "Create", "Read", "Update", "Delete", "Invoke"}
_REFUSED = {"Handshake", "Parameterize", "GetSchema", "List", "Construct", "Call"}
"""The bridge doesn't know the first; the others would speak of its own names."""
_ANSWERED = {
    "Attach": b"",
    "GetPluginInfo": plugin_pb2.PluginInfo(version=version("pulumi-aws")).SerializeToString(),
}
_NOT_IN_TERRAFORM = ("unknown resource token", "unknown datasource token")
"""How the bridge calls what its provider doesn't have (`pkg/pf/tfbridge/provider.go` in pulumi-terraform-bridge)."""
_DETAILS = "grpc-status-details-bin"
"""The metadata key of gRPC's richer error model; the engine finds the state of a half-made resource in it."""


@dataclass(frozen=True)
class Configured:
    """A bridge that was told its provider's settings, and what it answered to them."""

    channel: grpc.Channel
    region: str
    answer: bytes


class Proxy(grpc.GenericRpcHandler):
    """Serves `pulumirpc.ResourceProvider` by asking a bridge.

    Several engines may ask at once: those with the same settings of the provider share a bridge, another gets its own.
    """

    def __init__(self, start: Callable[[], grpc.Channel], zips: Path, known: Collection[str]) -> None:
        """Start the first bridge.

        Args:
            start: Starts a bridge, and opens a channel to it.
            zips: The folder for zip files made of code archives.
            known: The tokens of the types and functions that a bridge is started with.
        """
        self._start = start
        self._zips = zips
        self._known = known
        self._starting = ThreadPoolExecutor()
        self._first = self._starting.submit(start)
        self._configured: dict[bytes, Future[Configured]] = {}
        self._of_peer: dict[str, Configured] = {}
        self._lock = Lock()

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """What serves the called method; None, which gRPC answers with "unimplemented", for what this plugin hasn't."""
        method = handler_call_details.method.rpartition("/")[2]
        if method in _REFUSED or method not in _SERVICE.methods_by_name:
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return self.answer(method, request, context)
            except UserError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        # The stub of gRPC wants a function of any arguments at all.
        return grpc.unary_unary_rpc_method_handler(answer)  # pyrefly: ignore[bad-argument-type]

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one call.

        Raises:
            UserError: It asks for what this plugin can't do.
        """
        if method in _ANSWERED:
            return _ANSWERED[method]
        if method == "Configure":
            return self._configure(request, context).answer
        configured = self._of_peer.get(context.peer())
        channel = configured.channel if configured else self._first.result()
        if method not in _RENAMED:
            return _forward(channel, method, request, context)
        types = _SERVICE.methods_by_name[method]
        message = GetMessageClass(types.input_type).FromString(request)
        folder = self.folder(getattr(message, "urn", ""), context.peer())
        call = Call(method, message, self._zips, configured.region if configured else "", folder)
        aws_types.require_known(call.token, self._known)
        response = GetMessageClass(types.output_type).FromString(
            _forward(channel, method, message.SerializeToString(), context, call)
        )
        call.answer(response)
        return response.SerializeToString()

    def folder(self, urn: str, peer: str) -> Path:  # noqa: ARG002 - for who serves several
        """The folder of the project whose resource the engine at `peer` asks about: its own engine starts us there."""
        return Path()

    def _configure(self, request: bytes, context: grpc.ServicerContext) -> Configured:
        settings = provider_pb2.ConfigureRequest.FromString(request)
        for name in ("id", "name", "type", "urn"):  # which tell one engine's provider from another's
            settings.ClearField(name)
        key = settings.SerializeToString(deterministic=True)

        def configure(bridge: Future[grpc.Channel]) -> Configured:
            channel = bridge.result()
            answer = channel.unary_unary(f"/{_SERVICE.full_name}/Configure")(request)
            return Configured(channel, _region(settings), answer)

        with self._lock:
            if key not in self._configured:
                bridge = self._starting.submit(self._start) if self._configured else self._first
                self._configured[key] = self._starting.submit(configure, bridge)
        try:
            configured = self._of_peer[context.peer()] = self._configured[key].result()
        except grpc.RpcError as error:
            _refuse(error, context)
        return configured


def _region(settings: provider_pb2.ConfigureRequest) -> str:
    """The region in the provider's settings; none in them means the environment's."""
    return settings.variables.get("aws:config:region") or os.environ.get("AWS_REGION", "")


def _forward(
    channel: grpc.Channel, method: str, request: bytes, context: grpc.ServicerContext, call: Call | None = None
) -> bytes:
    """Ask the bridge, unless the engine goes away; its error becomes ours, with code, details and metadata."""
    asked = channel.unary_unary(f"/{_SERVICE.full_name}/{method}").future(request)

    def give_up() -> None:
        asked.cancel()

    context.add_callback(give_up)
    try:
        return asked.result()
    except grpc.RpcError as error:
        _refuse(error, context, call)


def _refuse(caught: grpc.RpcError, context: grpc.ServicerContext, call: Call | None = None) -> NoReturn:
    error = cast("grpc.Call", caught)
    details = error.details() or ""
    metadata = tuple(error.trailing_metadata() or ())
    if call:
        unknown = any(phrase in details for phrase in _NOT_IN_TERRAFORM)
        details = aws_types.not_in_terraform(call.token) if unknown else call.text(details)
        metadata = tuple(
            (key, rename_details(value, call) if isinstance(value, bytes) and key == _DETAILS else value)
            for key, value in metadata
        )
    context.set_trailing_metadata(metadata)
    context.abort(error.code(), details)


def rename_details(status: bytes, call: Call) -> bytes:
    """Rename in the error's details, where the engine finds the properties of a resource that was only half made."""
    message = status_pb2.Status.FromString(status)
    message.message = call.text(message.message)
    failed = provider_pb2.ErrorResourceInitFailed()
    for detail in message.details:
        if detail.Unpack(failed):
            call.answer(failed)
            detail.Pack(failed)
    return message.SerializeToString()


def bridge(child: subprocess.Popen[str], provider: str, known: Collection[str]) -> grpc.Channel:
    """Wait for a bridge to be ready for its provider; return the channel to it.

    Args:
        child: The bridge, which tells its port on its standard output.
        provider: The path of Terraform's provider.
        known: The tokens of the types and functions to include: all that there are would take far longer.

    Raises:
        UserError: The bridge can't be used.
    """
    port = child.stdout.readline().strip() if child.stdout else ""
    if not port:
        raise UserError("The Terraform bridge ended at once.")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=service.CHANNEL_OPTIONS)
    included = ",".join(sorted(map(aws_types.terraform_name, known)))
    request = provider_pb2.ParameterizeRequest(
        args=provider_pb2.ParameterizeRequest.ParametersArgs(
            args=[provider, "--provider-name", "aws", "--include", included]
        )
    )
    try:
        channel.unary_unary(f"/{_SERVICE.full_name}/Parameterize")(request.SerializeToString())
    except grpc.RpcError as error:
        raise UserError(f"The Terraform bridge can't use {provider}: {cast('grpc.Call', error).details()}") from error
    return channel
