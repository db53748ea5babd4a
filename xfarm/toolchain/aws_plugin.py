"""`pulumi-resource-aws` for machines that can't download the official plugin.

It starts Pulumi's dynamic Terraform bridge, with Terraform's AWS provider, as a child process and passes on every call,
so diffs, waiting and errors are theirs. The plugin itself only translates between the names of `pulumi_aws` and the
names that the bridge derives from Terraform's.

Usage, by the engine: python -m xfarm.toolchain.aws_plugin BRIDGE TERRAFORM_PROVIDER ZIPS ENGINE_ADDRESS
For several engines, which attach to it: ... ZIPS --shared PROJECTS USERS OWNER
It ends when the file USERS has not been locked for some minutes, or OWNER is no longer locked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from xfarm.file_locks import wait_until_free
from xfarm.paths import ROOT

if TYPE_CHECKING:
    import grpc

    from xfarm.toolchain.proxy import Bridge

_bridges: list[subprocess.Popen[str]] = []
_failed = threading.Event()
"""Set once a bridge has ended that was not killed."""


def _start(bridge: str, engine: str, folder: Path) -> subprocess.Popen[str]:
    # In a process group, because the bridge's own child, Terraform's provider, would outlive the bridge.
    child = subprocess.Popen(
        [bridge, engine],
        cwd=folder,  # which the paths of zip files start from
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    _bridges.append(child)
    return child


def _kill(child: subprocess.Popen[str]) -> None:
    _bridges.remove(child)
    os.killpg(child.pid, signal.SIGKILL)


def _kill_bridges() -> None:
    while _bridges:
        _kill(_bridges[-1])


def _watch(child: subprocess.Popen[str]) -> None:
    child.wait()
    if child in _bridges:
        _failed.set()


def _wait_for_failure() -> None:
    _failed.wait()


def main() -> None:
    """Serve the engine, or all engines that attach, until asked to exit."""
    bridge, provider, zips, engine, *shared = sys.argv[1:]
    folder = Path(zips).parent
    # The bridge takes a while to start; the modules that talk to it are imported meanwhile.
    first: list[subprocess.Popen[str]] = [] if shared else [_start(bridge, engine, folder)]
    from xfarm.toolchain import service  # noqa: PLC0415 - imported while the bridge starts

    def register(server: grpc.Server) -> None:
        from xfarm.toolchain import aws_types, proxy, sharing  # noqa: PLC0415 - imported once the engine has the port

        # Without an argument for it, the working directory is that of the engine's project.
        projects, *locks = map(Path, shared or [""])
        types = aws_types.types_in_use(projects, ROOT / "shared")

        def start(engine: str) -> Bridge:
            child = first.pop() if first else _start(bridge, engine, folder)
            channel = proxy.connect(child, provider, types)
            threading.Thread(target=_watch, args=(child,), daemon=True).start()
            return proxy.Bridge(channel, lambda: _kill(child))

        if locks:
            users, owner = locks
            engines = sharing.Engines()
            service.exit_on_request(
                _kill_bridges,
                lambda: engines.wait_until_unused(users),
                lambda: wait_until_free(owner),
                _wait_for_failure,
            )
            address = engines.serve()
            handler = sharing.SharedProxy(engines, lambda: start(address), Path(zips), types, projects)
        else:
            service.exit_on_request(_kill_bridges)
            handler = proxy.Proxy(lambda: start(engine), Path(zips), types)
        server.add_generic_rpc_handlers((handler,))

    service.serve(register)


if __name__ == "__main__":
    main()
