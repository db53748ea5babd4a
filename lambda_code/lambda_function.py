"""The Lambda function: each file that S3 announces through the queue becomes one JSON document.

`handler` takes a batch of messages apart and says which of them failed; `s3_events` reads what S3 wrote into them;
`process` does the work on one file. A message fails alone, is retried by the queue, and ends in the dead-letter queue
if it goes on failing.

The environment sets INPUT_PREFIX (default "inputs/"), the only keys that are read, and OUTPUT_PREFIX (default
"outputs/"), where the documents go: `inputs/a.csv` becomes `outputs/a.csv.json`.

The role needs, beside what every function needs: s3:GetObject and s3:GetObjectVersion on the inputs, s3:GetObject and
s3:PutObject on the outputs, and s3:ListBucket on the bucket. Without the last, S3 answers 403 and not 404 when an
object is not there (Amazon S3 API Reference, "GetObject", "Permissions"), and a file that has been deleted would be
retried as if access to it were denied.
"""

import json
import os
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from process import Source, process
from s3_events import Json, NotUnderstoodError, ObjectCreated, is_newer, parse

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef, PutObjectRequestTypeDef

INPUT_PREFIX: Final = os.environ.get("INPUT_PREFIX", "inputs/")
OUTPUT_PREFIX: Final = os.environ.get("OUTPUT_PREFIX", "outputs/")
if INPUT_PREFIX.startswith(OUTPUT_PREFIX) or OUTPUT_PREFIX.startswith(INPUT_PREFIX):
    raise ValueError("INPUT_PREFIX and OUTPUT_PREFIX overlap: the function would process its own results for ever")

CHUNK_BYTES: Final = 256 * 1024
"""How much of an object is read at a time, in bytes."""

TIME_MARGIN_MS: Final = 15_000
"""Below this much time left, in milliseconds, nothing is begun and nothing is read on.

It is more than READ_TIMEOUT_S, for the read in progress. An invocation of less than a minute keeps only a quarter of
its time back, or it would never begin.
"""

CONNECT_TIMEOUT_S: Final = 3
READ_TIMEOUT_S: Final = 10

STORE_ATTEMPTS: Final = 10
"""How often a document is offered to S3. Each refusal means that another invocation wrote the same key just then."""

# Made once an execution environment and not once a call (AWS Lambda Developer Guide, "Best practices for working with
# AWS Lambda functions"). What fails after these retries is retried by the queue.
S3: Final = boto3.client(
    "s3",
    config=Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 4},
    ),
)


class Context(Protocol):
    """The part of Lambda's context object that is used."""

    @property
    def aws_request_id(self) -> str:
        """The id of this invocation, as in Lambda's own log lines."""
        ...

    def get_remaining_time_in_millis(self) -> int:
        """Tell how long this invocation may still take."""
        ...


class BatchItemFailure(TypedDict):
    """One message that is to be delivered again."""

    itemIdentifier: str


class BatchResponse(TypedDict):
    """What Lambda is told about a batch (AWS Lambda Developer Guide, "Handling errors for an SQS event source")."""

    batchItemFailures: list[BatchItemFailure]


@dataclass(frozen=True)
class Clock:
    """Says when an invocation has too little time left to go on."""

    context: Context
    margin_ms: float

    @classmethod
    def start(cls, context: Context) -> "Clock":
        """Set the margin by the time that the invocation begins with."""
        return cls(context, min(TIME_MARGIN_MS, context.get_remaining_time_in_millis() / 4))

    def check(self) -> None:
        """Let go on who has the time for it.

        Raises:
            OutOfTimeError: Less than the margin is left.
        """
        if self.context.get_remaining_time_in_millis() < self.margin_ms:
            raise OutOfTimeError(f"less than {self.margin_ms:.0f} ms left")


class OutOfTimeError(Exception):
    """The invocation has too little time left; the message is for the next one."""


class ContendedError(Exception):
    """Other invocations wrote the same document again and again; the message is for later."""


def handler(event: Json, context: Context) -> BatchResponse:
    """Process a batch of messages from the queue.

    It returns whatever the event looks like: an exception here would fail the messages that succeeded too.

    Args:
        event: What the event source mapping sends: `{"Records": [{"messageId": ..., "body": ...}, ...]}`.
        context: Lambda's context object.

    Returns:
        The messages that failed. Only ids that the event contains are reported, as Lambda takes an id that it does
        not know, or an empty one, to mean that the whole batch failed. What has no id is not from a queue, and there
        is nothing to deliver again: it is logged.
    """
    messages = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(messages, list):
        _log("ERROR", "failed", request_id=context.aws_request_id, error="the event is not a batch of messages")
        return {"batchItemFailures": []}
    clock = Clock.start(context)
    failures: list[BatchItemFailure] = []
    for message in messages:
        fields = message if isinstance(message, dict) else {}
        message_id = fields.get("messageId")
        done = _handle_message(message_id, fields.get("body"), clock)
        if not done and isinstance(message_id, str) and message_id:
            failures.append({"itemIdentifier": message_id})
    return {"batchItemFailures": failures}


def _handle_message(message_id: Json, body: Json, clock: Clock) -> bool:
    """Try everything in one message; tell whether all of it is done."""
    records = parse(body)
    if not records:
        _log("INFO", "test_event", request_id=clock.context.aws_request_id, message_id=message_id)
    done = [_handle_record(record, message_id, clock) for record in records]  # a list first, as all are to be tried
    return all(done)


