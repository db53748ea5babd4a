"""How the Pulumi CLI is run: what stops it, and what it inherits."""

import os
import sys
import threading
from pathlib import Path

import pytest
from pulumi.automation import CommandError

from tests.support.waiting import eventually
from xfarm.errors import UserError
from xfarm.orchestrator.locks import claim
from xfarm.orchestrator.pulumi_cli import PulumiCli, require_supported_cli, stop_engines

PULUMI = f"""#!{sys.executable}
import datetime, json, os, pathlib, signal, socket, sys
if sys.argv[1:] == ["version"]:
    sys.exit(print("v3.259.0"))
record = pathlib.Path(os.environ["RECORD"])
told, parent = 0, os.getppid()
def stop(*_):
    global told
    told += 1
    pathlib.Path(f"told {{told}}").touch()
signal.signal(signal.SIGINT, stop)
pathlib.Path("begun").write_text(json.dumps([os.getpgrp() == os.getpid(), sys.stdin.read(), sys.argv[1:]]))
if "lock" in sys.argv:
    lock = pathlib.Path(".pulumi/locks/organization/storage/dev/1.json")
    lock.parent.mkdir(parents=True)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    lock.write_text(json.dumps({{"pid": os.getpid(), "hostname": socket.gethostname(), "timestamp": now}}))
if "error" in sys.argv:
    sys.exit("error: as told")
while told < 2 and os.getppid() == parent and not pathlib.Path("end").exists():
    signal.sigtimedwait([], 0.02)
print(told)
print(record.exists() and record.read_text())
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PulumiCli:
    (tmp_path / "pulumi").write_text(PULUMI, encoding="utf-8")
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return PulumiCli()


class Running(threading.Thread):
    """A command that runs until it is stopped, or the file `end` is there."""

    def __init__(self, cli: PulumiCli, folder: Path, *arguments: str) -> None:
        super().__init__(daemon=True)
        self._cli = cli
        self._folder = folder
        self._arguments = arguments
        self.output = ""
        self.start()
        eventually((folder / "begun").exists)

    def stop(self) -> None:
        """Send two signals to the engines, and wait for the command's end."""
        for number in (1, 2):
            stop_engines()
            eventually((self._folder / f"told {number}").exists)
        self.join()

    def run(self) -> None:
        environment = {"RECORD": str(self._folder / ".xfarm/locks/storage/dev.json")}
        self.output = self._cli.run(list(self._arguments), str(self._folder), environment).stdout


def test_each_signal_to_this_program_is_passed_on_to_an_engine_in_a_group_of_its_own(
    cli: PulumiCli, tmp_path: Path
) -> None:
    running = Running(cli, tmp_path, "up", "--yes")
    running.stop()
    assert running.output.startswith("2\n")
    begun = (tmp_path / "begun").read_text(encoding="utf-8")
    assert begun == '[true, "", ["--non-interactive", "up", "--yes"]]'


def test_a_command_that_only_writes_a_state_is_not_stopped(cli: PulumiCli, tmp_path: Path) -> None:
    running = Running(cli, tmp_path, "stack", "import")
    stop_engines()
    (tmp_path / "end").touch()
    running.join()
    assert running.output.startswith("0\n")


def test_an_engine_is_on_record_while_it_runs_and_no_longer(cli: PulumiCli, tmp_path: Path) -> None:
    record = tmp_path / ".xfarm/locks/storage/dev.json"
    with claim(tmp_path.as_uri(), "storage", "dev", print) as claimed:
        running = Running(cli.under(claimed), tmp_path, "up")
        assert '"pid": ' in record.read_text(encoding="utf-8")
        running.stop()
        assert f'"host": "{os.uname().nodename}"' in running.output
        assert record.read_text(encoding="utf-8") == "{}"


def test_an_engine_that_fails_leaves_no_lock(cli: PulumiCli, tmp_path: Path) -> None:
    lock = tmp_path / ".pulumi/locks/organization/storage/dev/1.json"
    with claim(tmp_path.as_uri(), "storage", "dev", print) as claimed:
        with pytest.raises(CommandError):
            cli.under(claimed).run(["up", "error", "lock"], str(tmp_path), {"RECORD": ""})
        assert not lock.exists()


def test_a_failure_is_an_error_of_the_automation_api(cli: PulumiCli, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="error: as told"):
        cli.run(["up", "error"], str(tmp_path), {"RECORD": ""})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("#!/bin/sh\nexit 3\n", r": run 'pulumi version' to see why\."),
        ("#!/none\n", r": run 'pulumi version' to see why\."),
        ("#!/bin/sh\necho v3.255.0\n", r"\. .*requirement is 3\.256\.0, your current CLI version is 3\.255\.0"),
    ],
)
@pytest.mark.usefixtures("cli")
def test_a_cli_that_can_t_be_used_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    require_supported_cli()
    (tmp_path / "pulumi").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"the Pulumi CLI on your PATH can't be used{sentence}"):
        require_supported_cli()
