"""`pulumi-resource-aws` for machines that can't download the official plugin.

It starts Pulumi's dynamic Terraform bridge, with Terraform's AWS provider, as a child process and passes on every call,
so diffs, waiting and errors are theirs. The plugin itself only translates between the names of `pulumi_aws` and the
names that the bridge derives from Terraform's.

Usage, by the engine: python -m xfarm.toolchain.aws_plugin BRIDGE TERRAFORM_PROVIDER ZIPS ENGINE_ADDRESS
For several engines, which attach to it, on the projects in a folder: ... ZIPS --projects FOLDER
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xfarm.paths import ROOT

if TYPE_CHECKING:
    import grpc

_bridges: list[subprocess.Popen[str]] = []


def _start(bridge: str, engine: str) -> subprocess.Popen[str]:
    # In a process group, because the bridge's own child, Terraform's provider, would outlive the bridge.
    child = subprocess.Popen(
        [bridge, engine],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    _bridges.append(child)
    return child


def _kill_bridges() -> None:
    for child in _bridges:
        os.killpg(child.pid, signal.SIGKILL)


def main() -> None:
    """Serve the engine, or all engines that attach, until asked to exit."""
    bridge, provider, zips, engine, *projects = sys.argv[1:]
    # The bridge takes a while to start; the modules that talk to it are imported meanwhile.
    first: list[subprocess.Popen[str]] = [] if projects else [_start(bridge, engine)]
    from xfarm.toolchain import service  # noqa: PLC0415 - imported while the bridge starts

    def register(server: grpc.Server) -> None:
        from xfarm.toolchain import aws_types, proxy, sharing  # noqa: PLC0415 - imported once the engine has the port

        # Without a folder of projects, the working directory is that of the engine's project.
        types = aws_types.types_in_use(Path(*projects), ROOT / "shared")

        def start(engine: str) -> grpc.Channel:
            return proxy.bridge(first.pop() if first else _start(bridge, engine), provider, types)

        if projects:
            handler = sharing.shared_plugin(start, Path(zips), types, Path(*projects), _kill_bridges)
        else:
            service.exit_on_request(cleanup=_kill_bridges)
            handler = proxy.Proxy(lambda: start(engine), Path(zips), types)
        server.add_generic_rpc_handlers((handler,))

    service.serve(register)


if __name__ == "__main__":
    main()
