"""The backend of a preview: the unchanged state of the stack, and the planned outputs of the others."""

import json
from typing import Any

import pytest

from xfarm.orchestrator import scratch

STACK = "pulumi:pulumi:Stack"
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:abc"}
PROVIDER = {"type": "passphrase", "state": {"salt": "v1:salt"}}
ALPHA = {
    "version": 3,
    "deployment": {
        "manifest": {"magic": "m"},
        "secrets_providers": PROVIDER,
        "resources": [
            {"urn": "urn:pulumi:dev::alpha::pulumi:pulumi:Stack::alpha-dev", "type": STACK, "outputs": {"a": 1}},
            {"urn": "urn:pulumi:dev::alpha::aws:s3/bucket:Bucket::bucket", "type": "aws:s3/bucket:Bucket"},
        ],
    },
}


def documents(
    states: dict[str, dict[str, Any] | None], exports: dict[str, dict[str, Any] | None], project: str = "beta"
) -> dict[str, Any]:
    with scratch.backend("dev", project, states, exports) as folder:
        assert (folder / ".pulumi/meta.yaml").read_text(encoding="utf-8") == "version: 1\n"
        paths = (folder / ".pulumi/stacks").glob("*/dev.json")
        found = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    assert not folder.exists()
    return found


def test_the_stack_s_own_state_is_unchanged() -> None:
    written = documents({"alpha": ALPHA}, {}, "alpha")["alpha"]
    assert written == {
        "version": 3,
        "checkpoint": {"stack": "organization/alpha/dev", "latest": ALPHA["deployment"]},
    }


def test_other_stacks_have_only_their_planned_outputs() -> None:
    written = documents({"alpha": ALPHA, "beta": None}, {"alpha": {"a": 2, "s": SECRET}})
    latest = written["alpha"]["checkpoint"]["latest"]
    assert [(resource["type"], resource["outputs"]) for resource in latest["resources"]] == [
        (STACK, {"a": 2, "s": SECRET})
    ]
    assert latest["secrets_providers"] == PROVIDER
    assert written["beta"]["checkpoint"] == {"stack": "organization/beta/dev", "latest": None}


def test_a_secret_of_a_stack_without_a_key_is_unknown() -> None:
    written = documents({"alpha": None, "beta": None}, {"alpha": {"a": 2, "s": {"in": [SECRET]}}})
    (resource,) = written["alpha"]["checkpoint"]["latest"]["resources"]
    assert resource["outputs"] == {"a": 2}


@pytest.mark.parametrize("state", [None, {"deployment": None}, {"deployment": {"resources": []}}])
def test_a_stack_that_is_not_deployed_has_no_outputs(state: dict[str, Any] | None) -> None:
    assert scratch.exported(state) is None


def test_a_deployed_stack_has_the_outputs_of_its_state() -> None:
    assert scratch.exported(ALPHA) == {"a": 1}


def test_a_planned_output_with_an_unknown_part_is_unknown() -> None:
    outputs = {"known": "x", "whole": scratch.UNKNOWN, "nested": {"a": [1, scratch.UNKNOWN]}, "secret": SECRET}
    stack, other = f"urn:pulumi:dev::alpha::{STACK}::alpha-dev", "urn:pulumi:dev::alpha::aws:sns/topic:Topic::topic"
    plan = {"resourcePlans": {other: {"state": {"arn": "x"}}, stack: {"state": outputs}}}
    assert scratch.planned(plan) == outputs
    assert scratch.known(outputs) == {"known": "x", "secret": SECRET}
    latest = documents({"alpha": ALPHA, "beta": None}, {"alpha": outputs})["alpha"]["checkpoint"]["latest"]
    assert latest["resources"][0]["outputs"] == {"known": "x", "secret": SECRET}


def test_a_plan_of_a_stack_without_outputs_has_none() -> None:
    assert scratch.planned({"resourcePlans": {}}) == {}


@pytest.mark.parametrize(
    ("url", "usable"),
    [("file:///state", True), ("s3://bucket?region=eu-west-1", True), ("https://api.pulumi.com", False)],
)
def test_states_of_pulumi_cloud_are_not_copied(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    usable: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", url)
    assert scratch.usable() is usable
