"""The engine's commands to the Pulumi CLI, as few as possible: a fake CLI records them."""

import json
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from pulumi.automation import CommandError, CommandResult, ConcurrentUpdateError

from xfarm.errors import UserError
from xfarm.orchestrator import scratch
from xfarm.orchestrator.engine import Engine, Operation, Preview, Report, explain

CLI = """#!/bin/sh
case "$*" in
version) echo v3.259.0; exit ;;
*) echo "$(basename "$PWD") $*" >> {commands} ;;
esac
case "$*" in
*"stack export"*) cat {states}/"$(basename "$PWD")" || {{ echo "error: no stack named 'dev' found" >&2; exit 255; }} ;;
*--save-plan*) find "${{PULUMI_BACKEND_URL#file://}}" -name "*.json" -exec cat {{}} + >> {commands} ;;
preview*|*" preview"*) echo "error: no such thing" >&2; exit 255 ;;
esac
"""
NOTHING: dict[str, object] = {"deployment": None}
DEPLOYED = {"deployment": {"resources": [{"type": "pulumi:pulumi:Stack"}, {"type": "aws:s3/bucket:Bucket"}]}}
ROLE = {"type": "aws:iam/role:Role", "urn": "urn::role", "inputs": {"name": "reader"}}
INTERRUPTED = {"deployment": {"pending_operations": [{"type": "creating", "resource": ROLE}]}}


PROJECTS = ("storage", "messaging", "compute")


class Cli:
    """A fake `pulumi` that exports the states it is given."""

    def __init__(self, folder: Path) -> None:
        self._commands = folder / "commands"
        self._states = folder / "states"
        self._states.mkdir()
        (folder / "pulumi").write_text(CLI.format(commands=self._commands, states=self._states), encoding="utf-8")
        (folder / "pulumi").chmod(0o755)
        self.states(NOTHING)

    def states(self, state: object) -> None:
        """Set the state of every project."""
        for project in PROJECTS:
            self.state(project, state)

    def state(self, project: str, state: object) -> None:
        """Set the state of one project."""
        (self._states / project).write_text(json.dumps(state), encoding="utf-8")

    def forget(self, *projects: str) -> None:
        """Delete the stacks of these projects."""
        for project in projects:
            (self._states / project).unlink()

    @property
    def log(self) -> str:
        """The commands with their options, and the backends of previews."""
        return self._commands.read_text(encoding="utf-8")

    @property
    def commands(self) -> list[str]:
        """The commands without options, in order."""
        lines = self.log.splitlines()
        return [line.replace("--non-interactive ", "").partition(" --")[0] for line in lines]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Cli(tmp_path)


EXPORTS = ["compute stack export", "messaging stack export", "storage stack export"]


@pytest.mark.parametrize(("operation", "command"), [("deploy", "up"), ("destroy", "destroy")])
def test_all_states_are_exported_at_once_before_an_update_and_none_after_it(
    cli: Cli, operation: Operation, command: str
) -> None:
    engine = Engine("dev", lambda *_: None, print)
    assert engine.run("storage", operation).outcome == "done"
    assert sorted(cli.commands[:3]) == EXPORTS
    assert cli.commands[3:] == [f"storage {command}"]
    assert ("--ignore-protect" in cli.log) is (operation == "destroy")


def test_an_unprotected_bucket_is_previewed_before_it_is_deployed(cli: Cli) -> None:
    cli.states(DEPLOYED)
    report = Engine("dev", lambda *_: None, print).run("storage", "deploy")
    assert (report.outcome, report.reason) == ("failed", "no such thing")
    assert cli.commands[3:] == ["storage preview"]


def test_a_protected_bucket_is_deployed_without_a_preview(cli: Cli) -> None:
    cli.states({"deployment": {"resources": [{"type": "aws:s3/bucket:Bucket", "protect": True}]}})
    assert Engine("dev", lambda *_: None, print).run("storage", "deploy").outcome == "done"
    assert cli.commands[3:] == ["storage up"]


LOCKED = """
 code: 255
 stdout:
 stderr: error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete
  s3://state/.pulumi/locks/organization/messaging/dev/12.json?region=x: created by anna@host (pid 7) at 2026-11-24
"""


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_destruction_that_left_resources_after_ctrl_c_is_not_done(
    cli: Cli,
    interrupted: bool,  # noqa: FBT001 - a test parameter
) -> None:
    cli.states(DEPLOYED)
    stopping = Event()
    engine = Engine("dev", lambda *_: None, print, stopping)
    if interrupted:
        stopping.set()
    assert engine.run("storage", "destroy").outcome == ("stopped" if interrupted else "done")


def test_the_message_about_a_lock_says_how_to_release_it() -> None:
    message = explain(ConcurrentUpdateError(CommandResult("", LOCKED, 255)))
    assert "the stack is locked by anna@host (process 7) since 2026-11-24, and nothing was changed" in message
    assert message.endswith("or, if you are sure that it runs on no machine, run 'xfarm unlock dev'")


