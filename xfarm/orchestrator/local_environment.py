"""The process environment of everything that runs against `local`: nothing in it leads to a real AWS account."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from xfarm.emulator.server import DEFAULT_PORT, REGION, Emulator
from xfarm.errors import UserError
from xfarm.toolchain.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PREFIXES = ("AWS_", "PULUMI_")
_LOOPBACK = "127.0.0.1,localhost"


def emulator(root: Path) -> Emulator:
    """The emulator of the checkout at `root`, at the port that GATEWAY_PORT names.

    Raises:
        UserError: GATEWAY_PORT is no port number.
    """
    port = os.environ.get("GATEWAY_PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"GATEWAY_PORT is {port!r}: set it to a port number, 1 to 65535, or unset it.")
    return Emulator(root / ".local" / "emulator", int(port))


@contextlib.contextmanager
def own_folder(root: Path) -> Iterator[None]:
    """Say in a sentence what is wrong with the `.local` of the checkout at `root`, such as that `sudo` has made it.

    Raises:
        UserError: Something in it can't be read or written.
    """
    folder = root / ".local"
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename))
        if folder not in (path, *path.parents):
            raise
        remedy = (
            f"give it to yourself with `sudo chown -R $(id -u) {shlex.quote(str(folder))}`"
            if isinstance(error, PermissionError)
            else f"{folder} has to be a folder that you can write"
        )
        raise UserError(f"{path} can't be used ({error.strerror}): {remedy}.") from error


def prepare(root: Path, say: Callable[[str], None], projects: Path | None = None) -> dict[str, str]:
    """Make `local` ready for the checkout at `root`, and give the environment to use it in: the whole of it.

    Where all is ready already, this takes a few milliseconds.

    Args:
        root: The checkout's folder; all that is written goes to its `.local`, and to the user's cache folder.
        say: Is told, in lines for people, which toolchain is used, and what takes long while it does.
        projects: The folder of the projects, each in a folder of its name, that this process is going to run Pulumi's
            engine on. One AWS plugin is then started for all of them, where that can be done; it ends with this
            process and the last engine.

    Raises:
        UserError: There is no toolchain to be had, or the emulator or the plugin can't be started.
    """
    folder = root / ".local"
    with own_folder(root):
        (folder / "state").mkdir(parents=True, exist_ok=True)
        toolchain = resolve(root, say)
        account = emulator(root)
        account.start()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
    direct = {
        name: ",".join(filter(None, (kept.get(name), _LOOPBACK)))
        for name in ("NO_PROXY", "no_proxy")
        if not kept.get(name, "").endswith(_LOOPBACK)
    }
    environment = (
        kept
        | direct
        | {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": account.endpoint,
            "AWS_REGION": REGION,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PATH": _in_front(toolchain.path, kept.get("PATH", "")),
            "PULUMI_BACKEND_URL": (folder / "state").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_HOME": str(folder / "pulumi"),
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            # A container's user may have no name, and Pulumi's locks want one ("os/user", Go's standard library).
            "USER": kept.get("USER") or "unknown",
        }
        | toolchain.environment
    )
    if projects and toolchain.shared_plugin:
        port = _share_plugin([toolchain.shared_plugin, "--projects", str(projects)], environment)
        environment["PULUMI_DEBUG_PROVIDERS"] = f"aws:{port}"
    return environment


_plugins: list[subprocess.Popen[str]] = []
"""They run for as long as we hold their standard input open."""


def _share_plugin(command: list[str], environment: dict[str, str]) -> int:
    """Start an AWS plugin that any engine may attach to, and return its port.

    Raises:
        UserError: It doesn't start.
    """
    plugin = subprocess.Popen(
        command,
        env=environment | {"GRPC_VERBOSITY": "ERROR"},  # it tells of each engine that goes away, otherwise
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C at the terminal is for the engines, which want to finish what they have begun
    )
    port = plugin.stdout.readline() if plugin.stdout else ""
    if not port:
        raise UserError("The AWS plugin ended at once: see the message above.")
    _plugins.append(plugin)
    return int(port)


def _in_front(folders: list[str], path: str) -> str:
    """`path` with `folders` first, and each of them only once however often this is done."""
    rest = [folder for folder in path.split(os.pathsep) if folder not in folders]
    return os.pathsep.join((*folders, *rest))
