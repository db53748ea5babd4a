"""The Lambda function: each file that S3 announces through the queue becomes one JSON document.

`handler` takes a batch of messages apart and says which of them failed; `s3_events` reads what S3 wrote into them;
`process` does the work on one file. A message fails alone, is retried by the queue, and ends in the dead-letter queue
if it goes on failing.

The environment sets INPUT_PREFIX (default "inputs/") and OUTPUT_PREFIX (default "outputs/"), where the documents go:
`inputs/a.csv` becomes `outputs/a.csv.json`, see `result_keys`. Every key that is announced is read, unless it is under
OUTPUT_PREFIX: while the input prefix changes, files under the earlier one, or the next one, are still on their way.

The role needs, beside what every function needs: s3:GetObject and s3:GetObjectVersion on the bucket's objects,
s3:PutObject on the outputs, and s3:ListBucket on the bucket. Without the last, S3 answers 403 and not 404 when an
object is not there (Amazon S3 API Reference, "GetObject", "Permissions"), and a file that has been deleted would be
retried as if access to it were denied.
"""

import json
import os
import re
import signal
import time
import traceback
from contextlib import closing
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from process import Source, process
from result_keys import key_digest, result_keys
from s3_events import Json, NotUnderstoodError, ObjectCreated, is_newer, parse

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef, PutObjectRequestTypeDef

INPUT_PREFIX: Final = os.environ.get("INPUT_PREFIX", "inputs/")
OUTPUT_PREFIX: Final = os.environ.get("OUTPUT_PREFIX", "outputs/")
if INPUT_PREFIX.startswith(OUTPUT_PREFIX) or OUTPUT_PREFIX.startswith(INPUT_PREFIX):
    raise ValueError("INPUT_PREFIX and OUTPUT_PREFIX overlap: the function would process its own results for ever")

CHUNK_BYTES: Final = 256 * 1024
"""How much of an object is read at a time, in bytes."""

TIME_MARGIN_MS: Final = 2000
"""How much of its time an invocation keeps back, in milliseconds, to say which messages failed.

Never more than a quarter: a function may have a timeout of one second.
"""

ALARM_INTERVAL_S: Final = 1
"""How long after the end of a file's time, and then how often, `process` is interrupted again if it goes on."""

ALL_BUT: Final = 0.9
"""The part of an invocation's time above which a file is said to have had all of it."""

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


class Interruption(BaseException):
    """The invocation has no time left for the file that it is at.

    It is no Exception, so that neither botocore nor a `process` that catches these goes on as if nothing had happened.
    """


class OutOfTimeError(Exception):
    """The file was not finished in time; the message is for the next invocation."""


class NotBegunError(Exception):
    """The time was used up before the file was begun; the message is for the next invocation."""


class ContendedError(Exception):
    """Other invocations wrote the same document again and again; the message is for later."""


