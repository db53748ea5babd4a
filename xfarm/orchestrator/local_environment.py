"""The environment for `local`, in which no variable leads to an AWS account."""

from __future__ import annotations

import contextlib
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xfarm.emulator.server import DEFAULT_PORT, REGION, Emulator
from xfarm.errors import UserError
from xfarm.toolchain.resolve import resolve
from xfarm.waiting import announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PREFIXES: Final = ("AWS_", "PULUMI_")
_LOOPBACK: Final = "127.0.0.1,localhost"


def emulator(root: Path) -> Emulator:
    """Return the emulator of the checkout at `root`, with the port in `GATEWAY_PORT`.

    Raises:
        UserError: `GATEWAY_PORT` is not a port number.
    """
    port = os.environ.get("GATEWAY_PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"GATEWAY_PORT is {port!r}: set it to a port number, 1 to 65535, or unset it.")
    return Emulator(root / ".local" / "emulator", int(port))


@contextlib.contextmanager
def os_errors_as_user_errors(root: Path) -> Iterator[None]:
    """Turn errors about the folder `.local` of the checkout at `root` into a `UserError`, e.g. if root owns it.

    Raises:
        UserError: A file in the folder can't be read or written.
    """
    folder = root / ".local"
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename))
        if folder not in (path, *path.parents):
            raise
        remedy = (
            f"make it yours with `sudo chown -R $(id -u) {shlex.quote(str(folder))}`"
            if isinstance(error, PermissionError)
            else f"make {folder} a folder that you can write to"
        )
        raise UserError(f"{path} can't be used ({error.strerror}): {remedy}.") from error


def start(account: Emulator, notify: Callable[[str], None]) -> None:
    """Start the emulator, and notify the user if the stacks' state has resources that it may have lost.

    Raises:
        UserError: It doesn't start.
    """
    with announced(lambda: f"Waiting for the AWS emulator to start at {account.endpoint}."):
        account.start()
    if account.unsaved.exists():
        notify(
            "The AWS emulator ended before it saved what was deployed since its last start: "
            "run `xfarm deploy --refresh`, which deploys again what is missing."
        )


def forget_losses(root: Path) -> None:
    """No longer notify the user of what the emulator may have lost: the stacks were refreshed or destroyed."""
    emulator(root).unsaved.unlink(missing_ok=True)


def prepare(root: Path, notify: Callable[[str], None], projects: Path | None = None) -> dict[str, str]:
    """Find the toolchain, start the emulator, and return the whole environment for `local`.

    This takes a few milliseconds if the toolchain is known and the emulator runs.

    Args:
        root: The checkout's folder; its `.local` and the user's cache folder are the only folders written to.
        notify: Called with each message for the user: the toolchain, and the progress of downloads and builds.
        projects: The folder with the projects, each in a folder of its name, if this process will run Pulumi's engine.
            If the toolchain allows it, all engines share one AWS plugin and one language host, which outlive them.

    Raises:
        UserError: There is no toolchain, or the emulator, the plugin or the language host can't be started.
    """
    try:
        Path.home()
    except RuntimeError as error:
        raise UserError("HOME is not set, and your user has no home folder: set HOME to a folder of yours.") from error
    folder = root / ".local"
    with os_errors_as_user_errors(root):
        (folder / "state").mkdir(parents=True, exist_ok=True)
        for metadata in (folder / "state").rglob("*.attrs"):  # from before `metadata=skip`, perhaps damaged
            metadata.unlink(missing_ok=True)
        toolchain = resolve(root, notify)
        account = emulator(root)
        start(account, notify)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
    no_proxy = {
        name: ",".join(filter(None, (kept.get(name), _LOOPBACK)))
        for name in ("NO_PROXY", "no_proxy")
        if not kept.get(name, "").endswith(_LOOPBACK)
    }
    environment = (
        kept
        | no_proxy
        | {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": account.endpoint,
            "AWS_REGION": REGION,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PATH": _prepend(toolchain.path, kept.get("PATH", "")),
            # Without `metadata=skip`, Pulumi also writes a file of metadata beside each state file, but not atomically:
            # after a kill in between, every later command fails ("fileblob", Go CDK documentation).
            "PULUMI_BACKEND_URL": (folder / "state").as_uri() + "?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_HOME": str(folder / "pulumi"),
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            # The programs import `shared` from here, even if PYTHONPATH leads to another package of that name.
            "PYTHONPATH": _prepend([str(root)], kept.get("PYTHONPATH", "")),
            # A container's user may have no name, and Pulumi's locks need one ("os/user", Go's standard library).
            "USER": kept.get("USER") or "unknown",
        }
        | toolchain.environment
    )
    if not projects:
        return environment
    # Its imports take as long as all else that a command without engines does.
    from xfarm.toolchain.servers import Servers  # noqa: PLC0415

    servers = Servers(environment, folder / "servers", account.directory / "lock", projects)
    with ThreadPoolExecutor() as pool:
        host = pool.submit(servers.language_host) if toolchain.shares_language_host else None
        plugin = pool.submit(servers.plugin, toolchain.shared_plugin) if toolchain.shared_plugin else None
    attach = {"PULUMI_DEBUG_LANGUAGES": f"python:{host.result()}"} if host else {}
    return environment | attach | ({"PULUMI_DEBUG_PROVIDERS": f"aws:{plugin.result()}"} if plugin else {})


def _prepend(folders: list[str], path: str) -> str:
    """Return `path` with `folders` first, each of them only once."""
    rest = [folder for folder in path.split(os.pathsep) if path and folder not in folders]
    return os.pathsep.join((*folders, *rest))
