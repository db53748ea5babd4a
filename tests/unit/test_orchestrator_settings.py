"""The check of the files with a stack's settings."""

import re
from pathlib import Path
from shutil import copytree

import pytest

from xfarm.errors import UserError, WrongUsageError
from xfarm.orchestrator import graph, settings
from xfarm.orchestrator import targets as targets_module
from xfarm.paths import STACKS


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a copy of the stacks."""
    copy = tmp_path / "stacks"
    copytree(STACKS, copy)
    for module in (graph, settings, targets_module):
        monkeypatch.setattr(module, "STACKS", copy)
    return copy


def write(stacks: Path, *lines: str) -> None:
    path = stacks / "compute" / "Pulumi.dev.yaml"
    path.write_text("\n".join(("config:", *(f"  {line}" for line in lines))), encoding="utf-8")


@pytest.mark.parametrize("stack", ["dev", "local"])
def test_the_settings_of_this_project_are_accepted(stacks: Path, stack: str) -> None:
    assert stacks.is_dir()
    settings.check(stack)


@pytest.mark.parametrize(
    "line",
    [
        "compute:memorySize: 512",
        'compute:memorySize: "512"',
        "memorySize: 512",
        "compute:kmsKeyArns: []",
        "compute:s3Access: scoped",
        "compute:s3Access: {secure: v1:abc}",
        "aws:region: eu-west-1",
        "random:count: 5",
        "pulumi:tags: {a: b}",
    ],
)
def test_what_pulumi_accepts_is_accepted(stacks: Path, line: str) -> None:
    write(stacks, line)
    settings.check("dev")


FILE = "stacks/compute/Pulumi.dev.yaml"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["compute:memorySizze: 3"],
            f"{FILE} sets 'compute:memorySizze', which is not a setting of compute: set 'compute:memorySize' in",
        ),
        (["memorysize: 3"], "set 'compute:memorySize'"),
        (["compte:memorySize: 3"], "set 'compute:memorySize'"),
        (["compute:maxReceiveCount: 3"], "set 'messaging:maxReceiveCount' in stacks/messaging/Pulumi.dev.yaml, or"),
        (["messaging:maxReceiveCount: 3"], "which is not a setting of compute: set 'messaging:maxReceiveCount' in"),
        (
            ["compute:timeout: 5"],
            "set 'messaging:consumerTimeoutSeconds' in stacks/messaging/Pulumi.dev.yaml, or remove",
        ),
        (["compute:colour: red"], "'compute:colour', which is not a setting of compute: remove it (docs/settings.md"),
        (["compute:memorySize: lots"], f"{FILE} sets 'compute:memorySize' to 'lots', which must be of type integer."),
        (["compute:memorySize: 5.5"], "to 5.5, which must be of type integer"),
        (["compute:memorySize: true"], "to true, which must be of type integer"),
        (["compute:memorySize:"], "to null, which must be of type integer"),
        (["compute:s3Access: [full]"], 'to ["full"], which must be of type string'),
        (["compute:kmsKeyArns: arn"], "to 'arn', which must be of type array"),
        (
            ["compute:memorySize: 512", "compute:batchSize: 1", "compute:memorySize: 256"],
            f"{FILE} is not YAML: 'compute:memorySize' is set a second time in line 4.",
        ),
        (["compute:kmsKeyArns: {a: 1, a: 2}"], "'a' is set a second time in line 2."),
        (["bad: : yaml"], f"{FILE} is not YAML: mapping values are not allowed in this context in line 2."),
        (["compute:memorySize: ["], f"{FILE} is not YAML: "),
        (["just a word"], f"{FILE} has no names with values"),
        (["- a"], f"{FILE} has no names with values"),
        (["compute:s3Access: full", "\0"], f"{FILE} is not YAML: "),
    ],
)
def test_what_pulumi_ignores_or_reports_without_a_file_is_refused(stacks: Path, lines: list[str], message: str) -> None:
    write(stacks, *lines)
    with pytest.raises(UserError, match=re.escape(message)):
        settings.check("dev")


@pytest.mark.parametrize("text", ["config: []\n", "config: false\n"])
def test_settings_that_are_not_names_with_values_are_refused(stacks: Path, text: str) -> None:
    (stacks / "compute" / "Pulumi.dev.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"{FILE} has no names with values"):
        settings.check("dev")


def test_a_setting_that_is_not_indented_is_refused(stacks: Path) -> None:
    path = stacks / "compute" / "Pulumi.dev.yaml"
    path.write_text("encryptionsalt: v1:abc\nconfig:\ncompute:memorySize: 512\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"{FILE} has 'compute:memorySize' beside 'config:', where Pulumi ignores it"):
        settings.check("dev")


@pytest.mark.parametrize("kind", ["broken link", "folder"])
def test_a_file_that_cannot_be_read_is_named(stacks: Path, kind: str) -> None:
    path = stacks / "compute" / "Pulumi.dev.yaml"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{FILE} can't be read: "):
        settings.check("dev")


@pytest.mark.parametrize(("stack", "more"), [("dev", ", or write it with 'xfarm new-stack dev'"), ("local", "")])
def test_a_file_that_is_missing_in_one_project_is_named(stacks: Path, stack: str, more: str) -> None:
    (stacks / "compute" / f"Pulumi.{stack}.yaml").unlink()
    with pytest.raises(UserError) as raised:
        targets_module.require_known(stack)
    name = f"stacks/compute/Pulumi.{stack}.yaml"
    assert (
        str(raised.value)
        == f"{name} is missing, and other projects have their settings of '{stack}': restore it{more}."
    )


def test_a_name_that_no_stack_can_have_is_not_proposed(stacks: Path) -> None:
    assert stacks.is_dir()
    for name in ("", "../x"):
        with pytest.raises(
            WrongUsageError, match=f"^there is no stack '{name}', only dev, local: choose one of these\\.$"
        ):
            targets_module.require_known(name)


def test_a_file_that_is_not_utf_8_is_refused(stacks: Path) -> None:
    (stacks / "compute" / "Pulumi.dev.yaml").write_bytes(b"config:\n  compute:s3Access: \xff\n")
    with pytest.raises(UserError, match=r"Pulumi\.dev\.yaml is not YAML: it is not UTF-8\."):
        settings.check("dev")


def test_a_project_that_declares_no_settings_may_have_any(stacks: Path) -> None:
    (stacks / "compute" / "Pulumi.yaml").write_text("name: compute\nruntime: python\n", encoding="utf-8")
    write(stacks, "compute:memorySizze: 3")
    settings.check("dev")


def test_settings_are_checked_before_anything_is_started(stacks: Path) -> None:
    write(stacks, "compute:memorySizze: 3")
    messages: list[str] = []
    with pytest.raises(UserError, match="memorySizze"):
        targets_module.activate("dev", messages.append, engines=True)
    assert messages == []
