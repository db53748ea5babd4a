"""What the orchestrator asks of the Pulumi CLI, each start of which takes a fifth of a second: a CLI that notes it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pulumi.automation import CommandError, CommandResult, ConcurrentUpdateError

from xfarm.errors import UserError
from xfarm.orchestrator import scratch
from xfarm.orchestrator.engine import Engine, Operation, Preview, Report, explain

CLI = """#!/bin/sh
case "$*" in
version) echo v3.259.0; exit ;;
*) echo "$(basename "$PWD") $*" >> {notes} ;;
esac
case "$*" in
*"stack export"*) cat {states}/"$(basename "$PWD")" || {{ echo "error: no stack named 'dev' found" >&2; exit 255; }} ;;
*--save-plan*) find "${{PULUMI_BACKEND_URL#file://}}" -name "*.json" -exec cat {{}} + >> {notes} ;;
preview*|*" preview"*) echo "error: as told" >&2; exit 255 ;;
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
            self.state(project, state)

    def state(self, project: str, state: object) -> None:
        """Let it export this of one project."""
        (self._states / project).write_text(json.dumps(state), encoding="utf-8")

    def forget(self, *projects: str) -> None:
        """Let it know of no stack in these projects."""
        for project in projects:
            (self._states / project).unlink()

    @property
    def notes(self) -> str:
        """What it was asked, as it was."""
        return self._notes.read_text(encoding="utf-8")

    @property
    def asked(self) -> list[str]:
        """What it was asked, without options, in order."""
        lines = self.notes.splitlines()
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
    assert ("--ignore-protect" in cli.notes) is (operation == "destroy")


def test_what_holds_files_and_is_not_protected_is_not_deployed_unless_a_preview_has_shown_what_is_lost(
    cli: Cli,
) -> None:
    cli.states(DEPLOYED)
    report = Engine("dev", lambda *_: None, print).run("storage", "deploy")
    assert (report.outcome, report.reason) == ("failed", "as told")
    assert cli.asked[3:] == ["storage preview"]


def test_what_is_protected_is_deployed_without_a_preview(cli: Cli) -> None:
    cli.states({"deployment": {"resources": [{"type": "aws:s3/bucket:Bucket", "protect": True}]}})
    assert Engine("dev", lambda *_: None, print).run("storage", "deploy").outcome == "done"
    assert cli.asked[3:] == ["storage up"]


def test_a_pulumi_that_knows_no_way_to_destroy_what_is_protected_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pulumi").write_text("#!/bin/sh\necho v3.255.0\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"minimum CLI version requirement is 3\.256\.0, your current CLI version is 3\.255\.0"
    ):
        Engine("dev", lambda *_: None, print)
    assert cli


LOCKED = """
 code: 255
 stdout:
 stderr: error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete
  s3://state/.pulumi/locks/organization/messaging/dev/12.json?region=x: created by anna@host (pid 7) at 2026-11-24
"""


def test_a_lock_is_told_with_what_releases_it() -> None:
    told = explain(ConcurrentUpdateError(CommandResult("", LOCKED, 255)))
    assert "the stack is locked by anna@host (process 7) since 2026-11-24, and nothing was changed" in told
    assert told.endswith("or, if you are sure that it runs on no machine, run 'xfarm unlock dev'")


