"""The pipeline on an emulator of its own, created by boto3 within a second from what the stacks declare.

A deployment by Pulumi takes a minute; tests/deployment has the tests that need one.
"""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import boto3
import pytest

from tests.support import account, stack_program
from tests.support.checkout import free_port
from tests.support.stack_program import ACCOUNT, STORAGE, UPSTREAM, Properties
from xfarm.emulator.server import REGION, Emulator
from xfarm.operations.pipeline import Pipeline
from xfarm.paths import ROOT

FAILING: Final = """

_process = process


def process(source, body):
    if "bad" in source.key:
        raise RuntimeError("test failure")
    return _process(source, body)
"""
"""Code to append to the function's `process` module, which then fails for files with "bad" in their key."""


ACCOUNTS = count(100_000_000_000)


class EnforcingEmulator(Emulator):
    """An emulator that enforces policies, as AWS does."""

    def environment(self) -> dict[str, str]:
        return super().environment() | {"AUTH": "true"}


@contextmanager
def running(emulator: Emulator) -> Iterator[Emulator]:
    """Run an emulator, with the environment set so that boto3 uses it."""
    with pytest.MonkeyPatch.context() as patch:
        account.use(emulator, patch)
        emulator.start()
        try:
            yield emulator
        finally:
            emulator.stop()


def private_emulator(directory: Path) -> Emulator:
    """Return an emulator that keeps its data in `directory` and enforces policies."""
    return EnforcingEmulator(directory, free_port())


def lambda_zip(**additions: str) -> bytes:
    """Return the zip file of the function's code, with text appended to the modules that are named."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for source in (ROOT / "lambda_code").glob("*.py"):
            archive.writestr(source.name, source.read_text(encoding="utf-8") + additions.get(source.stem, ""))
    return packed.getvalue()


@cache
def _declared() -> str:
    programs = [
        stack_program.run("storage"),
        stack_program.run("messaging", upstream=UPSTREAM),
        stack_program.run("compute", {"s3Access": "scoped"}, upstream=UPSTREAM),
    ]
    # The code's archive is not JSON; `lambda_zip` replaces it.
    return json.dumps({name: each for program in programs for name, each in program.resources.items()}, default=str)


def declared(account: str) -> dict[str, Properties]:
    """Return the resources of all stacks by name, with the ARNs of `account` instead of the mocks' ARNs."""
    text = _declared()
    for mocked, real in (
        ("arn:aws:sqs:::", f"arn:aws:sqs:{REGION}:{ACCOUNT}:"),
        (ACCOUNT, account),
        (STORAGE["bucket_name"], f"bucket-{account}"),
    ):
        text = text.replace(mocked, real)
    # Pulumi's numbers are floats; boto3 needs integers.
    return json.loads(text, parse_float=lambda number: int(float(number)))


def create_pipeline(
    *, visibility_s: int, max_receives: int | None = None, code: bytes | None = None, timeout_s: int | None = None
) -> Pipeline:
    """Create the pipeline as the stacks do, in the account that boto3 uses.

    Args:
        visibility_s: The main queue's visibility timeout, in seconds; the declared one is too long for a test.
        max_receives: The main queue's maxReceiveCount; by default the declared one.
        code: The zip file of the function's code; by default the real code.
        timeout_s: The function's timeout, in seconds; by default the declared one.
    """
    resources = declared(boto3.client("sts").get_caller_identity()["Account"])
    dead_url = boto3.client("sqs").create_queue(
        QueueName=resources["dead-letter-queue"]["name"],
        Attributes={
            "MessageRetentionPeriod": str(resources["dead-letter-queue"]["messageRetentionSeconds"]),
        },
    )["QueueUrl"]
    redrive = json.loads(resources["main-queue-redrive-policy"]["redrivePolicy"])
    main = resources["main-queue"]
    main_url = boto3.client("sqs").create_queue(
        QueueName=main["name"],
        Attributes={
            "VisibilityTimeout": str(visibility_s),
            "MessageRetentionPeriod": str(main["messageRetentionSeconds"]),
            "ReceiveMessageWaitTimeSeconds": str(main["receiveWaitTimeSeconds"]),
            "Policy": resources["main-queue-policy"]["policy"],
            "RedrivePolicy": json.dumps(redrive | ({"maxReceiveCount": max_receives} if max_receives else {})),
        },
    )["QueueUrl"]
    boto3.client("sqs").set_queue_attributes(
        QueueUrl=dead_url,
        Attributes={
            "RedriveAllowPolicy": resources["dead-letter-queue-redrive-allow-policy"]["redriveAllowPolicy"],
        },
    )
    _create_bucket(resources)
    return Pipeline(
        stack="local",
        bucket_name=resources["bucket"]["bucket"],
        input_prefix=resources["bucket-notification"]["queues"][0]["filterPrefix"],
        output_prefix=resources["function"]["environment"]["variables"]["OUTPUT_PREFIX"],
        main_queue_url=main_url,
        dead_letter_queue_arn=redrive["deadLetterTargetArn"],
        dead_letter_queue_url=dead_url,
        function_name=resources["function"]["name"],
        log_group_name=resources["log-group"]["name"],
        event_source_mapping_id=_create_function(resources, code or lambda_zip(), timeout_s),
        alarm_topic_arn=boto3.client("sns").create_topic(Name=resources["alarms"]["name"])["TopicArn"],
    )


