"""What the orchestrator asks of the Pulumi CLI, each start of which takes a fifth of a second: a CLI that notes it."""

import json
from pathlib import Path

import pytest

from xfarm.errors import UserError
from xfarm.orchestrator.engine import Engine, Operation

CLI = """#!/bin/sh
case "$*" in
version) echo v3.259.0; exit ;;
*) echo "$(basename "$PWD") $*" >> {notes} ;;
esac
case "$*" in
*"stack export"*) cat {states}/"$(basename "$PWD")" || {{ echo "error: no stack named 'dev' found" >&2; exit 255; }} ;;
esac
"""
NOTHING: dict[str, object] = {"deployment": None}
DEPLOYED = {"deployment": {"resources": [{"type": "pulumi:pulumi:Stack"}, {"type": "aws:s3/bucket:Bucket"}]}}
ROLE = {"type": "aws:iam/role:Role", "urn": "urn::role", "inputs": {"name": "reader"}}
CUT_OFF = {"deployment": {"pending_operations": [{"type": "creating", "resource": ROLE}]}}


PROJECTS = ("storage", "messaging", "compute")


class Cli:
    """A `pulumi` that answers with given states, and does nothing else."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "notes"
        self._states = folder / "states"
        self._states.mkdir()
        (folder / "pulumi").write_text(CLI.format(notes=self._notes, states=self._states), encoding="utf-8")
        (folder / "pulumi").chmod(0o755)
        self.states(NOTHING)

    def states(self, state: object) -> None:
        """Let it export this of every project."""
        for project in PROJECTS:
            (self._states / project).write_text(json.dumps(state), encoding="utf-8")

    def forget(self, *projects: str) -> None:
        """Let it know of no stack in these projects."""
        for project in projects:
            (self._states / project).unlink()

    @property
    def asked(self) -> list[str]:
        """What it was asked, without options, in order."""
        lines = self._notes.read_text(encoding="utf-8").splitlines()
        return [line.replace("--non-interactive ", "").partition(" --")[0] for line in lines]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Cli(tmp_path)


LOOK = ["compute stack export", "messaging stack export", "storage stack export"]


@pytest.mark.parametrize(("operation", "command"), [("deploy", "up"), ("destroy", "destroy")])
def test_an_update_asks_for_all_states_at_once_and_for_nothing_afterwards(
    cli: Cli, operation: Operation, command: str
) -> None:
    engine = Engine("dev", lambda *_: None, print)
    assert engine.run("storage", operation).outcome == "done"
    assert sorted(cli.asked[:3]) == LOOK
    assert cli.asked[3:] == [f"storage {command}"]


def test_stacks_that_are_missing_are_created_and_no_others(cli: Cli) -> None:
    cli.forget("storage", "messaging")
    engine = Engine("dev", lambda *_: None, print)
    assert engine.run("messaging", "destroy").outcome == "absent"
    engine.create_missing(["storage", "compute"])
    assert engine.run("storage", "deploy").outcome == "done"
    assert cli.asked[3:] == ["storage stack init dev", "storage up"]


def test_what_was_cut_off_is_looked_into_before_it_is_gone_on_with(cli: Cli) -> None:
    cli.states(CUT_OFF)
    said: list[str] = []
    engine = Engine("dev", lambda *_: None, said.append)
    assert engine.run("storage", "deploy").outcome == "done"
    assert cli.asked[3:] == ["storage refresh", "storage stack export", "storage stack import", "storage up"]
    assert "the last update was cut off" in said[0]


def test_how_much_is_deployed_is_known_without_asking_again(cli: Cli) -> None:
    cli.states(DEPLOYED)
    engine = Engine("dev", lambda *_: None, print)
    assert engine.resources("messaging") == 1
    assert sorted(cli.asked) == LOOK


def test_a_state_that_cannot_be_read_is_told_by_project(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pulumi").write_text(
        '#!/bin/sh\n[ "$1" = version ] && echo v3.259.0 && exit\necho "error: no such bucket" >&2\nexit 255\n',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"storage: no such bucket\."):
        Engine("dev", lambda *_: None, print)
    assert cli
