"""The servers for all commands of a checkout: when a running one serves, and when another is started."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.killed import at_each_line
from xfarm.errors import UserError
from xfarm.file_locks import acquire
from xfarm.toolchain.servers import Servers

SERVER = "echo $$; exec sleep 600"
"""A shell's program for a server whose port is its process id."""


class Starter:
    """Finds or starts plugins in a folder, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".local" / "servers"
        self.projects = folder / "stacks"
        self.projects.mkdir(exist_ok=True)
        self.started: set[int] = set()
        self.program = self._write(SERVER)

    def _write(self, program: str) -> str:
        path = self.projects.parent / "plugin"
        path.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
        path.chmod(0o755)
        return program

    def port(self, program: str = SERVER, **environment: str) -> int:
        """Return the port of a plugin, which is a shell's program."""
        if program != self.program:  # several commands may read it at the same time
            self.program = self._write(program)
        variables = {"PATH": os.environ["PATH"]} | environment
        servers = Servers(variables, self.folder, self.folder / "owner", self.projects)
        port = servers.plugin(str(self.projects.parent / "plugin"))
        self.started.add(port)
        return port


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    made = Starter(tmp_path)
    yield made
    for plugin in made.started:
        with suppress(ProcessLookupError):
            os.kill(plugin, signal.SIGKILL)


def test_commands_with_the_same_environment_and_programs_share_a_plugin(starter: Starter) -> None:
    first = starter.port(TERM="xterm")
    assert starter.port(TERM="dumb") == first
    assert starter.port(AWS_ENDPOINT_URL="http://127.0.0.1:1") != first
    (starter.projects / "program.py").write_text("aws.sqs.Queue()", encoding="utf-8")
    assert starter.port() != first
    assert len(starter.started) == 3


def test_a_plugin_that_was_killed_is_started_again(starter: Starter) -> None:
    first = starter.port()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert starter.port() != first


def test_commands_that_start_at_the_same_time_start_one_plugin(starter: Starter) -> None:
    with ThreadPoolExecutor() as pool:
        ports = [pool.submit(starter.port) for _ in range(4)]
        assert len({port.result() for port in ports}) == 1


def test_the_plugin_can_see_that_a_command_uses_it_until_that_ends(starter: Starter) -> None:
    program = "import sys; from tests.unit.test_toolchain_servers import Starter, Path;"
    program += "Starter(Path(sys.argv[1])).port(); print(flush=True); input()"
    folder = starter.folder.parents[1]
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin
        assert other.stdout
        other.stdout.readline()
        (users,) = starter.folder.glob("*/users")
        with users.open() as lock:
            assert not acquire(lock)
            other.communicate("\n")
            assert acquire(lock)
    starter.port()  # for the fixture, which ends it


def test_a_plugin_that_ends_at_once_is_an_error_that_names_its_log(starter: Starter) -> None:
    with pytest.raises(UserError, match=r"^the AWS plugin ended at once \(no such provider\): see .*/log\.") as error:
        starter.port("echo no such provider >&2")
    log = Path(str(error.value).rpartition(" ")[2].removesuffix("."))
    assert log.read_text() == "no such provider\n"


def test_a_plugin_is_found_or_started_after_a_command_that_was_killed_at_any_line(
    starter: Starter, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    pids.touch()
    # A plugin that may go on running when nobody reads its port.
    program = f"trap '' PIPE; echo $$ >>{pids}; {SERVER}"
    for _line in at_each_line(lambda: starter.port(program)):
        port = starter.port(program)
        for pid in {*map(int, pids.read_text(encoding="utf-8").split())} - starter.started:
            os.kill(pid, signal.SIGKILL)
        assert starter.port(program) == port
        pids.write_text("", encoding="utf-8")
        shutil.rmtree(starter.folder)
