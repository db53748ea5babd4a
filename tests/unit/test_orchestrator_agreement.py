"""What is shown and asked before a deployment and a destruction, and what happens if the plan is outdated."""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from threading import Event
from typing import Any

import pytest
from rich.console import Console

from xfarm.errors import UserError
from xfarm.orchestrator import commands, existing, losses, targets
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
        self.missing: set[str] = set()
        self.refresh = False
        self.interrupting = False
        self.changed: dict[str, list[list[str]]] = {}
        self.regions = {"eu-west-1"}
        self.resources = 1

    def engine(self, _stack: str, _on_event: OnStackEvent, _notify: Callable[[str], None], stopping: Event) -> "Engine":
        return Engine(self, stopping)


class Engine:
    """A fake engine for these stacks."""

    def __init__(self, stacks: Stacks, stopping: Event) -> None:
        self._stacks = stacks
        self._stopping = stopping

    previews_in_place = False

    def redirect(self, _on_event: OnStackEvent, _notify: Callable[[str], None]) -> None:
        """Ignore the callbacks."""

    def create_missing(self, _projects: object) -> None:
        """Create nothing."""

    def exports(self) -> dict[str, Outputs | None]:
        return {project: {} for project in PROJECTS}

    def resources(self, project: str) -> int:
        return 0 if project in self._stacks.missing else self._stacks.resources

    def regions(self) -> set[str]:
        return self._stacks.regions

    def pending(self, project: str) -> set[str]:
        return {f"pending of {project}"}

    def deployed(self, _projects: object) -> list[tuple[str, str]]:
        return [("aws:s3/bucket:Bucket", "files")]

    def changed_since(self, preview: Preview, _needs: object) -> list[str]:
        changed = self._stacks.changed.get(preview.report.project)
        return changed.pop(0) if changed else []

    def preview(
        self, project: str, exports: Mapping[str, Outputs | None], *, refresh: bool, destroying: bool
    ) -> Preview:
        assert refresh is self._stacks.refresh
        self._stacks.done.append(f"plan {project}")
        if self._stacks.interrupting:
            self._stopping.set()
        operation = "delete" if destroying else "update"
        steps = [Change(f"{project}-resource", "", "aws:t", operation, may=False, properties=[])]
        changes, steps = ({operation: 1}, steps) if self._stacks.changing else ({"same": 1}, [])
        report = Report(
            project, "failed" if project in self._stacks.failing else "done", "no such bucket", changes, steps
        )
        return Preview(report, [], {}, [], exports, "")

    def run(self, project: str, operation: Operation, *, refresh: bool) -> Report:
        assert refresh is self._stacks.refresh
        self._stacks.done.append(f"{operation} {project}")
        return Report(project, changes={"update": 1} if self._stacks.resources else {})


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
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
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


@pytest.mark.parametrize(("operation", "said"), [("destroy", "destroy"), ("drift", "compare with AWS")])
def test_what_has_no_resources_is_told(
    stacks: Stacks, capsys: pytest.CaptureFixture[str], operation: Operation, said: str
) -> None:
    stacks.resources = 0
    assert commands.operate(operation, "local") == 0
    assert f"Nothing to {said}: 'local' has no resources.\n" in capsys.readouterr().out


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


