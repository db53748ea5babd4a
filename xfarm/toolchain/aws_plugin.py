"""`pulumi-resource-aws` for machines that cannot download the official one.

It starts Pulumi's own dynamic Terraform bridge, with Terraform's own AWS provider, as a child and hands on every call:
the diffs, the waiters and the errors are the real ones. Ours is only the renaming between the names of `pulumi_aws` and
those that the bridge makes of Terraform's.

Usage, by the engine: python -m xfarm.toolchain.aws_plugin BRIDGE TERRAFORM_PROVIDER ZIPS ENGINE_ADDRESS
For all engines that attach to it, on projects in a folder: ... ZIPS --projects FOLDER
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

_BRIDGES: list[subprocess.Popen[str]] = []


def _start(bridge: str, engine: str) -> subprocess.Popen[str]:
    # A group of its own: what the bridge starts in turn, Terraform's provider, would outlive it.
    child = subprocess.Popen(
        [bridge, engine],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    _BRIDGES.append(child)
    return child


def _end() -> None:
    for child in _BRIDGES:
        os.killpg(child.pid, signal.SIGKILL)


def main() -> None:
    """Serve the engine, or all engines that attach, until told to end."""
    bridge, provider, zips, engine, *projects = sys.argv[1:]
    # Started first: what it takes to talk to it can be loaded meanwhile.
    first: list[subprocess.Popen[str]] = [] if projects else [_start(bridge, engine)]
    from xfarm.toolchain import service  # noqa: PLC0415 - see above

    def register(server: grpc.Server) -> None:
        from xfarm.toolchain import aws_types, proxy, sharing  # noqa: PLC0415 - see `service.serve`

        # Without a folder of projects, the engine has started us in that of its own.
        known = aws_types.types_in_use(Path(*projects), ROOT / "shared")

        def start(engine: str) -> grpc.Channel:
            return proxy.bridge(first.pop() if first else _start(bridge, engine), provider, known)

        if projects:
            ours = sharing.plugin(start, Path(zips), known, Path(*projects), _end)
        else:
            service.end_at_once_when_told(before=_end)
            ours = proxy.Proxy(lambda: start(engine), Path(zips), known)
        server.add_generic_rpc_handlers((ours,))

    service.serve(register)


if __name__ == "__main__":
    main()