ALLOW_KEY: Final = (
    "add the key's ARN to compute:kmsKeyArns, see that the key's policy allows the function's role, then redrive"
)
REASONS: Final = (
    ("InvalidObjectState", "", "archived: restore it, then redrive"),
    (
        "AccessDenied",
        "perform: s3:",
        "the function's role may not read it: change its policies or the bucket's, then redrive",
    ),
    ("AccessDenied", "perform: kms:", f"encrypted with a KMS key that the function may not use: {ALLOW_KEY}"),
    ("AccessDenied", "ciphertext", f"its KMS key is not there, or the function may not use it: {ALLOW_KEY}"),
    (
        "AccessDenied",
        "",
        f"either the function's role may not read it: change the policies; or not use its KMS key: {ALLOW_KEY}",
    ),
    (
        "InvalidRequest",
        "Server Side Encryption",
        "encrypted with a key of the uploader's own, which S3 does not keep (SSE-C): upload it again without that",
    ),
    ("KMS.DisabledException", "", "its KMS key is disabled: enable the key, then redrive"),
    (
        "KMS.KMSInvalidStateException",
        "",
        "its KMS key can't be used in the state it is in, such as pending deletion: end that state, then redrive",
    ),
    ("KMS.NotFoundException", "", "its KMS key is not found: if it was deleted, upload the file again"),
)
"""Why S3 does not give out an object: the code of its error, what the message has in it, and what to do.

The first that applies is taken. Sources: Amazon S3 API Reference, "GetObject"; Amazon S3 User Guide, "Troubleshoot
access denied (403 Forbidden) errors"; AWS KMS Developer Guide, "Key states of AWS KMS keys".
"""


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
    deadline = Deadline(context)
    fields = [message if isinstance(message, dict) else {} for message in messages]
    batch = [(each, parse(each.get("body"))) for each in fields]
    batch.sort(key=lambda each: (_receives(each[0]), _size(each[1])))  # the least tried, then the smallest
    failures: list[BatchItemFailure] = []
    for message, records in batch:
        message_id = message.get("messageId")
        if not records:
            _log("INFO", "test_event", request_id=context.aws_request_id, message_id=message_id)
        done = [_handle_record(record, message_id, deadline) for record in records]  # a list, as all are to be tried
        if not all(done) and isinstance(message_id, str) and message_id:
            failures.append({"itemIdentifier": message_id})
    return {"batchItemFailures": failures}


def _receives(message: dict[str, Json]) -> int:
    """Return how often a message has been received, this time included."""
    match message:
        case {"attributes": {"ApproximateReceiveCount": str(count)}} if re.fullmatch("[0-9]{1,9}", count):
            return int(count)
        case _:
            return 1


def _size(records: list[ObjectCreated | NotUnderstoodError]) -> int:
    return sum(record.size for record in records if isinstance(record, ObjectCreated))


