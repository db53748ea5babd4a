"""The AWS plugin's conversation: what the engine asks is handed on to the bridge, under the names that it knows."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2
from typing_extensions import override

from local.toolchain import aws_types, service
from local.toolchain.renaming import Call
from shared.errors import UserError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    _Bridge = Callable[[bytes], bytes]
    _Handler = grpc.RpcMethodHandler[bytes, bytes]

_SERVICE = provider_pb2.DESCRIPTOR.services_by_name["ResourceProvider"]
_RENAMED = {"Check", "Diff", "Create", "Read", "Update", "Delete", "Invoke"}
_REFUSED = {"Handshake", "Parameterize", "GetSchema", "List", "Construct", "Call"}
"""The bridge doesn't know the first; the others would speak of its own names."""
_ANSWERED = {
    "Attach": b"",
    "GetPluginInfo": plugin_pb2.PluginInfo(version=version("pulumi-aws")).SerializeToString(),
}
_DETAILS = "grpc-status-details-bin"
"""The metadata key of gRPC's richer error model; the engine finds the state of a half-made resource in it."""


class Proxy(grpc.GenericRpcHandler):
    """Serves `pulumirpc.ResourceProvider` by asking the bridge on `channel`."""

    def __init__(self, channel: grpc.Channel, zips: Path) -> None:
        self._channel = channel
        self._zips = zips
        self._region = ""

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """What serves the called method; None, which gRPC answers with "unimplemented", for what this plugin hasn't."""
        method = handler_call_details.method.rpartition("/")[2]
        if method in _REFUSED or method not in _SERVICE.methods_by_name:
            return None
        bridge = self._channel.unary_unary(f"/{_SERVICE.full_name}/{method}")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if method in _ANSWERED:
                return _ANSWERED[method]
            if method in _RENAMED:
                return self._renamed(method, bridge, request, context)
            if method == "Configure":
                self._region = _region(request)
            return _forward(bridge, request, context)

        # The stub of gRPC wants a function of any arguments at all.
        return grpc.unary_unary_rpc_method_handler(answer)  # pyrefly: ignore[bad-argument-type]

    def _renamed(self, method: str, bridge: _Bridge, request: bytes, context: grpc.ServicerContext) -> bytes:
        types = _SERVICE.methods_by_name[method]
        message = GetMessageClass(types.input_type).FromString(request)
        try:
            call = Call(method, message, self._zips, self._region)
        except UserError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = GetMessageClass(types.output_type).FromString(
            _forward(bridge, message.SerializeToString(), context, call)
        )
        call.answer(response)
        return response.SerializeToString()


def _region(request: bytes) -> str:
    """The region in a request to configure the provider; none in it means the environment's."""
    variables = provider_pb2.ConfigureRequest.FromString(request).variables
    return variables.get("aws:config:region") or os.environ.get("AWS_REGION", "")


def _forward(bridge: _Bridge, request: bytes, context: grpc.ServicerContext, call: Call | None = None) -> bytes:
    """Ask the bridge; its error becomes ours, with code, details and metadata."""
    try:
        return bridge(request)
    except grpc.RpcError as caught:
        error = cast("grpc.Call", caught)
        details = error.details() or ""
        metadata = tuple(error.trailing_metadata() or ())
        if call:
            details = call.text(details)
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


def _parameterize(channel: grpc.Channel, provider: str) -> None:
    """Tell the bridge which provider to bridge, and which of its types: all of them would take far longer."""
    included = ",".join((*aws_types.RESOURCES, *aws_types.FUNCTIONS))
    request = provider_pb2.ParameterizeRequest(
        args=provider_pb2.ParameterizeRequest.ParametersArgs(
            args=[provider, "--provider-name", "aws", "--include", included]
        )
    )
    try:
        channel.unary_unary(f"/{_SERVICE.full_name}/Parameterize")(request.SerializeToString())
    except grpc.RpcError as error:
        sys.exit(f"The Terraform bridge can't use {provider}: {cast('grpc.Call', error).details()}")


def converse(child: subprocess.Popen[str], provider: str, zips: Path) -> None:
    """Serve the engine until it says that it's done.

    Args:
        child: The bridge, which leads a process group, and tells its port on its standard output.
        provider: The path of Terraform's provider.
        zips: The folder for zip files made of code archives.
    """
    service.end_at_once_when_told(before=lambda: os.killpg(child.pid, signal.SIGKILL))
    port = child.stdout.readline().strip() if child.stdout else ""
    if not port:
        sys.exit("The Terraform bridge ended at once.")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=service.CHANNEL_OPTIONS)
    _parameterize(channel, provider)
    service.serve(lambda server: server.add_generic_rpc_handlers((Proxy(channel, zips),)))
