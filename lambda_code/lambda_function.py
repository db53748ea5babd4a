"""The Lambda function: it writes one JSON document for each file that S3 announces through the queue.

`handler` takes a batch of messages and returns those that failed, `s3_events` parses what S3 wrote into them, and
`process` does the work on one file. Each message fails alone: the queue retries it, and moves it to the dead-letter
queue if it keeps failing.

The environment sets INPUT_PREFIX (default "inputs/") and OUTPUT_PREFIX (default "outputs/"), where the documents go:
`inputs/a.csv` becomes `outputs/a.csv.json`, see `result_keys`. The function reads every announced key that is not under
OUTPUT_PREFIX, not only those under INPUT_PREFIX: after a change of the input prefix, the queue still has messages about
files under the old one.

In addition to what every function needs, the role needs s3:GetObject and s3:GetObjectVersion on the bucket's objects,
s3:PutObject on the outputs, and s3:ListBucket on the bucket. Without s3:ListBucket, S3 answers 403 instead of 404 for
an object that does not exist (Amazon S3 API Reference, "GetObject", "Permissions"), and a deleted file would be retried
as if access to it were denied.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import traceback
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from process import Source, process
from result_keys import key_digest, result_keys
from s3_events import Json, NotUnderstoodError, ObjectCreated, is_newer, parse

if TYPE_CHECKING:
    from types import FrameType

    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef, PutObjectRequestTypeDef

INPUT_PREFIX: Final = os.environ.get("INPUT_PREFIX", "inputs/")
OUTPUT_PREFIX: Final = os.environ.get("OUTPUT_PREFIX", "outputs/")
if INPUT_PREFIX.startswith(OUTPUT_PREFIX) or OUTPUT_PREFIX.startswith(INPUT_PREFIX):
    raise ValueError("INPUT_PREFIX and OUTPUT_PREFIX overlap: the function would process its own results for ever")

CHUNK_BYTES: Final = 256 * 1024
"""The number of bytes of an object that are read at a time."""

TIME_MARGIN_MS: Final = 2000
"""The time at the end of an invocation, in milliseconds, that is reserved for reporting the messages that failed.

It is at most a quarter of the timeout, which may be as short as one second.
"""

ALARM_INTERVAL_S: Final = 1
"""The seconds after which a `process` that continues in spite of its interruption is interrupted again."""

ALMOST_ALL: Final = 0.9
"""The part of an invocation's time from which a file counts as having had all of it."""

CONNECT_TIMEOUT_S: Final = 3
READ_TIMEOUT_S: Final = 10

STORE_ATTEMPTS: Final = 10
"""How often the function tries to write a document. Each refusal means that another invocation has just written it."""

# Created once in each execution environment, not in each call (AWS Lambda Developer Guide, "Best practices for working
# with AWS Lambda functions"). After these retries the message fails, and the queue retries it.
S3: Final = boto3.client(
    "s3",
    config=Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 4},
    ),
)


class Context(Protocol):
    """The part of Lambda's context object that the function uses."""

    @property
    def aws_request_id(self) -> str:
        """The id of this invocation, as in Lambda's log lines."""
        ...

    def get_remaining_time_in_millis(self) -> int:
        """Return how many milliseconds this invocation has left."""
        ...


class BatchItemFailure(TypedDict):
    """A message that the queue must deliver again."""

    itemIdentifier: str


class BatchResponse(TypedDict):
    """The handler's response to a batch (AWS Lambda Developer Guide, "Handling errors for an SQS event source")."""

    batchItemFailures: list[BatchItemFailure]


class Interruption(BaseException):
    """The invocation has no time left for the current file.

    It is not an `Exception`, so that neither botocore nor a `process` that catches every `Exception` continues.
    """


class OutOfTimeError(Exception):
    """The file was not finished in time."""


class NotStartedError(Exception):
    """The time was used up before the function started on the file."""


