"""Finds or starts the servers that all engines of a checkout attach to: the AWS plugin and the language host."""

import hashlib
import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final, TextIO

from xfarm.errors import UserError
from xfarm.file_locks import acquire, share, wait_for
from xfarm.toolchain.aws_types import types_in_use

_used: Final[list[TextIO]] = []
"""The files that this process keeps locked while it may use a server."""

_OF_THE_SHELL: Final = ("_", "OLDPWD", "PWD", "SHLVL")
"""The variables that differ from command to command, and that no program needs."""


@dataclass(frozen=True)
class Servers:
    """The servers of a checkout. Each goes on running until it is unused for some minutes, or the owner ends.

    Attributes:
        environment: The environment to start them with.
        folder: The folder in which to record those that run.
        owner: The file that the process that they must not outlive keeps locked.
        projects: The folder with the projects, each in a folder of its name.
    """

    environment: Mapping[str, str]
    folder: Path
    owner: Path
    projects: Path

    def plugin(self, program: str) -> int:
        """Return the port of an AWS plugin, started by this or an earlier command with the same settings and types.

        Args:
            program: The plugin.

        Raises:
            UserError: The plugin doesn't start.
        """
        settings = {name: value for name, value in self.environment.items() if name.startswith(("AWS_", "PULUMI_"))}
        identity = [settings, self._types, Path(program).read_text(encoding="utf-8")]
        return self._port("the AWS plugin", [program, "--shared", str(self.projects)], identity)

    def language_host(self) -> int:
        """Return the port of a language host, started by this or an earlier command with the same environment.

        Raises:
            UserError: The host doesn't start.
        """
        variables = {name: value for name, value in self.environment.items() if name not in _OF_THE_SHELL}
        packages = [Path(sysconfig.get_path(name)).stat().st_mtime_ns for name in ("purelib", "platlib")]
        services = {token.removeprefix("aws:").partition("/")[0] for token in self._types}
        command = [sys.executable, "-P", "-m", "xfarm.toolchain.shared_language_host", *sorted(services)]
        return self._port("the language host", command, [variables, packages])

    @cached_property
    def _types(self) -> list[str]:
        return sorted(types_in_use(self.projects, self.projects.parent / "shared"))

    def _port(self, name: str, command: list[str], identity: object) -> int:
        """Return the port of a server that was started with the same command, identity and code of this package.

        Its command has two more arguments: the file that those who use it have locked, and the owner's.
        """
        key = json.dumps([command, identity, _sources()], sort_keys=True)
        record = self.folder / hashlib.sha256(key.encode()).hexdigest()[:16]
        record.mkdir(parents=True, exist_ok=True)
        users = (record / "users").open("a+")
        share(users)
        _used.append(users)
        with (record / "starting").open("w") as starting:
            wait_for(starting)
            if not _recorded(record):
                _start(name, [*command, users.name, str(self.owner)], self.environment, record)
            return _recorded(record)


@cache
def _sources() -> list[str]:
    """Return the code that the servers run: this package's, and the modules of `xfarm` that it imports."""
    folders = list(Path(__file__).parents)[:2]
    return [path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.glob("*.py"))]


def _recorded(record: Path) -> int:
    """Return the port of the server that keeps the file `server` locked, or 0 if none does."""
    with (record / "server").open("a+") as lock:
        if acquire(lock):
            return 0
        lock.seek(0)
        return int(lock.read() or 0)  # empty if the command that started it was killed before it knew the port


def _start(name: str, command: list[str], environment: Mapping[str, str], record: Path) -> None:
    (record / "server").unlink()  # may be locked by a server whose port is not known, which ends when it is unused
    with (record / "server").open("w") as lock, (record / "log").open("w") as log:
        acquire(lock)
        server = subprocess.Popen(
            command,
            env={**environment, "GRPC_VERBOSITY": "ERROR"},  # by default, gRPC logs each engine that disconnects
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # so that Ctrl-C reaches the engines only, which finish what is in progress
        )
        port = server.stdout.readline() if server.stdout else ""
        if not port:
            server.wait()
            last = next(
                reversed(Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()), "no message"
            )
            raise UserError(f"{name} ended at once ({last}): see {log.name}.")
        lock.write(port)
