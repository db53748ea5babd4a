"""What is shown and asked before a deployment and a destruction, and what happens if the plan is outdated."""

import json
import sys
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

import pytest
from rich.console import Console

from xfarm.errors import UserError
from xfarm.orchestrator import commands, losses, targets
from xfarm.orchestrator.changes import Change
from xfarm.orchestrator.engine import OnStackEvent, Operation, Preview, Report
from xfarm.orchestrator.scratch import Outputs

PROJECTS = ("storage", "messaging", "compute")


class Stacks:
    """Fake stacks: a test sets the result of their previews and what changes later; they record what is done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.changing = True
        self.failing: set[str] = set()
        self.changed: dict[str, list[list[str]]] = {}

    def engine(
        self, _stack: str, _on_event: OnStackEvent, _notify: Callable[[str], None], _stopping: Event
    ) -> "Engine":
        return Engine(self)


class Engine:
    """A fake engine for these stacks."""

    def __init__(self, stacks: Stacks) -> None:
        self._stacks = stacks

    def redirect(self, _on_event: OnStackEvent, _notify: Callable[[str], None]) -> None:
        """Ignore the callbacks."""

    def create_missing(self, _projects: object) -> None:
        """Create nothing."""

    def exports(self) -> dict[str, Outputs | None]:
        return {project: {} for project in PROJECTS}

    def resources(self, _project: str) -> int:
        return 1

    def deployed(self, _projects: object) -> list[tuple[str, str]]:
        return [("aws:s3/bucket:Bucket", "files")]

    def changed_since(self, preview: Preview, _needs: object) -> list[str]:
        changed = self._stacks.changed.get(preview.report.project)
        return changed.pop(0) if changed else []

    def preview(
        self, project: str, exports: Mapping[str, Outputs | None], *, refresh: bool, destroying: bool
    ) -> Preview:
        assert not refresh
        self._stacks.done.append(f"plan {project}")
        operation = "delete" if destroying else "update"
        steps = [Change(f"{project}-resource", "", "aws:t", operation, may=False, properties=[])]
        changes, steps = ({operation: 1}, steps) if self._stacks.changing else ({"same": 1}, [])
        report = Report(
            project, "failed" if project in self._stacks.failing else "done", "no such bucket", changes, steps
        )
        return Preview(report, [], {}, [], exports, "")

    def run(self, project: str, operation: Operation, *, refresh: bool) -> Report:
        assert not refresh
        self._stacks.done.append(f"{operation} {project}")
        return Report(project, changes={"update": 1})


def lost(resources: list[tuple[str, str]]) -> list[str]:
    return [f"the bucket '{identity}' with 2 files [1 byte]" for _, identity in resources]


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> Stacks:
    stacks = Stacks()
    monkeypatch.setattr(commands, "Engine", stacks.engine)
    monkeypatch.setattr(commands, "_refuse_gaps", nothing)
    monkeypatch.setattr(losses, "losses", lost)
    monkeypatch.setattr(targets, "activate", nothing)
    return stacks


@pytest.fixture
def asked(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions to the user, who answers as expected."""
    questions: list[str] = []

    def answer(_console: Console, question: str) -> str:
        questions.append(question)
        stacks.done.append("asked")
        return question.split("'")[1]

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(Console, "input", answer)
    return questions


PLANS = {f"plan {project}" for project in PROJECTS}
DEPLOYED = [f"deploy {project}" for project in PROJECTS]


def test_a_deployment_shows_the_plan_before_it_asks(
    stacks: Stacks, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.operate("deploy", "dev") == 0
    assert set(stacks.done[:3]) == PLANS
    assert stacks.done[3:] == ["asked", *DEPLOYED]
    assert asked == ["Type 'yes' to deploy 'dev': "]
    assert "~ compute    compute-resource" in capsys.readouterr().out


def test_a_destruction_shows_the_plan_before_it_asks(
    stacks: Stacks, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.operate("destroy", "dev") == 0
    assert set(stacks.done[:3]) == PLANS
    assert stacks.done[3:] == ["asked", *(f"destroy {project}" for project in reversed(PROJECTS))]
    assert asked == ["Type 'dev' to destroy 'dev' and all files in it: "]
    printed = capsys.readouterr().out
    assert "- storage    storage-resource" in printed
    assert "Deletes the bucket 'files' with 2 files [1 byte]." in printed


def test_yes_shows_the_plan_and_does_not_ask(stacks: Stacks, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.operate("deploy", "dev", yes=True, as_json=True) == 0
    assert stacks.done[3:] == DEPLOYED
    printed = capsys.readouterr()
    assert "~ compute    compute-resource" in printed.err
    assert [report["project"] for report in json.loads(printed.out)] == list(PROJECTS)


def test_local_is_deployed_without_a_plan(stacks: Stacks) -> None:
    assert commands.operate("deploy", "local") == 0
    assert stacks.done == DEPLOYED


def test_a_plan_without_changes_needs_no_confirmation(stacks: Stacks, asked: list[str]) -> None:
    stacks.changing = False
    assert commands.operate("deploy", "dev") == 0
    assert (stacks.done[3:], asked) == (DEPLOYED, [])


def test_nothing_is_done_without_a_confirmation(
    stacks: Stacks, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_console: Console, _question: str) -> str:
        return "no"

    monkeypatch.setattr(Console, "input", refuse)
    with pytest.raises(UserError, match="that was not 'yes', so nothing was done"):
        commands.operate("deploy", "dev")
    assert (set(stacks.done), asked) == (PLANS, [])


@pytest.mark.parametrize("options", [{}, {"yes": True}])
def test_an_incomplete_plan_is_not_deployed(stacks: Stacks, asked: list[str], options: dict[str, Any]) -> None:
    stacks.failing = {"messaging"}
    with pytest.raises(UserError, match="the plan is incomplete"):
        commands.operate("deploy", "dev", **options)
    assert not any(done.startswith("deploy") for done in stacks.done)
    assert asked == []


def test_with_yes_an_outdated_plan_stops_the_deployment(stacks: Stacks, capsys: pytest.CaptureFixture[str]) -> None:
    stacks.changed = {"messaging": [["its state", "storage.prefix"]]}
    assert commands.operate("deploy", "dev", yes=True) == 1
    assert stacks.done[3:] == ["deploy storage"]
    wanted = (
        "messaging: its state and storage.prefix changed after the plan was shown, so this stack was left as it is."
    )
    assert wanted in capsys.readouterr().out


def test_an_outdated_plan_is_shown_and_confirmed_again(stacks: Stacks, asked: list[str]) -> None:
    stacks.changed = {"messaging": [["its state"]]}
    assert commands.operate("deploy", "dev") == 0
    first, second = stacks.done[:5], stacks.done[5:]
    assert first[3:] == ["asked", "deploy storage"]
    assert set(second[:2]) == {"plan messaging", "plan compute"}
    assert second[2:] == ["asked", "deploy messaging", "deploy compute"]
    assert len(asked) == 2
