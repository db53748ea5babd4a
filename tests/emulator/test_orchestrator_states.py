"""The states of stacks in a bucket."""

import json
from typing import Any

import pytest

from tests.unit.test_orchestrator_scratch import ALPHA
from xfarm.emulator.server import REGION
from xfarm.errors import UserError
from xfarm.orchestrator import states

CHECKPOINT = {"stack": "organization/alpha/dev", "latest": ALPHA["deployment"]}
DOCUMENT = json.dumps({"version": 3, "checkpoint": CHECKPOINT})
BY_CLI = {"by": "the CLI"}


@pytest.mark.parametrize(
    ("path", "prefix"), [("", ""), ("/team/a", "team/a/"), ("/team%20a/", "team a/"), ("/b?prefix=a/", "a/b/")]
)
def test_a_state_in_a_bucket_is_read_without_the_cli(
    s3: Any,  # noqa: ANN401 - a client
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    prefix: str,
) -> None:
    def exported(_project: str, _stack: str) -> states.Json:
        return BY_CLI

    monkeypatch.setattr(states, "_exported", exported)
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"s3://state{path}{'&' if '?' in path else '?'}region={REGION}")
    assert states.states("dev", ["alpha", "beta"]) == {"alpha": None, "beta": None}
    s3.put_object(Bucket="state", Key=f"{prefix}.pulumi/meta.yaml", Body=b"version: 1\n")
    s3.put_object(Bucket="state", Key=f"{prefix}.pulumi/stacks/alpha/dev.json", Body=DOCUMENT)
    s3.put_object(Bucket="state", Key=f"{prefix}.pulumi/stacks/beta/dev.json.gz", Body=b"\x1f\x8b")
    assert states.states("dev", ["alpha", "beta"]) == {"alpha": ALPHA, "beta": BY_CLI}


@pytest.mark.usefixtures("s3")
def test_what_aws_refuses_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://another")
    with pytest.raises(UserError, match="bucket does not exist"):
        states.states("dev")