def test_a_second_plan_that_is_declined_does_not_deny_what_was_done(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks.changed = {"messaging": [["its state"]]}
    answers = iter(("yes", "no"))

    def answer(_console: Console, _question: str) -> str:
        return next(answers)

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(Console, "input", answer)
    with pytest.raises(UserError, match="that was not 'yes', so nothing more was done"):
        commands.operate("deploy", "dev")
    assert stacks.done[3:4] == ["deploy storage"]


@pytest.mark.parametrize("options", [{}, {"yes": True}])
def test_an_incomplete_plan_is_not_deployed(stacks: Stacks, asked: list[str], options: dict[str, Any]) -> None:
    stacks.failing = {"messaging"}
    with pytest.raises(UserError, match="the plan is incomplete"):
        commands.operate("deploy", "dev", **options)
    assert not any(done.startswith("deploy") for done in stacks.done)
    assert asked == []


@pytest.mark.parametrize("failing", [(), PROJECTS])
def test_after_ctrl_c_during_the_plan_nothing_is_asked_or_done(
    stacks: Stacks, asked: list[str], failing: tuple[str, ...]
) -> None:
    stacks.interrupting, stacks.failing = True, set(failing)
    with pytest.raises(UserError) as raised:
        commands.operate("deploy", "dev")
    assert str(raised.value) == "interrupted by Ctrl-C, so nothing was deployed."
    assert set(stacks.done) <= PLANS
    assert asked == []


@pytest.mark.parametrize("command", [("deploy", "local"), ("deploy", "dev"), ("preview", "dev")])
def test_a_stack_destroyed_under_another_causes_a_refresh(
    stacks: Stacks, command: tuple[Operation, str], capsys: pytest.CaptureFixture[str]
) -> None:
    stacks.missing, stacks.refresh = {"storage"}, True
    operation, stack = command
    assert commands.operate(operation, stack, yes=True) == 0
    wanted = "'storage' is not deployed, although 'messaging' needs it: refreshing first, as AWS may have deleted more"
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize("missing", [{"compute"}, {"messaging", "compute"}, set(PROJECTS)])
def test_a_missing_stack_that_no_deployed_one_needs_causes_no_refresh(stacks: Stacks, missing: set[str]) -> None:
    stacks.missing = missing
    assert commands.operate("preview", "dev") == 0


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


# Resources that exist already, and other regions


@pytest.fixture
def in_the_way(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a queue be in the way of messaging, and return what was looked for."""
    looked_for: list[str] = []

    def conflicts(changes: Iterable[Change], pending: Collection[str]) -> list[str]:
        (change,) = changes
        looked_for.extend((change.resource, *pending))
        return ["the queue 'q' exists already and is prod's", "so is 'r'"] if "messaging" in change.resource else []

    monkeypatch.setattr(existing, "conflicts", conflicts)
    return looked_for


@pytest.mark.parametrize("operation", ["deploy", "preview"])
def test_what_exists_already_is_refused_before_anything_is_changed_and_the_rest_of_the_plan_is_shown(
    stacks: Stacks, in_the_way: list[str], capsys: pytest.CaptureFixture[str], operation: Operation
) -> None:
    if operation == "deploy":
        with pytest.raises(UserError, match="the plan is incomplete"):
            commands.operate("deploy", "dev", yes=True)
    else:
        assert commands.operate("preview", "dev") == 1
    assert set(stacks.done) == PLANS
    printed = capsys.readouterr().out
    assert "messaging failed: the queue 'q' exists already and is prod's; so is 'r'" in printed
    assert "~ compute    compute-resource" in printed
    expected = [f"{project}-resource" for project in PROJECTS] + [f"pending of {project}" for project in PROJECTS]
    assert sorted(in_the_way) == sorted(expected)


@pytest.mark.usefixtures("asked")
def test_what_exists_is_not_in_the_way_of_a_destruction(in_the_way: list[str]) -> None:
    assert commands.operate("destroy", "dev") == 0
    assert in_the_way == []


@pytest.mark.parametrize(("resources", "anything", "planned"), [(0, True, True), (0, False, False), (1, True, False)])
def test_local_is_planned_if_the_emulator_has_resources_and_the_state_has_none(
    stacks: Stacks,
    monkeypatch: pytest.MonkeyPatch,
    resources: int,
    anything: bool,  # noqa: FBT001 - a test parameter
    planned: bool,  # noqa: FBT001 - a test parameter
) -> None:
    stacks.resources = resources
    monkeypatch.setattr(existing, "anything", lambda: anything)
    assert commands.operate("deploy", "local") == 0
    assert set(stacks.done) == ({*PLANS, *DEPLOYED} if planned else set(DEPLOYED))


@pytest.mark.parametrize("operation", ["deploy", "preview", "destroy", "drift"])
def test_a_stack_of_another_region_is_refused(stacks: Stacks, operation: Operation) -> None:
    stacks.regions = {"us-east-1"}
    with pytest.raises(UserError, match="'dev' is deployed in us-east-1, and AWS_REGION is eu-west-1: set AWS_REGION"):
        commands.operate(operation, "dev", yes=True)
    assert stacks.done == []
