"""A change of the first stack reaches the last in one deployment; and a full pipeline is destroyed, half or whole."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.test_commands_of_the_docs import shell
from tests.support import docs, stress
from tests.support.checkout import Checkout
from tests.support.waiting import eventually
from xfarm.paths import ROOT

OLD, NEW, NEWEST = "xfarm-bucket-01", "xfarm-bucket-02", "xfarm-bucket-03"
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
    (sent,) = changed.client("s3").get_bucket_notification_configuration(Bucket=OLD)["QueueConfigurations"]
    (rule,) = sent["Filter"]["Key"]["FilterRules"]
    assert rule["Value"] == "drop/"
    assert function(changed)["Environment"]["Variables"]["INPUT_PREFIX"] == "drop/"


def test_another_timeout_reaches_the_queue_and_the_function(changed: Checkout) -> None:
    assert function(changed)["Timeout"] == TIMEOUT
    assert queue(changed)[1]["VisibilityTimeout"] == str(6 * TIMEOUT)


def test_nothing_is_left_to_change_after_it(changed: Checkout) -> None:
    planned = json.loads(stress.finish(changed, "preview", "--refresh", "--json"))
    assert [set(stack["changes"]) for stack in planned] == [{"same"}] * 3, planned


@pytest.fixture(scope="module")
def aws_cli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the AWS CLI, which is installed from PyPI if it is not on the PATH."""
    if found := shutil.which("aws"):
        return Path(found).parent
    folder = tmp_path_factory.mktemp("aws-cli")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "awscli"], check=True)
    return folder / "bin"


def objects(checkout: Checkout, bucket: str) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return all objects of a bucket with their metadata."""
    s3 = checkout.client("s3")
    found = {}
    for item in s3.list_objects_v2(Bucket=bucket)["Contents"]:
        answer = s3.get_object(Bucket=bucket, Key=item["Key"])
        found[item["Key"]] = (answer["Body"].read(), answer["Metadata"])
    return found


def result(checkout: Checkout, bucket: str, name: str) -> dict[str, Any]:
    """Return the result of a file; an empty one if there is none yet."""
    body, _ = objects(checkout, bucket).get(f"outputs/{name}.json", (b"{}", {}))
    return json.loads(body)


def upload(checkout: Checkout, bucket: str, name: str, body: bytes) -> None:
    """Upload a file, and wait for its result."""
    checkout.client("s3").put_object(Bucket=bucket, Key=f"drop/{name}", Body=body)
    digest = hashlib.sha256(body).hexdigest()
    eventually(lambda: result(checkout, bucket, name).get("sha256") == digest)


def announce(checkout: Checkout, bucket: str, name: str, sequencer: str) -> None:
    """Send an event about a file to the queue, and wait for its result."""
    described = {"bucket": {"name": bucket}, "object": {"key": f"drop/{name}", "sequencer": sequencer}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": described}
    checkout.client("sqs").send_message(QueueUrl=queue(checkout)[0], MessageBody=json.dumps({"Records": [record]}))
    eventually(lambda: result(checkout, bucket, name).get("sequencer") == sequencer)


def idle(checkout: Checkout) -> bool:
    """Return whether the main queue has no messages, neither waiting nor in flight."""
    _, attributes = queue(checkout)
    return {attributes[f"ApproximateNumberOfMessages{kind}"] for kind in ("", "NotVisible")} == {"0"}


def test_files_and_results_move_to_another_bucket_by_the_documented_commands(changed: Checkout, aws_cli: Path) -> None:
    page = ROOT / "docs/deploying.md"
    blocks = docs.blocks(page)
    creation, move = ("\n".join(blocks[f"Another bucket name{number}"]) for number in ("", " 2"))
    (removal,) = (span for span in docs.code_spans(page) if span.startswith("aws s3 rb "))
    path = f"{aws_cli}{os.pathsep}{os.environ['PATH']}"
    environment = blocks["Another bucket name"][0]
    for name in ("a", "b"):
        upload(changed, OLD, name, name.encode())
    # Nothing relates the sequencers of two buckets: this one is greater than any in the new bucket.
    announce(changed, OLD, "a", "F" * 16)

    done = shell(changed, creation, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    upload(changed, OLD, "late", b"late")
    eventually(lambda: idle(changed))
    done = shell(changed, f"{environment}\n{move}", PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr

    moved = objects(changed, NEW)
    assert moved == objects(changed, OLD)  # so nothing was processed again
    assert moved.keys() == {f"drop/{name}" for name in ("a", "b", "late")} | {
        f"outputs/{name}.json" for name in ("a", "b", "late")
    }
    assert "QueueConfigurations" not in changed.client("s3").get_bucket_notification_configuration(Bucket=OLD)

    announce(changed, OLD, "a", "F" * 17)  # an event of the old bucket changes the old result, not the copied one
    assert objects(changed, NEW) == moved
    upload(changed, NEW, "a", b"another")
    upload(changed, NEW, "c", b"c")
    assert objects(changed, NEW).items() >= {key: each for key, each in moved.items() if "/a" not in key}.items()

    done = shell(changed, f"{environment}\n{removal}", PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stress.contents(changed)["buckets"] == [NEW]
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
    changed.configure("storage", "local", bucketName=NEWEST)
    for command in ("preview", "deploy"):
        shown = stress.finish(changed, command)
        assert "'storage' is not deployed, although 'messaging' needs it: refreshing first" in shown
        assert "+ messaging  bucket-notification" in shown
    assert stress.contents(changed)["buckets"] == [NEWEST]
    (sent,) = changed.client("s3").get_bucket_notification_configuration(Bucket=NEWEST)["QueueConfigurations"]
    _, attributes = queue(changed)
    assert sent["QueueArn"] == attributes["QueueArn"]
    (statement,) = json.loads(attributes["Policy"])["Statement"]
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == f"arn:aws:s3:::{NEWEST}"


def test_a_full_bucket_and_full_queues_are_destroyed_though_a_stack_is_gone_already(changed: Checkout) -> None:
    stress.finish(changed, "destroy", "--only", "compute")
    s3 = changed.client("s3")
    for number in range(20):
        s3.put_object(Bucket=NEWEST, Key=f"drop/{number}", Body=b"content")
    url, _ = queue(changed)
    changed.client("sqs").send_message(QueueUrl=url, MessageBody="left behind")
    assert int(queue(changed)[1]["ApproximateNumberOfMessages"]) > 1
    stress.finish(changed, "destroy")
    assert not stress.left(changed)
