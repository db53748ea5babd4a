"""Finds or starts the AWS plugin that all engines of a checkout attach to."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

from xfarm.errors import UserError
from xfarm.file_locks import acquire, share, wait_for
from xfarm.toolchain.aws_types import types_in_use

_used: Final[list[TextIO]] = []
"""The files that this process keeps locked while it may use a plugin."""


def port(command: list[str], environment: Mapping[str, str], folder: Path, projects: Path, owner: Path) -> int:
    """Return the port of a running plugin, started by this or an earlier command with the same arguments.

    It goes on running until it is unused for some minutes, or `owner` is no longer locked.

    Args:
        command: The command for a plugin.
        environment: The environment for the plugin.
        folder: The folder in which to record the plugins that run.
        projects: The folder with the projects, each in a folder of its name.
        owner: The file that the process that the plugin must not outlive keeps locked.

    Raises:
        UserError: The plugin doesn't start.
    """
    sources = [source.read_text(encoding="utf-8") for source in sorted(Path(__file__).parent.glob("*.py"))]
    types = sorted(types_in_use(projects, projects.parent / "shared"))
    settings = {name: value for name, value in environment.items() if name.startswith(("AWS_", "PULUMI_"))}
    identity = json.dumps([command, settings, types, sources], sort_keys=True)
    record = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
    record.mkdir(parents=True, exist_ok=True)
    users = (record / "users").open("a+")
    share(users)
    _used.append(users)
    with (record / "starting").open("w") as starting:
        wait_for(starting)
        if not _port(record):
            _start([*command, "--shared", str(projects), users.name, str(owner)], environment, record)
        return _port(record)


def _port(record: Path) -> int:
    """Return the port of the plugin that keeps the file `plugin` locked, or 0 if none does."""
    with (record / "plugin").open("a+") as lock:
        if acquire(lock):
            return 0
        lock.seek(0)
        return int(lock.read() or 0)  # empty if the command that started it was killed before it knew the port


def _start(command: list[str], environment: Mapping[str, str], record: Path) -> None:
    (record / "plugin").unlink()  # may be locked by a plugin whose port is not known, which ends when it is unused
    with (record / "plugin").open("w") as lock, (record / "log").open("w") as log:
        acquire(lock)
        plugin = subprocess.Popen(
            command,
            env={**environment, "GRPC_VERBOSITY": "ERROR"},  # by default, gRPC logs each engine that disconnects
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # so that Ctrl-C reaches the engines only, which finish what is in progress
        )
        port = plugin.stdout.readline() if plugin.stdout else ""
        if not port:
            raise UserError(f"the AWS plugin ended at once: see {log.name}.")
        lock.write(port)