def _handle_record(record: ObjectCreated | NotUnderstoodError, message_id: Json, clock: Clock) -> bool:
    """Do one record's work and log how it went; tell whether it is done."""
    started = time.monotonic()
    facts: dict[str, object] = {"request_id": clock.context.aws_request_id, "message_id": message_id}
    done = True
    try:
        if isinstance(record, NotUnderstoodError):
            raise record  # noqa: TRY301  it fails like anything else
        facts |= {"bucket": record.bucket, "key": record.key, "sequencer": record.sequencer}
        level, outcome = "INFO", _handle_object(record, facts, clock)
    except Exception as error:  # noqa: BLE001  whatever it is, it must not fail the messages beside this one
        level, outcome, done = "ERROR", "failed", False
        facts |= {
            "error_type": type(error).__name__,
            "error": str(error),
            "traceback": traceback.format_exc(chain=False),
        }
    _log(level, outcome, **facts, duration_ms=round((time.monotonic() - started) * 1000))
    return done


def _handle_object(created: ObjectCreated, facts: dict[str, object], clock: Clock) -> str:
    """Read an object and write its document.

    In a bucket with versions the version of the event is read. Without, it is the object that is there now, which may
    be newer than its event. To insist on the event's ETag would be wrong: where two writes come at the same time, S3
    may announce only one of them (Amazon S3 User Guide, "Configuring Amazon S3 event notifications").

    Args:
        created: What to read.
        facts: What is logged; the object's size is added to it.
        clock: Says when to stop.

    Returns:
        The outcome: "processed", "outside_prefix" (never read, lest results be processed in their turn), "gone"
        (deleted since, so nothing is left to do) or "stale" (a newer event's document is there, and stays).

    Raises:
        Exception: The work is not done, and shall be tried again.
    """
    if not created.key.startswith(INPUT_PREFIX):
        return "outside_prefix"
    clock.check()
    get: GetObjectRequestTypeDef = {"Bucket": created.bucket, "Key": created.key}
    if created.version_id is not None:
        get["VersionId"] = created.version_id
    try:
        response = S3.get_object(**get)
    except ClientError as error:
        if _code(error) in {"NoSuchKey", "NoSuchVersion"}:
            return "gone"
        raise
    source = Source(
        bucket=created.bucket,
        key=created.key,
        version_id=response.get("VersionId"),
        etag=response["ETag"].strip('"'),
        sequencer=created.sequencer,
        size=response["ContentLength"],
        content_type=response.get("ContentType", ""),
    )
    facts["size"] = source.size
    with closing(response["Body"]) as body:
        result = process(source, _in_time(body.iter_chunks(CHUNK_BYTES), clock))
    document = json.dumps({**asdict(source), **result}, indent=2).encode()
    key = f"{OUTPUT_PREFIX}{created.key.removeprefix(INPUT_PREFIX)}.json"
    return "processed" if _store(created.bucket, key, document, created.sequencer) else "stale"


def _store(bucket: str, key: str, document: bytes, sequencer: str) -> bool:
    """Write a document, unless one of a newer event is there already.

    S3 compares and writes in one step (Amazon S3 User Guide, "How to prevent object overwrites with conditional
    writes"), so this holds against other invocations at the same moment. The sequencer is kept in the metadata too,
    where it can be read without trusting the body.

    Args:
        bucket: The bucket to write to.
        key: The document's key.
        document: Its text.
        sequencer: That of the event that the document tells of.

    Returns:
        True if the document was written, False if a newer one stays.

    Raises:
        ClientError: S3 refused for another reason than the condition.
        ContendedError: It was overtaken `STORE_ATTEMPTS` times.
    """
    put: PutObjectRequestTypeDef = {
        "Bucket": bucket,
        "Key": key,
        "Body": document,
        "ContentType": "application/json",
        "Metadata": {"sequencer": sequencer},
    }
    attempt: PutObjectRequestTypeDef = {**put, "IfNoneMatch": "*"}
    for _ in range(STORE_ATTEMPTS):
        try:
            S3.put_object(**attempt)
        except ClientError as error:
            # 412, 409, and 404 for an If-Match where the document has just been deleted: look again.
            if _code(error) not in {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}:
                raise
        else:
            return True
        try:
            there = S3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) != "404":  # the answer to a HEAD has no body to name the error
                raise
            attempt = {**put, "IfNoneMatch": "*"}
        else:
            if is_newer(there["Metadata"].get("sequencer", ""), sequencer):
                return False
            attempt = {**put, "IfMatch": there["ETag"]}
    raise ContendedError(f"{STORE_ATTEMPTS} attempts to write the document were overtaken")


def _in_time(chunks: Iterable[bytes], clock: Clock) -> Iterator[bytes]:
    """Pass chunks on while there is time, so that an object too large for one invocation fails alone."""
    for chunk in chunks:
        clock.check()
        yield chunk


def _code(error: ClientError) -> str | None:
    return error.response.get("Error", {}).get("Code")


def _log(level: str, outcome: str, **facts: object) -> None:
    """Write one line of JSON. ASCII, so that no text can break it."""
    print(json.dumps({"level": level, "outcome": outcome, **facts}), flush=True)
