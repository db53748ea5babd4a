"""The environment for `local`."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from xfarm import cli
from xfarm.emulator.server import Emulator
from xfarm.errors import UserError
from xfarm.orchestrator import local_environment as environment
from xfarm.toolchain.resolve import Toolchain


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toolchain = Toolchain("Toolchain: a test's.", ["/toolchain/bin"], {"EXTRA": "1"}, [], "")

    def resolve(_root: Path, notify: Callable[[str], None]) -> Toolchain:
        notify(toolchain.summary)
        return toolchain

    def start(_emulator: Emulator) -> None:
        pass

    monkeypatch.setattr(environment, "resolve", resolve)
    monkeypatch.setattr(Emulator, "start", start)
    monkeypatch.setenv("GATEWAY_PORT", "4999")
    return tmp_path


def test_no_variable_leads_to_an_aws_account(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_ENDPOINT_URL_S3",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "PULUMI_ACCESS_TOKEN",
        "PULUMI_BACKEND_URL",
        "PULUMI_CONFIG_PASSPHRASE_FILE",
    ):
        monkeypatch.setenv(name, "real")
    prepared = environment.prepare(root, lambda _message: None)
    assert "real" not in prepared.values()
    assert {name: value for name, value in prepared.items() if name.startswith("AWS_")} == {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4999",
        "AWS_REGION": "eu-west-1",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    assert prepared["PULUMI_BACKEND_URL"] == f"file://{root}/.local/state?metadata=skip"
    assert prepared["PULUMI_HOME"] == f"{root}/.local/pulumi"
    assert (root / ".local" / "state").is_dir()


def test_all_other_variables_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "vi")
    monkeypatch.setenv("PATH", "/usr/bin:/toolchain/bin")
    messages: list[str] = []
    prepared = environment.prepare(root, messages.append)
    assert (prepared["EDITOR"], prepared["EXTRA"]) == ("vi", "1")
    assert prepared["PATH"] == "/toolchain/bin:/usr/bin"
    assert messages == ["Toolchain: a test's."]


def test_it_is_the_same_when_prepared_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "internal")
    first = environment.prepare(root, lambda _message: None)
    assert first["NO_PROXY"] == "internal,127.0.0.1,localhost"
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    assert environment.prepare(root, lambda _message: None) == first


def test_the_port_of_the_running_emulator_is_shown_and_not_the_one_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def current(_emulator: Emulator) -> Emulator:
        return Emulator(root, 4321)

    monkeypatch.setattr(Emulator, "current", current)
    result = CliRunner().invoke(cli.xfarm, ["emulator", "status"])
    assert (result.exit_code, result.stderr) == (0, "The AWS emulator runs at http://127.0.0.1:4321.\n")


def test_the_user_is_told_if_the_emulator_ended_without_saving_until_that_is_repaired(root: Path) -> None:
    def told() -> bool:
        messages: list[str] = []
        environment.prepare(root, messages.append)
        return any("run `xfarm deploy --refresh`" in message for message in messages)

    assert not told()
    unsaved = environment.emulator(root).unsaved
    unsaved.parent.mkdir(parents=True)
    unsaved.touch()
    assert told()
    assert told()
    environment.forget_losses(root)
    assert not told()


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1"])
def test_an_invalid_port_is_refused(root: Path, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", port)
    with pytest.raises(UserError, match="GATEWAY_PORT"):
        environment.prepare(root, lambda _message: None)


@pytest.mark.parametrize("name", ["100 % sure", "a#b", "why?", "%41", "ü"])
def test_the_state_is_in_the_checkout_whatever_its_name(root: Path, name: str) -> None:
    (root / name).mkdir()
    url = environment.prepare(root / name, lambda _message: None)["PULUMI_BACKEND_URL"]
    parts = urlsplit(url)  # like Go's url.Parse, which Pulumi uses
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "metadata=skip", "")
    assert unquote(parts.path) == str(root / name / ".local" / "state")


def test_a_file_that_a_killed_update_left_empty_beside_the_state_is_removed(root: Path) -> None:
    state = root / ".local" / "state" / ".pulumi" / "stacks" / "storage" / "local.json"
    state.parent.mkdir(parents=True)
    state.touch()
    damaged = state.with_name("local.json.attrs")
    damaged.touch()
    environment.prepare(root, lambda _message: None)
    assert state.exists()
    assert not damaged.exists()


@pytest.mark.parametrize(("user", "wanted"), [(None, "unknown"), ("", "unknown"), ("anna", "anna")])
def test_pulumi_gets_a_user_name_if_there_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, user: str | None, wanted: str
) -> None:
    monkeypatch.delenv("USER", raising=False)
    if user is not None:
        monkeypatch.setenv("USER", user)
    assert environment.prepare(root, lambda _message: None)["USER"] == wanted


def test_the_error_for_a_folder_of_another_user_says_what_to_do(root: Path) -> None:
    folder = root / ".local"
    folder.mkdir()
    folder.chmod(0o500)
    root.chmod(0o755)
    nobody = 65534
    user = os.geteuid()
    if user == 0:  # root may write everywhere
        os.seteuid(nobody)
    try:
        with pytest.raises(UserError, match=r"/\.local.* can't be used \(Permission denied\): make it .*sudo chown -R"):
            environment.prepare(root, lambda _message: None)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_the_error_for_a_file_instead_of_the_folder_says_what_to_do(root: Path) -> None:
    (root / ".local").touch()
    with pytest.raises(UserError, match=r"make .*\.local a folder that you can write to\."):
        environment.prepare(root, lambda _message: None)


def test_every_command_for_the_emulator_reports_a_folder_that_cannot_be_used(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".local").touch()
    monkeypatch.setattr(cli, "ROOT", root)
    for arguments in (["env"], ["emulator", "start"], ["emulator", "stop"], ["emulator", "status"]):
        result = CliRunner().invoke(cli.xfarm, arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
