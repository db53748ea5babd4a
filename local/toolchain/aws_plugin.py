"""`pulumi-resource-aws` for machines that cannot download the official one.

It starts Pulumi's own dynamic Terraform bridge, with Terraform's own AWS provider, as a child and hands on every call: the
diffs, the waiters and the errors are the real ones. Ours is only the renaming between the names of `pulumi_aws` and those
that the bridge makes of Terraform's.

Usage, by the engine: python -m local.toolchain.aws_plugin BRIDGE TERRAFORM_PROVIDER ZIPS [ENGINE_ADDRESS ...]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if __name__ == "__main__":
    # Before the imports: the bridge starts while they load.
    # A group of its own: what it starts in turn, Terraform's provider, would outlive it.
    _child = subprocess.Popen([sys.argv[1], *sys.argv[4:]], stdout=subprocess.PIPE, process_group=0)

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2

from local.toolchain import aws_types, service
from local.toolchain.renaming import Call
from shared.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    _Bridge = Callable[[bytes], bytes]

_SERVICE = provider_pb2.DESCRIPTOR.services_by_name["ResourceProvider"]
_RENAMED = {"Check", "Diff", "Create", "Read", "Update", "Delete", "Invoke"}
_REFUSED = {"Handshake", "Parameterize", "GetSchema", "List", "Construct", "Call"}
"""The bridge doesn't know the first; the others would speak of its own names."""
_INFO = plugin_pb2.PluginInfo(version=version("pulumi-aws")).SerializeToString()
_DETAILS = "grpc-status-details-bin"
"""The metadata key of gRPC's richer error model; the engine finds the state of a half-made resource in it."""


class Proxy(grpc.GenericRpcHandler):
    """Serves `pulumirpc.ResourceProvider` by asking the bridge on `channel`."""

    def __init__(self, channel: grpc.Channel, zips: Path) -> None:
        self._channel = channel
        self._zips = zips
        self._region = ""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """What serves the called method; None, which gRPC answers with "unimplemented", for what this plugin hasn't."""
        method = handler_call_details.method.rpartition("/")[2]
        if method in _REFUSED or method not in _SERVICE.methods_by_name:
            return None
        if method == "Attach":
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
        if method == "GetPluginInfo":
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: _INFO)
        bridge = self._channel.unary_unary(f"/{_SERVICE.full_name}/{method}")
        if method == "Configure":
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: self._configure(bridge, request, context)
            )
        if method not in _RENAMED:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: _forward(bridge, request, context))
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._renamed(method, bridge, request, context)
        )

    def _configure(self, bridge: _Bridge, request: bytes, context: grpc.ServicerContext) -> bytes:
        variables = provider_pb2.ConfigureRequest.FromString(request).variables
        self._region = variables.get("aws:config:region") or os.environ.get("AWS_REGION", "")
        return _forward(bridge, request, context)

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
                (key, _rename_details(value, call) if key == _DETAILS else value) for key, value in metadata
            )
        context.set_trailing_metadata(metadata)
        context.abort(error.code(), details)


def _rename_details(status: bytes, call: Call) -> bytes:
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
    channel.unary_unary(f"/{_SERVICE.full_name}/Parameterize")(request.SerializeToString())


def main(child: subprocess.Popen[bytes], provider: str, zips: Path) -> None:
    """Serve the engine until it says that it's done."""
    service.end_at_once_when_told(before=lambda: os.killpg(child.pid, signal.SIGKILL))
    port = int(child.stdout.readline())
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=service.CHANNEL_OPTIONS)
    _parameterize(channel, provider)
    service.serve(lambda server: server.add_generic_rpc_handlers((Proxy(channel, zips),)))


if __name__ == "__main__":
    main(_child, sys.argv[2], Path(sys.argv[3]))