def _create_bucket(resources: dict[str, Properties]) -> None:
    # Without the bucket policy: it denies plain HTTP, and the emulator has no HTTPS.
    s3, name = boto3.client("s3"), resources["bucket"]["bucket"]
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    (queue,) = resources["bucket-notification"]["queues"]
    s3.put_bucket_notification_configuration(
        Bucket=name,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": queue["queueArn"],
                    "Events": queue["events"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": queue["filterPrefix"]}]}},
                }
            ]
        },
    )


def _create_function(resources: dict[str, Properties], code: bytes, timeout_s: int | None) -> str:
    """Create the role, the function and the event source mapping, and return the mapping's id."""
    iam, role, function = boto3.client("iam"), resources["role"], resources["function"]
    arn = iam.create_role(RoleName=role["name"], AssumeRolePolicyDocument=role["assumeRolePolicy"])["Role"]["Arn"]
    for name in ("role-makes-no-log-groups", "role-consume-queue", "role-s3-scoped-access"):
        iam.put_role_policy(RoleName=role["name"], PolicyName=name, PolicyDocument=resources[name]["policy"])
    iam.attach_role_policy(RoleName=role["name"], PolicyArn=resources["role-basic-execution"]["policyArn"])
    boto3.client("logs").create_log_group(logGroupName=resources["log-group"]["name"])
    boto3.client("lambda").create_function(
        FunctionName=function["name"],
        Runtime=function["runtime"],
        Handler=function["handler"],
        Role=arn,
        Timeout=timeout_s or function["timeout"],
        MemorySize=function["memorySize"],
        Environment={"Variables": function["environment"]["variables"]},
        Code={"ZipFile": code},
    )
    mapping: dict[str, Any] = resources["event-source-mapping"]
    return boto3.client("lambda").create_event_source_mapping(
        EventSourceArn=mapping["eventSourceArn"],
        FunctionName=function["name"],
        BatchSize=mapping["batchSize"],
        ScalingConfig={"MaximumConcurrency": mapping["scalingConfig"]["maximumConcurrency"]},
        FunctionResponseTypes=mapping["functionResponseTypes"],
    )["UUID"]


def add_dead_letter(pipeline: Pipeline, key: str, error: str) -> None:
    """Put a message about a deleted file into the dead-letter queue, and an error into the function's log.

    A redrive of it succeeds, as the function does nothing for a deleted file.
    """
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-01-02T03:04:05Z",
        "s3": {"bucket": {"name": pipeline.bucket_name}, "object": {"key": quote_plus(key), "sequencer": "1"}},
    }
    body = json.dumps({"Records": [record]})
    message_id = boto3.client("sqs").send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody=body)[
        "MessageId"
    ]
    line = {"outcome": "failed", "message_id": message_id, "key": key, "error": error, "error_type": "ValueError"}
    logs = boto3.client("logs")
    stream = {"logGroupName": pipeline.log_group_name, "logStreamName": message_id}
    logs.create_log_stream(**stream)
    logs.put_log_events(**stream, logEvents=[{"timestamp": int(time.time() * 1000), "message": json.dumps(line)}])
