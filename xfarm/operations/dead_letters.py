"""The messages in the dead-letter queue, and why they are there."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote_plus

import boto3

from xfarm.errors import UserError
from xfarm.operations.pipeline import counts, key_of, number_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from mypy_boto3_sqs.type_defs import MessageTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Counts, Pipeline

HIDDEN_S: Final = 60
"""The visibility timeout of a received message, in seconds, which ends early unless this process is killed."""

SLOWEST: Final = 20
"""The visibility timeout grows with the number of messages: by a second for so many of them."""

THREADS: Final = 8
"""The most receives at the same time."""

EACH_THREAD: Final = 100
"""The number of messages from which on there is another receive at the same time."""

WAIT_S: Final = 1
"""How long, in seconds, a receive waits for a message.

Above 0, SQS asks all of its servers and not a sample of them ("Amazon SQS short and long polling"). Only then does an
empty answer mean that there are no more messages.
"""

BATCH: Final = 10
"""The most messages in one call to SQS ("ReceiveMessage")."""

MOST: Final = 100_000
"""The most messages that are received at the same time; SQS allows about 120,000 ("Amazon SQS message quotas")."""

SAMPLES: Final = 3
"""The number of files that are listed for each cause."""

DIGITS: Final = 4
"""The number of digits by which a cause is named, if that is enough to tell those in the queue apart."""

VARIABLE: Final = re.compile(
    r"((?:http|status|code|errno)\W*\d+)"  # which tell causes apart
    r"|0x[\da-f]+|\b[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\b|\b(?=[a-f]*\d)[\da-f]{12,}\b|\d+(?:[.,]\d+)*",
    re.IGNORECASE,
)
"""What may differ between errors with the same cause: ids and numbers."""

NO_ERROR: Final = (
    "no error logged: the function ran out of memory (compute:memorySize) or crashed while it processed the file, see "
    "'xfarm logs --errors'; or it was never called with it (throttled); or its log does not go back so far"
)


NO_FILE: Final = (
    "not about a file, and no error logged: somebody sent it to this queue; or it is the test message that S3 sends "
    "first, and the function crashed"
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


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The dead letters that have the same error, but for ids, numbers and the file's key.

    Attributes:
        number: The digits that name it. They are computed from the error, so they always mean the same cause.
        error: The error of the oldest.
        letters: The dead letters, the oldest first.
    """

    number: str
    error: str
    letters: list[DeadLetter]


def peek(pipeline: Pipeline) -> list[DeadLetter]:
    """Return the messages in the dead-letter queue, at most `MOST`, and leave them there.

    SQS shows a message only to its receiver. So this receives each message once and makes it visible again when all
    have been read. Until then, neither a redrive nor another reader finds it. Its count of receives grows by one, which
    does no harm: nothing is moved out of a dead-letter queue because of that count. Messages that somebody else has in
    flight are missing.

    Raises:
        UserError: AWS is too slow to read all of them before the first are visible again.
    """
    letters: dict[str, DeadLetter] = {}
    with Received(pipeline) as received:
        for messages in received.batches():
            letters |= {message["MessageId"]: read(message) for message in messages}
            if received.expired:
                raise UserError(
                    f"AWS is too slow: after {len(letters):,} dead letters, the first are about to be visible again. "
                    "Nothing was changed: try again later."
                )
    return list(letters.values())


def hidden_s(messages: int) -> int:
    """Return the visibility timeout, in seconds, in which so many messages can be received by a slow network."""
    return HIDDEN_S + messages // SLOWEST


