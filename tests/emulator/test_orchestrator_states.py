"""The states of stacks in a bucket."""

import json
import os
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.unit.test_orchestrator_scratch import ALPHA
from xfarm.emulator.server import REGION, Emulator
from xfarm.errors import UserError
from xfarm.orchestrator import states

CHECKPOINT = {"stack": "organization/alpha/dev", "latest": ALPHA["deployment"]}
DOCUMENT = json.dumps({"version": 3, "checkpoint": CHECKPOINT})
BY_CLI = {"by": "the CLI"}


@pytest.fixture
def s3(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a client of the account of the environment, which has a bucket for states."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="states", CreateBucketConfiguration={"LocationConstraint": REGION})
    yield s3
    for item in s3.list_objects_v2(Bucket="states").get("Contents", []):
        s3.delete_object(Bucket="states", Key=item["Key"])
    s3.delete_bucket(Bucket="states")


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
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"s3://states{path}{'&' if '?' in path else '?'}region={REGION}")
    assert states.states("dev", ["alpha", "beta"]) == {"alpha": None, "beta": None}
    s3.put_object(Bucket="states", Key=f"{prefix}.pulumi/meta.yaml", Body=b"version: 1\n")
    s3.put_object(Bucket="states", Key=f"{prefix}.pulumi/stacks/alpha/dev.json", Body=DOCUMENT)
    s3.put_object(Bucket="states", Key=f"{prefix}.pulumi/stacks/beta/dev.json.gz", Body=b"\x1f\x8b")
    assert states.states("dev", ["alpha", "beta"]) == {"alpha": ALPHA, "beta": BY_CLI}


def test_what_aws_refuses_is_a_sentence(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 - a client
    del s3
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://another")
    with pytest.raises(UserError, match="bucket does not exist"):
        states.states("dev")
