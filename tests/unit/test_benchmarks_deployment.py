"""The Terraform module that the stacks are compared with, and the critical path."""

import json
import re
from typing import Any

import pytest

from benchmarks import peer
from benchmarks.deployment import Deployed, critical_path


def addresses(module: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{kind}.{name}": each for kind, named in module["resource"].items() for name, each in named.items()}


@pytest.mark.parametrize("same_graph", [True, False])
def test_every_reference_in_the_peer_can_be_resolved(same_graph: bool) -> None:  # noqa: FBT001 - a parameter of the test
    resources = addresses(peer.module(same_graph=same_graph))
    for resource in resources.values():
        assert set(resource["depends_on"]) <= resources.keys()
        assert {*re.findall(r"\$\{(aws_[\w-]+\.[\w-]+)\.\w+\}", json.dumps(resource))} <= resources.keys()


def test_the_peer_has_references_across_stacks_and_terraform_s_names() -> None:
    resources = addresses(peer.module(same_graph=True))
    assert resources["aws_s3_bucket_notification.messaging-bucket-notification"] == {
        "bucket": "${aws_s3_bucket.storage-bucket.bucket}",
        "queue": [
            {
                "queue_arn": "${aws_sqs_queue.messaging-main-queue.arn}",
                "events": ["s3:ObjectCreated:*"],
                "filter_prefix": "inputs/",
            }
        ],
        "depends_on": ["aws_sqs_queue.messaging-main-queue", "aws_sqs_queue_policy.messaging-main-queue-policy"],
    }
    function = resources["aws_lambda_function.compute-function"]
    assert function["environment"] == {"variables": {"INPUT_PREFIX": "inputs/", "OUTPUT_PREFIX": "outputs/"}}
    assert function["filename"] == "${var.code}"
    error = resources["aws_cloudwatch_metric_alarm.compute-error-alarm"]
    assert error["alarm_name"] == "error-alarm"
    assert error["dimensions"] == {"FunctionName": "${aws_lambda_function.compute-function.function_name}"}


def test_the_redrive_policy_is_the_only_difference_between_the_two_peers() -> None:
    same, usual = (addresses(peer.module(same_graph=same_graph)) for same_graph in (True, False))
    redrive = same.pop("aws_sqs_queue_redrive_policy.messaging-main-queue-redrive-policy")
    same["aws_sqs_queue.messaging-main-queue"]["redrive_policy"] = redrive["redrive_policy"]
    assert usual == same


def test_the_critical_path_ends_with_the_last_resource_and_leads_through_the_latest_of_its_needs() -> None:
    deployed = Deployed(
        started=100.0,
        finished={"bucket": 101.0, "queue": 126.0, "topic": 100.5, "policy": 151.0, "alarm": 126.5},
        needs={"bucket": [], "topic": [], "queue": ["bucket"], "policy": ["queue", "bucket"], "alarm": ["topic"]},
    )
    assert critical_path(deployed) == [("bucket", 1.0), ("queue", 25.0), ("policy", 25.0)]