@pytest.mark.parametrize("name", ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"])
def test_the_message_about_another_passphrase_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    monkeypatch.setenv(name, "other")
    message = explain(CommandError(CommandResult("", "error: getting secrets manager: incorrect passphrase", 255)))
    assert message.endswith(f": unset {name}")


def test_only_missing_stacks_are_created(cli: Cli) -> None:
    cli.forget("storage", "messaging")
    engine = Engine("dev", lambda *_: None, print)
    assert engine.run("messaging", "destroy").outcome == "absent"
    engine.create_missing(["storage", "compute"])
    assert engine.run("storage", "deploy").outcome == "done"
    assert cli.commands[3:] == ["storage stack init dev", "storage up"]


def test_pending_operations_are_resolved_before_an_update(cli: Cli) -> None:
    cli.states(INTERRUPTED)
    messages: list[str] = []
    engine = Engine("dev", lambda *_: None, messages.append)
    assert engine.run("storage", "deploy").outcome == "done"
    assert cli.commands[3:] == ["storage refresh", "storage stack export", "storage stack import", "storage up"]
    assert "the last update was interrupted" in messages[0]


def test_deployed_resources_are_counted_without_another_command(cli: Cli) -> None:
    cli.states(DEPLOYED)
    engine = Engine("dev", lambda *_: None, print)
    assert engine.resources("messaging") == 1
    assert sorted(cli.commands) == EXPORTS


def test_the_message_about_an_unreadable_state_names_the_project(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pulumi").write_text(
        '#!/bin/sh\n[ "$1" = version ] && echo v3.259.0 && exit\necho "error: no such bucket" >&2\nexit 255\n',
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=r"storage: no such bucket\."):
        Engine("dev", lambda *_: None, print)
    assert cli


def test_a_preview_uses_planned_outputs_and_leaves_the_backend_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "gs://state")
    cli.states(DEPLOYED)
    cli.forget("storage")
    engine = Engine("dev", lambda *_: None, print)
    assert engine.exports() == {"storage": None, "messaging": {}, "compute": {}}
    with pytest.raises(RuntimeError, match="summary event"):  # the fake CLI sends none
        engine.preview("storage", {"messaging": {"url": "planned"}, "compute": None})
    assert cli.commands[3].startswith("storage preview")
    assert '"outputs": {"url": "planned"}' in cli.log
    assert "stack init" not in cli.log
    assert "gs://state" not in cli.log


def test_a_preview_of_a_destruction_resolves_pending_operations_in_its_copy(cli: Cli) -> None:
    cli.states(INTERRUPTED)
    engine = Engine("dev", lambda *_: None, print)
    with pytest.raises(RuntimeError, match="summary event"):
        engine.preview("storage", engine.exports(), destroying=True)
    *resolving, destruction = cli.log.splitlines()[3:]
    assert cli.commands[3:] == ["storage refresh", "storage stack export", "storage stack import", "storage destroy"]
    # Of these commands, only `pulumi destroy` has this option.
    assert [("--ignore-protect" in command) for command in (*resolving, destruction)] == [False, False, False, True]
    assert "--preview-only" in destruction


def test_a_preview_on_pulumi_cloud_uses_current_outputs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "https://api.pulumi.com")
    preview = Engine("dev", lambda *_: None, print).preview("storage", {})
    assert (preview.report.outcome, preview.report.reason, preview.outputs) == ("failed", "no such thing", {})
    assert cli.commands[3:] == ["storage preview"]


def test_a_preview_creates_no_stack_on_pulumi_cloud(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "https://api.pulumi.com")
    cli.forget("messaging")
    engine = Engine("dev", lambda *_: None, print)
    with pytest.raises(RuntimeError, match="summary event"):  # the fake CLI sends none
        engine.preview("messaging", {"storage": {"url": "planned"}, "compute": None})
    assert '"outputs": {"url": "planned"}' in cli.log
    assert "stack init" not in cli.log


def planned(engine: Engine, **exports: dict[str, object]) -> Preview:
    others = engine.exports() | exports
    return Preview(Report("messaging"), [], {}, [], others, scratch.sources("messaging"))


def storage(**exported: object) -> dict[str, object]:
    return {"deployment": {"resources": [{"type": "pulumi:pulumi:Stack", "outputs": exported}]}}


def test_a_plan_is_valid_while_state_program_and_outputs_are_as_planned(cli: Cli) -> None:
    engine = Engine("dev", lambda *_: None, print)
    plan = planned(engine, storage={"prefix": "in/", "arn": scratch.UNKNOWN})
    cli.states({"deployment": {"manifest": "of an empty stack that was created since"}})
    cli.state("storage", storage(prefix="in/", arn="arn:known by now"))
    assert engine.changed_since(plan, ["storage"]) == []


@pytest.mark.parametrize(
    ("exported", "changed"),
    [
        ({"prefix": "drop/", "arn": "x"}, ["storage.prefix"]),
        ({"arn": "x"}, ["storage.prefix"]),
        ({"prefix": "in/", "arn": "x", "more": 1}, ["storage.more"]),
    ],
)
def test_a_plan_is_outdated_if_an_output_is_not_as_planned(
    cli: Cli, exported: dict[str, object], changed: list[str]
) -> None:
    engine = Engine("dev", lambda *_: None, print)
    plan = planned(engine, storage={"prefix": "in/", "arn": scratch.UNKNOWN})
    cli.state("storage", storage(**exported))
    assert engine.changed_since(plan, ["storage"]) == changed
    assert engine.changed_since(plan, []) == []


def test_a_plan_is_outdated_if_the_state_or_the_program_changed(cli: Cli) -> None:
    engine = Engine("dev", lambda *_: None, print)
    plan = planned(engine)
    cli.state("messaging", INTERRUPTED)
    assert engine.changed_since(plan, []) == ["its state"]
    assert engine.changed_since(replace(plan, sources="others"), []) == ["its state", "its program or settings"]


def test_the_digest_covers_the_files_that_a_program_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
