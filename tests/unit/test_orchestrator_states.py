"""The states of stacks, from a folder or from the CLI."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.unit.test_orchestrator_scratch import ALPHA, SECRET
from xfarm.orchestrator import states
from xfarm.orchestrator.states import readable

BY_CLI = {"by": "the CLI"}
CHECKPOINT = {"stack": "organization/alpha/dev", "latest": ALPHA["deployment"]}
DOCUMENT = json.dumps({"version": 3, "checkpoint": CHECKPOINT})


@pytest.fixture(autouse=True)
def cli(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "_exported", Mock(return_value=BY_CLI))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder with the states of a backend."""
    monkeypatch.setenv("PULUMI_BACKEND_URL", (tmp_path / "a b%20#").as_uri() + "?metadata=skip")
    folder = tmp_path / "a b%20#" / ".pulumi" / "stacks"
    (folder / "alpha").mkdir(parents=True)
    return folder


def test_a_state_in_a_folder_is_read_without_the_cli(folder: Path) -> None:
    assert states.states("dev", ["alpha"]) == {"alpha": None}
    (folder.parent / "meta.yaml").write_text("version: 1\n", encoding="utf-8")
    (folder / "alpha" / "dev.json").write_text(DOCUMENT, encoding="utf-8")
    assert states.states("dev", ["alpha", "beta"]) == {"alpha": ALPHA, "beta": None}


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"checkpoint": 1}'])
def test_the_cli_says_what_is_wrong_with_a_damaged_state(folder: Path, damaged: str) -> None:
    (folder / "alpha" / "dev.json").write_text(damaged, encoding="utf-8")
    assert states.states("dev", ["alpha"]) == {"alpha": BY_CLI}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stacks/alpha/dev.json.gz", b"\x1f\x8b"),
        ("stacks/alpha/dev.json.zst", b"\x28\xb5"),
        ("stacks/other.json", b"{}"),
        ("meta.yaml", b"version: 2\n"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_a_state_that_is_compressed_or_has_another_layout_is_read_by_the_cli(
    folder: Path, name: str, content: bytes, *, plain: bool
) -> None:
    if plain:  # and older, perhaps
        (folder / "alpha" / "dev.json").write_text(DOCUMENT, encoding="utf-8")
    (folder.parent / name).write_bytes(content)
    assert states.states("dev", ["alpha"]) == {"alpha": BY_CLI}


def test_a_folder_that_can_t_be_read_is_explained_by_the_cli(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError))
    assert states.states("dev", ["alpha"]) == {"alpha": BY_CLI}


@pytest.mark.parametrize(
    "url", ["https://api.pulumi.com", "gs://bucket", "s3://bucket?profile=other", "file://~nobody-known", ""]
)
def test_any_other_state_is_read_by_the_cli(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", url)
    assert states.states("dev", ["alpha"]) == {"alpha": BY_CLI}


def test_a_secret_output_is_not_shown() -> None:
    assert readable({"open": ["a"], "secret": SECRET, "inside": {"a": [SECRET]}}) == {
        "open": ["a"],
        "secret": "[secret]",
        "inside": "[secret]",
    }