@pytest.mark.parametrize("name", ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"])
def test_another_passphrase_is_told_with_the_variable_that_holds_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    monkeypatch.setenv(name, "other")
    told = explain(CommandError(CommandResult("", "error: getting secrets manager: incorrect passphrase", 255)))
    assert told.endswith(f": unset {name}")


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


def test_a_preview_sees_what_the_others_will_export_and_leaves_the_backend_alone(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", (tmp_path / "state").as_uri())
    cli.states(DEPLOYED)
    cli.forget("storage")
    engine = Engine("dev", lambda *_: None, print)
    assert engine.exports() == {"storage": None, "messaging": {}, "compute": {}}
    with pytest.raises(RuntimeError, match="summary event"):  # the engine's, which this one doesn't send
        engine.preview("storage", {"messaging": {"url": "as it will be"}, "compute": None})
    assert cli.asked[3].startswith("storage preview")
    assert '"outputs": {"url": "as it will be"}' in cli.notes
    assert "stack init" not in cli.notes
    assert not (tmp_path / "state").exists()


def test_a_preview_on_pulumi_cloud_sees_what_the_others_export(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "https://api.pulumi.com")
    found = Engine("dev", lambda *_: None, print).preview("storage", {})
    assert (found.report.outcome, found.report.reason, found.outputs) == ("failed", "as told", {})
    assert cli.asked[3:] == ["storage preview"]


def planned(engine: Engine, **exports: dict[str, object]) -> Preview:
    others = engine.exports() | exports
    return Preview(Report("messaging"), [], {}, [], others, scratch.sources("messaging"))


def storage(**exported: object) -> dict[str, object]:
    return {"deployment": {"resources": [{"type": "pulumi:pulumi:Stack", "outputs": exported}]}}


def test_a_plan_holds_while_state_program_and_outputs_are_as_they_were_to_be(cli: Cli) -> None:
    engine = Engine("dev", lambda *_: None, print)
    plan = planned(engine, storage={"prefix": "in/", "arn": scratch.UNKNOWN})
    cli.states({"deployment": {"manifest": "of a stack that was made since, and has nothing in it"}})
    cli.state("storage", storage(prefix="in/", arn="arn:known by now"))
    assert engine.differing(plan, ["storage"]) == []


@pytest.mark.parametrize(
    ("exported", "differing"),
    [
        ({"prefix": "drop/", "arn": "x"}, ["storage.prefix"]),
        ({"arn": "x"}, ["storage.prefix"]),
        ({"prefix": "in/", "arn": "x", "more": 1}, ["storage.more"]),
    ],
)
def test_a_plan_is_outdated_where_a_stack_exports_something_else(
    cli: Cli, exported: dict[str, object], differing: list[str]
) -> None:
    engine = Engine("dev", lambda *_: None, print)
    plan = planned(engine, storage={"prefix": "in/", "arn": scratch.UNKNOWN})
    cli.state("storage", storage(**exported))
    assert engine.differing(plan, ["storage"]) == differing
    assert engine.differing(plan, []) == []


def test_a_plan_is_outdated_by_another_state_and_by_another_program(cli: Cli) -> None:
    engine = Engine("dev", lambda *_: None, print)
    plan = planned(engine)
    cli.state("messaging", CUT_OFF)
    assert engine.differing(plan, []) == ["its state"]
    assert engine.differing(replace(plan, sources="others"), []) == ["its state", "its program or settings"]


def test_a_digest_is_of_what_the_program_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "ROOT", tmp_path)
    monkeypatch.setattr(scratch, "STACKS", tmp_path / "stacks")
    files = [tmp_path / name for name in ("stacks/storage/Pulumi.dev.yaml", "shared/names.py", "lambda_code/a/b.py")]
    digests = [scratch.sources("storage")]
    for file in files:
        file.parent.mkdir(parents=True)
        for content in ("config: {a: 1}", "config: {", "config: {a: 2}"):
            file.write_text(content, encoding="utf-8")
            digests.append(scratch.sources("storage"))
    assert len(set(digests)) == len(digests)
    files[0].write_text("encryptionsalt: v1:x\nconfig:\n  a: 2\n", encoding="utf-8")
    for ignored in (tmp_path / "shared/__pycache__/names.pyc", tmp_path / "stacks/compute/Pulumi.dev.yaml"):
        ignored.parent.mkdir(parents=True)
        ignored.write_text("other", encoding="utf-8")
    assert scratch.sources("storage") == digests[-1]