class Deadline:
    """Ends the work on a file while there is still time to say so, whatever the work is at.

    Lambda calls the handler in the main thread, which is the one that Python runs signal handlers in.

    Args:
        context: Lambda's context object, which knows the time that the invocation has.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        total_ms = context.get_remaining_time_in_millis()
        self._margin_ms = min(TIME_MARGIN_MS, total_ms / 4)
        self._whole_s = (total_ms - self._margin_ms) / 1000

    def work(self, created: ObjectCreated, facts: dict[str, object]) -> str:
        """Do `_handle_object`, for as long as the invocation has time.

        Raises:
            NotBegunError: There was no time left to begin.
            OutOfTimeError: It was interrupted.
            Exception: What it raised itself.
        """
        seconds = (self.context.get_remaining_time_in_millis() - self._margin_ms) / 1000
        whole = f"{self._whole_s:.3g} s"
        if seconds <= 0:
            raise NotBegunError(
                f"not begun: the files before it in its batch used up the {whole} that a batch has: "
                "lower compute:batchSize"
            )
        signal.setitimer(signal.ITIMER_REAL, seconds, ALARM_INTERVAL_S)
        try:
            return _handle_object(created, facts)
        except Interruption as interruption:
            remedy = "raise messaging:consumerTimeoutSeconds or compute:memorySize"
            raise OutOfTimeError(
                f"not finished within the {whole} that a file has: {remedy}"
                if seconds > ALL_BUT * self._whole_s
                else f"not finished within the {seconds:.3g} s that the files before it in its batch left of {whole}: "
                f"lower compute:batchSize, or {remedy}"
            ).with_traceback(interruption.__traceback__) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _ring(_signal: int, frame: FrameType | None) -> None:
    """Interrupt `_handle_object`, and nothing else: what comes after it has to be said, however late."""
    while frame is not None:
        if frame.f_code is _handle_object.__code__:
            raise Interruption
        frame = frame.f_back


signal.signal(signal.SIGALRM, _ring)


def _handle_record(record: ObjectCreated | NotUnderstoodError, message_id: Json, deadline: Deadline) -> bool:
    """Do one record's work and log how it went; tell whether it is done."""
    started = time.monotonic()
    facts: dict[str, object] = {"request_id": deadline.context.aws_request_id, "message_id": message_id}
    done = True
    try:
        if isinstance(record, NotUnderstoodError):
            raise record  # noqa: TRY301  it fails like anything else
        facts |= {"bucket": record.bucket, "key": record.key, "sequencer": record.sequencer}
        level, outcome = "INFO", deadline.work(record, facts)
    except Exception as error:  # noqa: BLE001  whatever it is, it must not fail the messages beside this one
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

    In a bucket with versions the version of the event is read. Without, it is the object that is there now, which may
    be newer than its event. To insist on the event's ETag would be wrong: where two writes come at the same time, S3
    may announce only one of them (Amazon S3 User Guide, "Configuring Amazon S3 event notifications").

    Args:
        created: What to read.
        facts: What is logged; added to it are the object's size, or the reason that S3 does not give it out.

    Returns:
        The outcome: "processed", "own_result" (under the output prefix: never read, or results would have results
        without end), "folder" (what S3's console makes for a folder: no bytes, and a key that ends in a slash), "gone"
        (deleted since, so nothing is left to do) or "stale" (a newer event's document is there, and stays).

    Raises:
        Exception: The work is not done, and is to be tried again.
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
        outcome = _store(key, document, created)
        if outcome != "taken":
            return outcome
    raise ContendedError("other files' results are at both keys that its result may have")


def _reason(error: ClientError) -> str | None:
    """Return in plain words why S3 does not give out an object, where it is one of `REASONS`."""
    message = error.response.get("Error", {}).get("Message", "")
    return next((words for code, part, words in REASONS if code == _code(error) and part in message), None)


def _store(key: str, document: bytes, created: ObjectCreated) -> str:
    """Write a document, unless one of a newer event, or of another file, is there already.

    S3 compares and writes in one step (Amazon S3 User Guide, "How to prevent object overwrites with conditional
    writes"), so this holds against other invocations at the same moment. The sequencer and the digest of the file's
    key are kept in the metadata too, where they can be read without trusting the body. A document without such a
    digest, as version 0.1.0 wrote them, is taken for one of the same file.

    Args:
        key: The document's key.
        document: Its text.
        created: The event that the document tells of.

    Returns:
        "processed" if the document was written, "stale" if a newer one stays, "taken" if one of another file stays.

    Raises:
        ClientError: S3 refused for another reason than the condition.
        ContendedError: It was overtaken `STORE_ATTEMPTS` times.
    """
    digest = key_digest(created.key)
    put: PutObjectRequestTypeDef = {
        "Bucket": created.bucket,
        "Key": key,
        "Body": document,
        "ContentType": "application/json",
        "Metadata": {"sequencer": created.sequencer, "key-sha256": digest},
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
            return "processed"
        try:
            there = S3.head_object(Bucket=created.bucket, Key=key)
        except ClientError as error:
            if _code(error) != "404":  # the answer to a HEAD has no body to name the error
                raise
            attempt = {**put, "IfNoneMatch": "*"}
        else:
            if there["Metadata"].get("key-sha256", digest) != digest:
                return "taken"
            if is_newer(there["Metadata"].get("sequencer", ""), created.sequencer):
                return "stale"
            attempt = {**put, "IfMatch": there["ETag"]}
    raise ContendedError(f"{STORE_ATTEMPTS} attempts to write the document were overtaken")


def _code(error: ClientError) -> str | None:
    """Return the code of S3's error; botocore has only the status where a control character in a key spoils the XML."""
    return error.response.get("Error", {}).get("Code")


def _log(level: str, outcome: str, **facts: object) -> None:
    """Write one line of JSON. ASCII, so that no text can break it."""
    print(json.dumps({"level": level, "outcome": outcome, **facts}), flush=True)
