"""One language host for several engines: each program runs in a process of its own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pulumi
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, language_pb2, language_pb2_grpc
from typing_extensions import override

from tests.support.waiting import eventually, is_free
from xfarm.file_locks import acquire
from xfarm.toolchain import language_host, servers
from xfarm.toolchain.language_host import program_traceback
from xfarm.toolchain.servers import Servers


class Engine(engine_pb2_grpc.EngineServicer):
    """An engine, as a language host sees it."""

    def __init__(self) -> None:
        self.logged: list[str] = []

    @override
    def Log(self, request: engine_pb2.LogRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if request.severity != engine_pb2.DEBUG:
            self.logged.append(f"{engine_pb2.LogSeverity.Name(request.severity)} {request.message}")
        return empty_pb2.Empty()


class Host:
    """A host, the file that its owner keeps locked, and an engine that is attached to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "program.py").write_text("aws.sqs.Queue(), aws.lambda_.Function()", encoding="utf-8")
        self.owner = (folder / "owner").open("w")
        assert acquire(self.owner)
        self.engine = Engine()
        port = self.port()
        self._server = grpc.server(ThreadPoolExecutor(8))
        engine_pb2_grpc.add_EngineServicer_to_server(self.engine, self._server)
        self._address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = language_pb2_grpc.LanguageRuntimeStub(channel)
        self._stub.Handshake(language_pb2.LanguageHandshakeRequest(engine_address=self._address), wait_for_ready=True)

    def run(self, folder: Path, program: str) -> Any:  # noqa: ANN401 - gRPC does not name the type
        """Start a program, with a monitor that accepts no connection."""
        folder.mkdir(exist_ok=True)
        (folder / "__main__.py").write_text(program, encoding="utf-8")
        request = language_pb2.RunRequest(
            project="project", stack="stack", monitor_address=self._address, parallel=1, organization="organization"
        )
        request.info.program_directory = str(folder)
        return self._stub.Run.future(request)

    def port(self, **environment: str) -> int:
        """Return the port of the host for an environment, as a command finds it."""
        found = Servers(os.environ | environment, self.folder / "servers", self.folder / "owner", self.folder)
        return found.language_host()

    def ended(self) -> bool:
        """Return whether all hosts have ended."""
        return all(is_free(path) for path in self.folder.glob("servers/*/server"))


@pytest.fixture
def host_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Host]]:
    """Yield what starts a host in the working directory; end all hosts afterwards."""
    made: list[Host] = []

    def start() -> Host:
        made.append(Host(tmp_path_factory.mktemp("host")))
        return made[-1]

    yield start
    for each in made:
        each.owner.close()
        eventually(each.ended, seconds=60)


@pytest.fixture
def host(host_in: Callable[[], Host]) -> Host:
    return host_in()


def test_what_a_program_prints_is_shown_by_its_engine_and_an_end_without_an_answer_is_an_error(
    host: Host, tmp_path: Path
) -> None:
    program = "import os, sys; print('hello', flush=True); os.write(2, b'warned\\n'); os._exit(3)"
    assert host.run(tmp_path, program).result(timeout=60).bail
    assert host.engine.logged == [
        "INFO hello",
        "INFO warned",
        "ERROR The program's process ended with exit code 3.",
    ]


def test_a_program_has_no_arguments_of_its_host(host: Host, tmp_path: Path) -> None:
    host.run(tmp_path, "import os, sys; print(sys.argv, flush=True); os._exit(0)").result(timeout=60)
    assert host.engine.logged[0] == f"INFO {[str(tmp_path / '__main__.py')]}"


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(pulumi.RunError, match=r"__main__\.py is missing, the project's program: restore it\."):
        language_host._run(tmp_path / "__main__.py")  # noqa: SLF001 - what the engine calls needs an engine


def test_a_syntax_error_is_shown_without_the_code_that_found_it() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile("pulumi.export(", "/stacks/__main__.py", "exec")
    assert program_traceback(caught.value).startswith('  File "/stacks/__main__.py", line 1\n')


def test_each_program_has_its_own_folder_modules_and_process(host: Host, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.py").write_text(f"NAME = {name!r}", encoding="utf-8")
        program = "import os, part; print(part.NAME, os.path.basename(os.getcwd()), flush=True); os._exit(0)"
        host.run(tmp_path / name, program).result(timeout=60)
    assert [line for line in host.engine.logged if line.startswith("INFO")] == ["INFO one one", "INFO two two"]


def test_the_services_that_the_programs_use_are_imported_before_they_run(host: Host, tmp_path: Path) -> None:
    program = """
import os, sys
print([name for name in sys.modules if name in {'pulumi_aws.sqs.queue', 'pulumi_aws.lambda_.function'}], flush=True)
print('pulumi_aws.sns.topic' in sys.modules, flush=True)
os._exit(0)
"""
    host.run(tmp_path, program).result(timeout=60)
    assert host.engine.logged[0] == "INFO ['pulumi_aws.lambda_.function', 'pulumi_aws.sqs.queue']"
    assert host.engine.logged[1] == "INFO False"


@pytest.mark.parametrize("event", ["its engine gives up", "the owner of its host ends"])
def test_a_program_is_killed_when(host: Host, tmp_path: Path, event: str) -> None:
    program = "import os, threading; print(os.getpid(), flush=True); threading.Event().wait()"
    running = host.run(tmp_path, program)
    eventually(lambda: host.engine.logged, seconds=60)
    pid = int(host.engine.logged[0].removeprefix("INFO "))
    if event == "its engine gives up":
        running.cancel()
    else:
        host.owner.close()
    eventually(lambda: not alive(pid), seconds=60)
    if event == "its engine gives up":  # after an error of its own, which is the only one to show
        host.run(tmp_path, "import os; os._exit(3)").result(timeout=60)
        assert host.engine.logged[1:] == ["ERROR The program's process ended with exit code 3."]


def alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


@pytest.mark.parametrize("gone", ["before the host starts", "afterwards"])
def test_a_program_runs_though_the_first_commands_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_in: Callable[[], Host], gone: str
) -> None:
    (folder := tmp_path / "gone").mkdir()
    monkeypatch.chdir(folder)
    if gone == "before the host starts":
        folder.rmdir()
        host = host_in()
    else:
        host = host_in()
        folder.rmdir()
    monkeypatch.chdir(tmp_path)
    host.run(tmp_path, "import os; print('hello', flush=True); os._exit(0)").result(timeout=60)
    assert host.engine.logged[0] == "INFO hello"


def test_another_host_is_started_after_a_change_of_the_installed_packages(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.sysconfig, "get_path", Mock(return_value=tmp_path))
    port = host.port()
    os.utime(tmp_path, (1, 1))
    assert host.port() != port


def test_a_host_serves_later_commands_with_the_same_environment_until_its_owner_ends(host: Host) -> None:
    port = host.port()
    assert host.port(PWD="/elsewhere") == port
    assert host.port(TZ="Asia/Tokyo") != port
    assert not host.ended()
    host.owner.close()
    eventually(host.ended, seconds=60)