class ContendedError(Exception):
    """Other invocations or other files' results prevented the document from being written."""


ALLOW_KEY: Final = (
    "add the key's ARN to compute:kmsKeyArns, check that the key's policy allows the function's role, then redrive"
)
REASONS: Final = (
    ("InvalidObjectState", "", "archived: restore it, then redrive"),
    (
        "AccessDenied",
        "perform: s3:",
        "the function's role may not read it: change its policies or the bucket's, then redrive",
    ),
    ("AccessDenied", "perform: kms:", f"encrypted with a KMS key that the function may not use: {ALLOW_KEY}"),
    ("AccessDenied", "ciphertext", f"its KMS key does not exist, or the function may not use it: {ALLOW_KEY}"),
    (
        "AccessDenied",
        "",
        f"either the function's role may not read it: change the policies; or may not use its KMS key: {ALLOW_KEY}",
    ),
    (
        "InvalidRequest",
        "Server Side Encryption",
        "encrypted with the uploader's own key, which S3 does not store (SSE-C): upload it again without SSE-C",
    ),
    ("KMS.DisabledException", "", "its KMS key is disabled: enable the key, then redrive"),
    (
        "KMS.KMSInvalidStateException",
        "",
        "its KMS key can't be used in its present state, such as pending deletion: change the state, then redrive",
    ),
    ("KMS.NotFoundException", "", "its KMS key was not found: if it was deleted, upload the file again"),
)
"""Why S3 refuses to return an object: the error's code, a part of its message, and the reason with what to do.

The first match applies. Sources: Amazon S3 API Reference, "GetObject"; Amazon S3 User Guide, "Troubleshoot access
denied (403 Forbidden) errors"; AWS KMS Developer Guide, "Key states of AWS KMS keys".
"""


def handler(event: Json, context: Context) -> BatchResponse:
    """Process a batch of messages from the queue.

    The handler never raises, whatever the event looks like: an exception would fail the messages that succeeded too.

    Args:
        event: What the event source mapping sends: `{"Records": [{"messageId": ..., "body": ...}, ...]}`.
        context: Lambda's context object.

    Returns:
        The messages that failed. A message without an id is only logged: Lambda treats an unknown or empty id in the
        response as a failure of the whole batch.
    """
    messages = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(messages, list):
        _log("ERROR", "failed", request_id=context.aws_request_id, error="the event is not a batch of messages")
        return {"batchItemFailures": []}
    deadline = Deadline(context)
    fields = [message if isinstance(message, dict) else {} for message in messages]
    batch = [(each, parse(each.get("body"))) for each in fields]
    batch.sort(key=lambda each: (_receives(each[0]), _size(each[1])))  # fewest receives first, then smallest
    failures: list[BatchItemFailure] = []
    for message, records in batch:
        message_id = message.get("messageId")
        if not records:
            _log("INFO", "test_event", request_id=context.aws_request_id, message_id=message_id)
        done = [_handle_record(record, message, deadline) for record in records]  # a list, to try all of them
        if not all(done) and isinstance(message_id, str) and message_id:
            failures.append({"itemIdentifier": message_id})
    return {"batchItemFailures": failures}


def _receives(message: dict[str, Json]) -> int:
    """Return how often a message has been received, including this time."""
    match message:
        case {"attributes": {"ApproximateReceiveCount": str(count)}} if re.fullmatch("[0-9]{1,9}", count):
            return int(count)
        case _:
            return 1


def _size(records: list[ObjectCreated | NotUnderstoodError]) -> int:
    return sum(record.size for record in records if isinstance(record, ObjectCreated))


