"""What tests do with a pipeline, and what they observe."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from tests.support.waiting import eventually
from xfarm.emulator.server import Emulator
from xfarm.operations.pipeline import Counts, Pipeline, counts

THREADS = 8
RETRY_S = 10
"""Longer than a batch takes on a busy machine, and short enough to wait for every receive of a message."""

EMPTY = Counts(waiting=0, in_flight=0)


@dataclass(frozen=True)
class Driver:
    """A pipeline and its emulator."""

    emulator: Emulator
    pipeline: Pipeline

    def upload(self, contents: Mapping[str, bytes]) -> None:
        """Upload files to the input folder."""
        s3 = boto3.client("s3", config=Config(max_pool_connections=THREADS))

        def put(name: str) -> None:
            key = self.pipeline.input_prefix + name
            s3.put_object(Bucket=self.pipeline.bucket_name, Key=key, Body=contents[name])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(put, contents))

    def results(self) -> set[str]:
        """Return the names of the files that have a result."""
        pages = (
            boto3.client("s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=self.pipeline.bucket_name, Prefix=self.pipeline.output_prefix)
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key.removeprefix(self.pipeline.output_prefix).removesuffix(".json") for key in keys}

    def documents(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the result documents of files by name."""
        s3 = boto3.client("s3", config=Config(max_pool_connections=THREADS))

        def get(name: str) -> tuple[str, dict[str, Any]]:
            key = f"{self.pipeline.output_prefix}{name}.json"
            return name, json.load(s3.get_object(Bucket=self.pipeline.bucket_name, Key=key)["Body"])

        with ThreadPoolExecutor(THREADS) as pool:
            return dict(pool.map(get, names))

    def assert_complete(self, contents: Mapping[str, bytes]) -> None:
        """Wait until each file has its result; assert that there are no other results, messages or dead letters."""
        eventually(lambda: self.results() >= contents.keys())
        self.assert_idle()
        assert self.results() == contents.keys()
        results = {name: (each["key"], each["sha256"]) for name, each in self.documents(contents).items()}
        assert results == {
            name: (self.pipeline.input_prefix + name, hashlib.sha256(body).hexdigest())
            for name, body in contents.items()
        }
        assert counts(self.pipeline.dead_letter_queue_url) == EMPTY

    def assert_idle(self) -> None:
        """Wait until the main queue has no messages, neither waiting nor in flight."""
        eventually(lambda: counts(self.pipeline.main_queue_url) == EMPTY)

    def assert_started(self) -> None:
        """Wait until the function, whose first call is slow, has processed S3's test message."""
        eventually(self.logged)
        self.assert_idle()

    def shorten_visibility_timeout(self, seconds: int = RETRY_S) -> None:
        """Set a visibility timeout that a test of retries can wait for, once the function has started."""
        self.assert_started()
        boto3.client("sqs").set_queue_attributes(
            QueueUrl=self.pipeline.main_queue_url, Attributes={"VisibilityTimeout": str(seconds)}
        )

    def set_receives(self, number: int) -> None:
        """Set how often a message is received before it is a dead letter."""
        policy = {"deadLetterTargetArn": self.pipeline.dead_letter_queue_arn, "maxReceiveCount": number}
        boto3.client("sqs").set_queue_attributes(
            QueueUrl=self.pipeline.main_queue_url, Attributes={"RedrivePolicy": json.dumps(policy)}
        )

    def set_mapping(self, *, enabled: bool) -> None:
        """Enable or disable the event source mapping, and wait until it has changed."""
        function, uuid = boto3.client("lambda"), self.pipeline.event_source_mapping_id
        function.update_event_source_mapping(UUID=uuid, Enabled=enabled)
        state = "Enabled" if enabled else "Disabled"
        eventually(lambda: function.get_event_source_mapping(UUID=uuid)["State"] == state)

    def last_processing_result(self) -> str:
        """Return the result of the function's last batch."""
        uuid = self.pipeline.event_source_mapping_id
        return boto3.client("lambda").get_event_source_mapping(UUID=uuid)["LastProcessingResult"]

    def send(self, bodies: Iterable[str]) -> list[str]:
        """Send messages to the main queue, and return their ids."""
        sqs, bodies = boto3.client("sqs"), list(bodies)
        ids: list[str] = []
        for start in range(0, len(bodies), 10):
            entries = [
                {"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies[start : start + 10])
            ]
            answer = sqs.send_message_batch(
                QueueUrl=self.pipeline.main_queue_url,
                Entries=entries,
            )
            assert not answer.get("Failed")
            ids += [sent["MessageId"] for sent in sorted(answer["Successful"], key=lambda sent: int(sent["Id"]))]
        return ids

    def take(self, number: int) -> list[str]:
        """Receive and delete all messages of the main queue, assert their number, and return their bodies."""
        sqs, url = boto3.client("sqs"), self.pipeline.main_queue_url
        bodies: list[str] = []

        def receive() -> bool:
            messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
            for message in messages:
                bodies.append(message["Body"])
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            return len(bodies) >= number

        while not receive():
            assert counts(url) != EMPTY, f"only {len(bodies)} of {number}"
        assert len(bodies) == number
        return bodies

    def logged(self) -> list[dict[str, Any]]:
        """Return the line that the function has logged for each attempt."""
        pages = (
            boto3.client("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=self.pipeline.log_group_name, filterPattern='"outcome"')
        )
        return [json.loads(event["message"]) for page in pages for event in page["events"]]

    def failures(self, error_type: str) -> list[dict[str, Any]]:
        """Return the lines that the function has logged for failures of one type."""
        return [line for line in self.logged() if line.get("error_type") == error_type]

    def name(self, line: dict[str, Any]) -> str:
        """Return the name of the file that a line of the log is about."""
        return str(line["key"]).removeprefix(self.pipeline.input_prefix)

    @staticmethod
    def sequencer(body: str) -> str:
        """Return the sequencer in a message from S3; in the emulator, all have the same length."""
        return json.loads(body)["Records"][0]["s3"]["object"]["sequencer"]

    def keep_versions(self) -> None:
        """Turn on versioning of the bucket."""
        boto3.client("s3").put_bucket_versioning(
            Bucket=self.pipeline.bucket_name, VersioningConfiguration={"Status": "Enabled"}
        )

    def deny_reading(self, pattern: str) -> None:
        """Forbid the function to read keys in the input folder, by a bucket policy."""
        function = boto3.client("lambda").get_function_configuration(FunctionName=self.pipeline.function_name)
        statement = {
            "Effect": "Deny",
            "Principal": {"AWS": function["Role"]},
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self.pipeline.bucket_name}/{self.pipeline.input_prefix}{pattern}",
        }
        boto3.client("s3").put_bucket_policy(
            Bucket=self.pipeline.bucket_name,
            Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )

    def allow_reading(self) -> None:
        """Undo `deny_reading`."""
        boto3.client("s3").delete_bucket_policy(Bucket=self.pipeline.bucket_name)

    def remove(self) -> None:
        """Delete the function, which would go on using the machine, and disable the event source mapping.

        The mapping is kept: if the emulator has none, it takes 5 s to find the next one.
        """
        self.set_mapping(enabled=False)
        boto3.client("lambda").delete_function(FunctionName=self.pipeline.function_name)