class Received:
    """The messages that this process receives from the dead-letter queue, which hides them from others.

    At the end, those that were not deleted are visible again. If the process is killed before, they are as soon as
    their visibility timeout has passed.

    Args:
        pipeline: The pipeline.
        most: How many messages to receive at most; a receive may return fewer than there are.
    """

    def __init__(self, pipeline: Pipeline, most: int = MOST) -> None:
        self._sqs = boto3.client("sqs")
        self._url = pipeline.dead_letter_queue_url
        self._batch = min(BATCH, most)
        self._most = most
        waiting = min(most, counts(self._url).waiting)
        self._hidden_s = hidden_s(waiting)
        self._started = time.monotonic()
        self._threads = min(THREADS, 1 + waiting // EACH_THREAD)
        # Ctrl-C does not interrupt these threads, so the answer to each receive is known.
        self._pool = ThreadPoolExecutor(self._threads)
        self._running: list[Future[list[MessageTypeDef]]] = []
        self._handles: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        wait(self._running)
        handles = list(self._handles.values())
        shown = [
            self._pool.submit(self._show, handles[start : start + BATCH]) for start in range(0, len(handles), BATCH)
        ]
        # If Ctrl-C interrupts this, Python completes them before it ends. It would not after an interrupted `join`
        # (CPython issue 90882), which is how the pool's own `shutdown` waits.
        wait(shown)
        self._pool.shutdown(wait=False)
        for each in shown:
            each.result()

    @property
    def expired(self) -> bool:
        """Whether half of the visibility timeout of the first message has passed, so that it is time to end."""
        return time.monotonic() - self._started > self._hidden_s / 2

    def batches(self) -> Iterator[list[MessageTypeDef]]:
        """Receive and yield messages until there are no more, or as many as allowed."""
        while len(self._handles) < self._most:
            self._running = [self._pool.submit(self._receive) for _ in range(self._threads)]
            answers = [each.result() for each in self._running]
            yield from filter(None, answers)
            if not all(answers):
                return

    def delete(self, messages: Iterable[MessageTypeDef]) -> None:
        """Delete up to ten messages from the queue.

        Raises:
            UserError: SQS did not delete all of them.
        """
        entries = {str(number): message for number, message in enumerate(messages)}
        answer = self._sqs.delete_message_batch(
            QueueUrl=self._url,
            Entries=[{"Id": number, "ReceiptHandle": message["ReceiptHandle"]} for number, message in entries.items()],
        )
        for each in answer.get("Successful", []):
            self._handles.pop(entries[each["Id"]]["MessageId"], None)
        if failed := answer.get("Failed", []):
            raise UserError(
                f"SQS did not delete {len(failed)} dead letters ({failed[0].get('Message') or failed[0]['Code']}), so "
                "they are still in the dead-letter queue too: run the command again, as twice does no harm."
            )

    def _receive(self) -> list[MessageTypeDef]:
        messages = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=self._batch,
            VisibilityTimeout=self._hidden_s,
            WaitTimeSeconds=WAIT_S,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        self._handles |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
        return messages

    def _show(self, handles: list[str]) -> None:
        self._sqs.change_message_visibility_batch(
            QueueUrl=self._url,
            Entries=[
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                for number, handle in enumerate(handles)
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
    found = [
        (at, failure)
        for at, line in log_lines(pipeline, since, '{ $.outcome = "failed" }')
        if (failure := read_log(line))
    ]
    return [failure for _, failure in sorted(found, key=lambda each: each[0])]


def outcomes(pipeline: Pipeline, message_id: str, since: datetime) -> list[tuple[str, str]]:
    """Return the outcome of each attempt at an object that a message announces, with the error if it failed."""
    found = []
    for _, line in log_lines(pipeline, since, f'{{ $.message_id = "{message_id}" }}'):
        match log_facts(line):
            case {"message_id": str(about), "outcome": str(outcome)} if about == message_id:
                failure = read_log(line)
                found.append((outcome, failure.error if failure else ""))
    return found


def log_lines(pipeline: Pipeline, since: datetime, pattern: str) -> Iterator[tuple[int, str]]:
    """Yield the time and the text of the lines in the function's log that match a pattern."""
    pages = (
        boto3.client("logs")
        .get_paginator("filter_log_events")
        .paginate(logGroupName=pipeline.log_group_name, startTime=int(since.timestamp() * 1000), filterPattern=pattern)
    )
    for page in pages:
        for event in page["events"]:
            yield event.get("timestamp", 0), event.get("message", "")


def log_facts(line: str) -> dict[str, Any]:
    """Return what a line of the function's log says; nothing if Lambda wrote it, or `process` printed it."""
    facts: Any = None
    with suppress(ValueError, RecursionError):
        facts = json.loads(line)
    return facts if isinstance(facts, dict) and isinstance(facts.get("outcome"), str) else {}


def read_log(line: str) -> Failure | None:
    """Return the failed attempt in a line of the function's log, or None if the line is about something else."""
    facts = log_facts(line)
    match facts:
        case {"outcome": "failed", "message_id": str(message_id), "error": str(error)}:
            headline = facts.get("reason") or facts.get("error_type")
            return Failure(
                message_id=message_id, key=facts.get("key"), error=f"{headline}: {error}" if headline else error
            )
        case _:
            return None


def last_errors(pipeline: Pipeline, letters: list[DeadLetter]) -> dict[str, str]:
    """Return the last error of each message by its id, or `NO_ERROR` or `NO_FILE` if the function logged none."""
    if not letters:
        return {}
    logged = failures(pipeline, min(letter.sent for letter in letters))
    errors = {failure.message_id: failure.error for failure in logged}
    return {letter.message_id: errors.get(letter.message_id, NO_ERROR if letter.key else NO_FILE) for letter in letters}


def causes(letters: Iterable[DeadLetter], errors: dict[str, str]) -> list[Cause]:
    """Return the causes of dead letters, the most frequent first.

    Args:
        letters: The dead letters.
        errors: The last error of each by its message's id (see `last_errors`).
    """
    found: dict[str, list[DeadLetter]] = {}
    for letter in sorted(letters, key=lambda letter: letter.sent):
        found.setdefault(generalized(errors[letter.message_id], letter.key), []).append(letter)
    numbers = {error: str(int(sha256(error.encode()).hexdigest(), 16)) for error in found}
    digits = DIGITS
    while len({number[:digits] for number in numbers.values()}) < len(numbers):
        digits += 1
    ordered = sorted(found, key=lambda error: (-len(found[error]), error))
    return [
        Cause(number=numbers[error][:digits], error=errors[found[error][0].message_id], letters=found[error])
        for error in ordered
    ]


def generalized(error: str, key: str | None) -> str:
    """Return an error without what may differ between files that fail for the same reason."""
    return VARIABLE.sub(lambda match: match[1] or "#", error.replace(key, "<key>") if key else error)


def choose(
    pipeline: Pipeline,
    found: list[Cause],
    *,
    cause: str | None = None,
    key: str | None = None,
    limit: int | None = None,
) -> list[DeadLetter]:
    """Return the dead letters of a choice, the oldest first.

    Args:
        pipeline: The pipeline.
        found: All causes.
        cause: The number of a cause, or None for all.
        key: The key or the URL of a file, or None for all.
        limit: How many to return at most, or None for all.

    Raises:
        UserError: There are none, or the number is not one cause's.
    """
    if cause is not None:
        if len(cause) < DIGITS or not cause.isdecimal():
            raise UserError(f"'{printable(cause)}' is not the number of a cause: 'xfarm dead-letters' shows them.")
        found = [each for each in found if each.number.startswith(cause[: len(each.number)])]
        if len(found) > 1:
            numbers = " and ".join(each.number for each in found)
            raise UserError(f"{cause} is the number of several causes now: give that of one, {numbers}.")
    chosen = sorted((letter for each in found for letter in each.letters), key=lambda letter: letter.sent)
    if key is not None:
        key = key_of(pipeline, key)
        chosen = [letter for letter in chosen if letter.key == key]
    if not chosen:
        what = " and ".join(
            ([f"has the cause {cause}"] if cause is not None else [])
            + ([f"is about '{printable(key)}'"] if key is not None else [])
        )
        raise UserError(f"no dead letter {what}: see 'xfarm dead-letters {pipeline.stack}'.")
    return chosen[:limit]


def require_found(moved: int, chosen: int) -> None:
    """Check that all dead letters of a choice could be moved.

    Raises:
        UserError: Some were not found.
    """
    if moved < chosen:
        raise UserError(
            f"{chosen - moved:,} of {chosen:,} were not found: somebody else has moved them, or has them in flight. "
            "Run the command again in a minute."
        )


def place(letter: DeadLetter) -> str:
    """Return the URL of the object that a dead letter is about, or a phrase if it is not about one."""
    return printable(f"s3://{letter.bucket}/{letter.key}" if letter.key else "not about a file")


def show(pipeline: Pipeline, console: Console, *, as_json: bool) -> None:
    """Show the messages in the dead-letter queue by their causes, and leave them there (see `peek`).

    Args:
        pipeline: The pipeline.
        console: Shows everything but JSON.
        as_json: Whether to print all messages with their errors and causes as JSON.
    """
    before = counts(pipeline.dead_letter_queue_url)
    with console.status("reading the dead letters"):
        letters = peek(pipeline)
        errors = last_errors(pipeline, letters)
    found = causes(letters, errors)
    if as_json:
        numbers = {letter.message_id: cause.number for cause in found for letter in cause.letters}
        entries = [
            {**asdict(letter), "error": errors[letter.message_id], "cause": numbers[letter.message_id]}
            for letter in sorted(letters, key=lambda letter: letter.sent)
        ]
        print(json.dumps(entries, indent=2, default=datetime.isoformat))
    else:
        _show_causes(pipeline, console, found, empty="has no visible messages" if before.in_flight else "is empty")
    if len(letters) >= MOST:
        console.print(f"These are the first {len(letters):,}: there may be more.", highlight=False)
    if hidden := in_flight(before):
        console.print(hidden.strip(), highlight=False)


def in_flight(before: Counts) -> str:
    """Return a sentence about the dead letters that somebody else had in flight, or an empty one if nobody had any."""
    if not before.in_flight:
        return ""
    return (
        f" {before.in_flight:,} may be in flight, so nobody else sees them: another command is reading them, or was "
        f"killed, and they are visible again within {hidden_s(before.waiting + before.in_flight)} s."
    )


def _show_causes(pipeline: Pipeline, console: Console, found: list[Cause], empty: str) -> None:
    if not found:
        console.print(f"{pipeline.dead_letter_queue_name} {empty}.")
        return
    for cause in found:
        number, oldest = len(cause.letters), cause.letters[0]
        console.print(f"cause {cause.number}: {number_of(number, 'dead letter')}", style="bold", highlight=False)
        lines = [printable(cause.error), f"the oldest was sent {oldest.sent:%Y-%m-%d %H:%M:%S} UTC"]
        lines += [f"{place(letter)} (message {letter.message_id})" for letter in cause.letters[:SAMPLES]]
        if number > SAMPLES:
            lines.append(f"... and {number - SAMPLES:,} more, which --json lists")
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False)
    total = sum(len(cause.letters) for cause in found)
    console.print(
        f"{total:,} in {pipeline.dead_letter_queue_name}. All stay there; reading them counts as one receive each.\n"
        f"To put those of one cause back: xfarm redrive {pipeline.stack} --cause {found[0].number}",
        highlight=False,
    )
