"""The messages in the dead-letter queue, and why they are there."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

import boto3

from xfarm.operations.pipeline import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_sqs.type_defs import MessageTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

HIDDEN_S: Final = 60
"""The visibility timeout of a received message, in seconds, which ends early unless this process is killed."""

WAIT_S: Final = 1
"""How long, in seconds, a receive waits for a message.

Above 0, SQS asks all of its servers and not a sample of them ("Amazon SQS short and long polling"). Only then does an
empty answer mean that there are no more messages.
"""

BATCH: Final = 10
"""The most messages in one call to SQS ("ReceiveMessage")."""

NO_ERROR: Final = (
    "no error logged: the function ran out of memory (compute:memorySize) or crashed while it processed the file, or "
    "was never called with it (throttled); see its log"
)


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message in the dead-letter queue.

    Attributes:
        message_id: Its id, the same as in the main queue.
        sent: When it was sent to the main queue.
        receives: How often it was received, including by `peek`.
        bucket: The object's bucket. This and the following are None if the message is not from S3.
        key: The object's key.
        etag: The ETag of the upload, without quotes.
        version_id: The version of the upload, or None if the bucket has no versioning.
        uploaded: When S3 received the object.
    """

    message_id: str
    sent: datetime
    receives: int
    bucket: str | None = None
    key: str | None = None
    etag: str | None = None
    version_id: str | None = None
    uploaded: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed attempt at one object, from the function's log."""

    message_id: str
    key: str | None
    error: str


def peek(pipeline: Pipeline) -> list[DeadLetter]:
    """Return the messages in the dead-letter queue, and leave them there.

    SQS shows a message only to its receiver. So this receives each message once and makes it visible again when all
    have been read. Until then, neither a redrive nor another reader finds it. Its count of receives grows by one, which
    does no harm: nothing is moved out of a dead-letter queue because of that count. Messages that somebody else has in
    flight are missing.
    """
    with received(pipeline) as messages:
        return [read(message) for message in messages]


@contextmanager
def received(pipeline: Pipeline) -> Iterator[list[MessageTypeDef]]:
    """Receive all visible messages, and make them visible again afterwards."""
    sqs, url = boto3.client("sqs"), pipeline.dead_letter_queue_url
    messages: dict[str, MessageTypeDef] = {}
    try:
        while True:
            batch = sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=BATCH,
                VisibilityTimeout=HIDDEN_S,
                WaitTimeSeconds=WAIT_S,
                MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            ).get("Messages", [])
            before = len(messages)
            messages |= {message["MessageId"]: message for message in batch}
            if len(messages) == before:  # there are no more, or so many that the first are visible again
                break
        yield list(messages.values())
    finally:
        handles = [message["ReceiptHandle"] for message in messages.values()]
        for start in range(0, len(handles), BATCH):
            sqs.change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for number, handle in enumerate(handles[start : start + BATCH])
                ],
            )


def read(message: MessageTypeDef) -> DeadLetter:
    """Return the dead letter in a received message, whatever its body contains.

    Source: Amazon S3 User Guide, "Event message structure".
    """
    attributes = message["Attributes"]
    about: dict[str, Any] = {
        "message_id": message["MessageId"],
        "sent": datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1000, UTC),
        "receives": int(attributes["ApproximateReceiveCount"]),
    }
    try:
        record = json.loads(message["Body"])["Records"][0]
        entity = record["s3"]["object"]
        uploaded = datetime.fromisoformat(record["eventTime"])
        return DeadLetter(
            **about,
            bucket=record["s3"]["bucket"]["name"],
            key=unquote_plus(entity["key"]),
            etag=entity.get("eTag"),
            version_id=entity.get("versionId"),
            uploaded=uploaded.replace(tzinfo=uploaded.tzinfo or UTC),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return DeadLetter(**about)


def failures(pipeline: Pipeline, since: datetime) -> list[Failure]:
    """Return the failed attempts in the function's log, the oldest first."""
    pages = (
        boto3.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=pipeline.log_group_name,
            startTime=int(since.timestamp() * 1000),
            filterPattern='{ $.outcome = "failed" }',
        )
    )
    events = [event for page in pages for event in page["events"]]
    events.sort(key=lambda event: event.get("timestamp", 0))
    return [failure for event in events if (failure := read_log(event.get("message", "")))]


def read_log(line: str) -> Failure | None:
    """Return the failed attempt in a line of the function's log, or None if the line is about something else."""
    try:
        facts = json.loads(line)
    except ValueError:
        return None
    match facts:
        case {"outcome": "failed", "message_id": str(message_id), "error": str(error)}:
            headline = facts.get("reason") or facts.get("error_type")
            return Failure(
                message_id=message_id, key=facts.get("key"), error=f"{headline}: {error}" if headline else error
            )
        case _:
            return None


def last_errors(pipeline: Pipeline, letters: list[DeadLetter]) -> dict[str, str]:
    """Return the last error of each message by its id, or `NO_ERROR` if the function logged none."""
    if not letters:
        return {}
    logged = failures(pipeline, min(letter.sent for letter in letters))
    errors = {failure.message_id: failure.error for failure in logged}
    return {letter.message_id: errors.get(letter.message_id, NO_ERROR) for letter in letters}


def show(pipeline: Pipeline, console: Console, *, as_json: bool) -> None:
    """Show the messages in the dead-letter queue, and leave them there (see `peek`)."""
    letters = sorted(peek(pipeline), key=lambda letter: letter.sent)
    errors = last_errors(pipeline, letters)
    if as_json:
        entries = [{**asdict(letter), "error": errors[letter.message_id]} for letter in letters]
        print(json.dumps(entries, indent=2, default=datetime.isoformat))
        return
    if not letters:
        console.print(f"{pipeline.dead_letter_queue_name} is empty.")
        return
    for letter in letters:
        where = f"s3://{letter.bucket}/{letter.key}" if letter.key else "not a message from S3"
        console.print(printable(where), style="bold", markup=False, highlight=False)
        console.print(
            f"  sent {letter.sent:%Y-%m-%d %H:%M:%S} UTC, received {letter.receives} times, "
            f"message {letter.message_id}\n  {printable(errors[letter.message_id])}",
            markup=False,
            highlight=False,
        )
    console.print(
        f"{len(letters)} in {pipeline.dead_letter_queue_name}. All stay there; reading them counts as one receive each."
    )
