"""The environment of everything that runs against `local`."""

from collections.abc import Callable
from pathlib import Path

import pytest

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
