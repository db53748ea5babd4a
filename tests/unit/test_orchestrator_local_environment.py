"""The environment of everything that runs against `local`."""

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

    def resolve(_root: Path, say: Callable[[str], None]) -> Toolchain:
        say(toolchain.summary)
        return toolchain

    def start(_emulator: Emulator) -> None:
        pass

    monkeypatch.setattr(environment, "resolve", resolve)
    monkeypatch.setattr(Emulator, "start", start)
    monkeypatch.setenv("GATEWAY_PORT", "4999")
    return tmp_path


def test_nothing_in_it_leads_to_a_real_account(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    entered = environment.prepare(root, lambda _line: None)
    assert "real" not in entered.values()
    assert {name: value for name, value in entered.items() if name.startswith("AWS_")} == {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4999",
        "AWS_REGION": "eu-west-1",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    assert entered["PULUMI_BACKEND_URL"] == f"file://{root}/.local/state"
    assert entered["PULUMI_HOME"] == f"{root}/.local/pulumi"
    assert (root / ".local" / "state").is_dir()


def test_the_rest_of_the_environment_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "vi")
    monkeypatch.setenv("PATH", "/usr/bin:/toolchain/bin")
    said: list[str] = []
    entered = environment.prepare(root, said.append)
    assert (entered["EDITOR"], entered["EXTRA"]) == ("vi", "1")
    assert entered["PATH"] == "/toolchain/bin:/usr/bin"
    assert said == ["Toolchain: a test's."]


def test_entering_twice_changes_nothing_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "internal")
    first = environment.prepare(root, lambda _line: None)
    assert first["NO_PROXY"] == "internal,127.0.0.1,localhost"
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    assert environment.prepare(root, lambda _line: None) == first


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1"])
def test_a_port_that_is_none_is_told(root: Path, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", port)
    with pytest.raises(UserError, match="GATEWAY_PORT"):
        environment.prepare(root, lambda _line: None)


@pytest.mark.parametrize("name", ["100 % sure", "a#b", "why?", "%41", "ü"])
def test_the_state_is_in_the_checkout_whatever_that_is_called(root: Path, name: str) -> None:
    (root / name).mkdir()
    url = environment.prepare(root / name, lambda _line: None)["PULUMI_BACKEND_URL"]
    parts = urlsplit(url)  # as Go's url.Parse, by which Pulumi finds the folder
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert unquote(parts.path) == str(root / name / ".local" / "state")


@pytest.mark.parametrize(("user", "wanted"), [(None, "unknown"), ("", "unknown"), ("anna", "anna")])
def test_pulumi_is_given_a_user_name_where_there_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, user: str | None, wanted: str
) -> None:
    monkeypatch.delenv("USER", raising=False)
    if user is not None:
        monkeypatch.setenv("USER", user)
    assert environment.prepare(root, lambda _line: None)["USER"] == wanted


def test_a_folder_that_somebody_else_owns_is_told(root: Path) -> None:
    folder = root / ".local"
    folder.mkdir()
    folder.chmod(0o500)
    root.chmod(0o755)
    nobody = 65534
    us = os.geteuid()
    if us == 0:  # who may write everywhere
        os.seteuid(nobody)
    try:
        with pytest.raises(UserError, match=r"/\.local.* can't be used \(Permission denied\): give it .*sudo chown -R"):
            environment.prepare(root, lambda _line: None)
    finally:
        os.seteuid(us)
        folder.chmod(0o700)


def test_a_file_in_the_place_of_the_folder_is_told(root: Path) -> None:
    (root / ".local").touch()
    with pytest.raises(UserError, match=r"\.local has to be a folder that you can write\."):
        environment.prepare(root, lambda _line: None)


def test_the_command_line_says_it_as_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".local").touch()
    monkeypatch.setattr(cli, "ROOT", root)
    for arguments in (["env"], ["emulator", "start"], ["emulator", "stop"], ["emulator", "status"]):
        result = CliRunner().invoke(cli.xfarm, arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
