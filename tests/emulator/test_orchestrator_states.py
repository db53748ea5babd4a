"""The states of stacks in a bucket."""

from typing import Any
from unittest.mock import Mock

import pytest

from tests.unit.test_orchestrator_scratch import ALPHA
from tests.unit.test_orchestrator_states import BY_CLI, DOCUMENT
from xfarm.emulator.server import REGION
from xfarm.errors import UserError
from xfarm.orchestrator import states


@pytest.mark.parametrize(
    ("path", "prefix"), [("", ""), ("/team/a", "team/a/"), ("/team%20a/", "team a/"), ("/b?prefix=a/", "a/b/")]
)
def test_a_state_in_a_bucket_is_read_without_the_cli(
    s3: Any,  # noqa: ANN401 - a client
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    prefix: str,
) -> None:
    monkeypatch.setattr(states, "_exported", Mock(return_value=BY_CLI))
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