class Deadline:
    """The end of the time for a file. It interrupts the work while there is still time to report that.

    It uses a signal: Lambda calls the handler in the main thread, where Python runs signal handlers.

    Args:
        context: Lambda's context object.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        total_ms = context.get_remaining_time_in_millis()
        self._margin_ms = min(TIME_MARGIN_MS, total_ms / 4)
        self._whole_s = (total_ms - self._margin_ms) / 1000

    def work(self, created: ObjectCreated, facts: dict[str, object]) -> str:
        """Call `_handle_object`, and interrupt it when the time is up.

        Raises:
            NotStartedError: There was no time left to begin.
            OutOfTimeError: It was interrupted.
            Exception: Whatever `_handle_object` raised.
        """
        seconds = (self.context.get_remaining_time_in_millis() - self._margin_ms) / 1000
        whole = f"{self._whole_s:.3g} s"
        if seconds <= 0:
            raise NotStartedError(
                f"not started: the files before it in its batch used up the {whole} that a batch has: "
                "lower compute:batchSize"
            )
        signal.setitimer(signal.ITIMER_REAL, seconds, ALARM_INTERVAL_S)
        try:
            return _handle_object(created, facts)
        except Interruption as interruption:
            remedy = "raise messaging:consumerTimeoutSeconds or compute:memorySize"
            raise OutOfTimeError(
                f"not finished within the {whole} that a file has: {remedy}"
                if seconds > ALMOST_ALL * self._whole_s
                else f"not finished within the {seconds:.3g} s that the files before it in its batch left of {whole}: "
                f"lower compute:batchSize, or {remedy}"
            ).with_traceback(interruption.__traceback__) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    """Interrupt `_handle_object`, and nothing else: what comes after it must be reported, however late it is."""
    while frame is not None:
        if frame.f_code is _handle_object.__code__:
            raise Interruption
        frame = frame.f_back


signal.signal(signal.SIGALRM, _interrupt)


def _handle_record(record: ObjectCreated | NotUnderstoodError, message: dict[str, Json], deadline: Deadline) -> bool:
    """Do the work of one record, log the outcome, and return whether it is done."""
    started = time.monotonic()
    facts: dict[str, object] = {
        "request_id": deadline.context.aws_request_id,
        "message_id": message.get("messageId"),
        "receive_count": _receives(message),
    }
    done = True
    try:
        if isinstance(record, NotUnderstoodError):
            raise record  # noqa: TRY301 - it fails like anything else
        facts |= {"bucket": record.bucket, "key": record.key, "sequencer": record.sequencer}
        level, outcome = "INFO", deadline.work(record, facts)
        if record.event_time:
            facts["since_upload_ms"] = round((datetime.now(UTC) - record.event_time).total_seconds() * 1000)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - nothing that `process` does may fail the other messages
        level, outcome, done = "ERROR", "failed", False
        facts |= {
            "error_type": type(error).__name__,
            "error": str(error),
            "traceback": traceback.format_exc(chain=False),
        }
    _log(level, outcome, **facts, duration_ms=round((time.monotonic() - started) * 1000))
    return done


def _handle_object(created: ObjectCreated, facts: dict[str, object]) -> str:
    """Read an object and write its document.

    If the bucket has versioning, read the version in the event. Otherwise read the current object, which may be newer
    than the event. Requiring the event's ETag would be wrong: if two writes are made at the same time, S3 may announce
    only one of them (Amazon S3 User Guide, "Configuring Amazon S3 event notifications").

    Args:
        created: The object to read.
        facts: The facts to log. The object's size is added, or the reason why S3 refuses to return it.

    Returns:
        The outcome: "processed"; "own_result" if the key is under the output prefix, as results must not get results of
        their own; "folder" for the empty object, with a key ending in a slash, that S3's console creates for a folder;
        "gone" if the object has been deleted; "stale" if a newer event's document is there already.

    Raises:
        Exception: The work is not done and must be tried again. So it is after a `SystemExit` of `process`.
    """
    if created.key.startswith(OUTPUT_PREFIX):
        return "own_result"
    get: GetObjectRequestTypeDef = {"Bucket": created.bucket, "Key": created.key}
    if created.version_id is not None:
        get["VersionId"] = created.version_id
    try:
        response = S3.get_object(**get)
    except ClientError as error:
        if _code(error) in {"NoSuchKey", "NoSuchVersion", "404"}:
            return "gone"
        if reason := _reason(error):
            facts["reason"] = reason
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
        if source.size == 0 and created.key.endswith("/"):
            return "folder"
        result = process(source, body.iter_chunks(CHUNK_BYTES))
    document = json.dumps({**asdict(source), **result}, indent=2).encode()
    for key in result_keys(created.key, INPUT_PREFIX, OUTPUT_PREFIX):
        outcome = _store(key, document, created, source)
        if outcome != "taken":
            return outcome
    raise ContendedError("both keys that its result can have are taken by other files' results")


def _reason(error: ClientError) -> str | None:
    """Return why S3 refuses to return an object, if it is one of `REASONS`."""
    message = error.response.get("Error", {}).get("Message", "")
    return next((words for code, part, words in REASONS if code == _code(error) and part in message), None)


def _store(key: str, document: bytes, created: ObjectCreated, source: Source) -> str:
    """Write a document, unless there is one of a newer event, or of another file.

    This is safe with other invocations at the same time, as S3 compares and writes in one step (Amazon S3 User Guide,
    "How to prevent object overwrites with conditional writes"). The sequencer, the bucket, the digest of the file's
    key, and the ETag and version that were read are also in the metadata, where a HEAD request returns them. A document
    without a digest was written by version 0.1.0 and is assumed to belong to the same file.

    Sequencers order the events of a key in one bucket (Amazon S3 User Guide, "Event message structure"). So a document
    that was copied here from another bucket is older than any event.

    Args:
        key: The document's key.
        document: Its text.
        created: The event that the document is about.
        source: The object that was read.

    Returns:
        "processed" if the document was written, "stale" if there is a newer one, "taken" if there is one of another
        file.

    Raises:
        ClientError: S3 refused for another reason than the condition.
        ContendedError: Other invocations wrote first, `STORE_ATTEMPTS` times.
    """
    digest = key_digest(created.key)
    version = {"version-id": source.version_id} if source.version_id else {}
    put: PutObjectRequestTypeDef = {
        "Bucket": created.bucket,
        "Key": key,
        "Body": document,
        "ContentType": "application/json",
        "Metadata": {
            "sequencer": created.sequencer,
            "bucket": created.bucket,
            "key-sha256": digest,
            "etag": source.etag,
            **version,
        },
    }
    attempt: PutObjectRequestTypeDef = {**put, "IfNoneMatch": "*"}
    for _ in range(STORE_ATTEMPTS):
        try:
            S3.put_object(**attempt)
        except ClientError as error:
            # 412, 409, or 404 for an If-Match if the document has just been deleted: look again.
            if _code(error) not in {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}:
                raise
        else:
            return "processed"
        try:
            existing = S3.head_object(Bucket=created.bucket, Key=key)
        except ClientError as error:
            if _code(error) != "404":  # the response to a HEAD has no body with the error's name
                raise
            attempt = {**put, "IfNoneMatch": "*"}
        else:
            metadata = existing["Metadata"]
            if metadata.get("key-sha256", digest) != digest:
                return "taken"
            of_this_bucket = metadata.get("bucket", created.bucket) == created.bucket
            if of_this_bucket and is_newer(metadata.get("sequencer", ""), created.sequencer):
                return "stale"
            attempt = {**put, "IfMatch": existing["ETag"]}
    raise ContendedError(f"other invocations wrote the document first, {STORE_ATTEMPTS} times")


def _code(error: ClientError) -> str | None:
    """Return the code of S3's error, or the status if a control character in a key makes the XML unreadable."""
    return error.response.get("Error", {}).get("Code")


def _log(level: str, outcome: str, **facts: object) -> None:
    """Print one line of JSON, in ASCII so that no character breaks the line."""
    print(json.dumps({"level": level, "outcome": outcome, **facts}), flush=True)
