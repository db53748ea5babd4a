"""A change of the first stack reaches the last in one deployment; and a full pipeline is destroyed, half or whole."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import stress
from tests.support.checkout import Checkout

OLD, NEW = "xfarm-bucket-01", "xfarm-bucket-02"
TIMEOUT = 7


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The pipeline, deployed once, and once more after another prefix and timeout were asked for."""
    checkout = Checkout(tmp_path_factory.mktemp("changed"))
    stress.finish(checkout, "deploy")
    checkout.configure("storage", "local", inputPrefix="drop/")
    checkout.configure("messaging", "local", consumerTimeoutSeconds=TIMEOUT)
    stress.finish(checkout, "deploy")
    yield checkout
    checkout.emulator.stop()


def queue(checkout: Checkout) -> tuple[str, dict[str, str]]:
    sqs = checkout.client("sqs")
    url = sqs.get_queue_url(QueueName="xFarmMainQueue")["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]


def function(checkout: Checkout) -> dict[str, Any]:
    return checkout.client("lambda").get_function_configuration(FunctionName="xFarmLambdaFunction")


def test_another_prefix_reaches_the_notification_and_the_function(changed: Checkout) -> None:
    (told,) = changed.client("s3").get_bucket_notification_configuration(Bucket=OLD)["QueueConfigurations"]
    (rule,) = told["Filter"]["Key"]["FilterRules"]
    assert rule["Value"] == "drop/"
    assert function(changed)["Environment"]["Variables"]["INPUT_PREFIX"] == "drop/"


def test_another_timeout_reaches_the_queue_and_the_function(changed: Checkout) -> None:
    assert function(changed)["Timeout"] == TIMEOUT
    assert queue(changed)[1]["VisibilityTimeout"] == str(6 * TIMEOUT)


def test_nothing_is_left_to_change_after_it(changed: Checkout) -> None:
    planned = json.loads(stress.finish(changed, "preview", "--refresh", "--json"))
    assert [set(stack["changes"]) for stack in planned] == [{"same"}] * 3, planned


BY_HAND = """
import os, pathlib
from xfarm.orchestrator import local_environment
environment = local_environment.prepare(pathlib.Path.cwd(), print)
os.chdir("stacks/storage")
os.execvpe("pulumi", [
    "pulumi", "destroy", "--ignore-protect", "--yes", "--skip-preview", "--stack", "local"
], environment)
"""


def test_a_bucket_destroyed_by_hand_under_the_others_comes_back_by_another_name_with_notification_and_policy(
    changed: Checkout,
) -> None:
    command = [sys.executable, "-c", BY_HAND]
    done = subprocess.run(command, cwd=changed.root, env=changed.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert stress.contents(changed)["buckets"] == []
    changed.configure("storage", "local", bucketName=NEW)
    stress.finish(changed, "deploy", "--refresh")
    assert stress.contents(changed)["buckets"] == [NEW]
    (told,) = changed.client("s3").get_bucket_notification_configuration(Bucket=NEW)["QueueConfigurations"]
    _, attributes = queue(changed)
    assert told["QueueArn"] == attributes["QueueArn"]
    (statement,) = json.loads(attributes["Policy"])["Statement"]
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == f"arn:aws:s3:::{NEW}"


def test_a_full_bucket_and_full_queues_are_destroyed_though_a_stack_is_gone_already(changed: Checkout) -> None:
    stress.finish(changed, "destroy", "--only", "compute")
    s3 = changed.client("s3")
    for number in range(20):
        s3.put_object(Bucket=NEW, Key=f"drop/{number}", Body=b"content")
    url, _ = queue(changed)
    changed.client("sqs").send_message(QueueUrl=url, MessageBody="left behind")
    assert int(queue(changed)[1]["ApproximateNumberOfMessages"]) > 1
    stress.finish(changed, "destroy")
    assert not stress.left(changed)
