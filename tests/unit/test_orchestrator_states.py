"""The states of stacks, from a folder or from the CLI."""

import json
from pathlib import Path

import pytest

from tests.unit.test_orchestrator_scratch import ALPHA, SECRET
from xfarm.orchestrator.states import readable, stored


def test_a_state_in_a_folder_is_read_without_the_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b%20#"
    monkeypatch.setenv("PULUMI_BACKEND_URL", folder.as_uri() + "?metadata=skip")
    path = folder / ".pulumi" / "stacks" / "alpha" / "dev.json"
    path.parent.mkdir(parents=True)
    assert stored("alpha", "dev") is None
    checkpoint = {"stack": "organization/alpha/dev", "latest": ALPHA["deployment"]}
    path.write_text(json.dumps({"version": 3, "checkpoint": checkpoint}), encoding="utf-8")
    assert stored("alpha", "dev") == ALPHA
    for damaged in ("", "[]", "{}", '{"checkpoint": 1}'):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(LookupError):
            stored("alpha", "dev")


@pytest.mark.parametrize("url", ["s3://bucket", "https://api.pulumi.com", ""])
def test_any_other_state_is_read_by_the_cli(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", url)
    with pytest.raises(LookupError):
        stored("alpha", "dev")


def test_a_secret_output_is_not_shown() -> None:
    assert readable({"open": ["a"], "secret": SECRET, "inside": {"a": [SECRET]}}) == {
        "open": ["a"],
        "secret": "[secret]",
        "inside": "[secret]",
    }
