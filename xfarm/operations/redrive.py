"""The redrive: it moves messages in the dead-letter queue back to the main queue."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import boto3
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lambda_code.s3_events import parse
from xfarm.errors import UserError
from xfarm.operations import dead_letters
from xfarm.operations.dead_letters import BATCH, MOST, Received, in_flight, last_errors, outcomes, peek, place
from xfarm.operations.pipeline import counts, printable, require_working
from xfarm.operations.reprocess import send_batch
from xfarm.operations.send import one_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        ListMessageMoveTasksResultEntryTypeDef,
        MessageTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )
    from rich.console import Console

    from xfarm.operations.dead_letters import DeadLetter
    from xfarm.operations.pipeline import Pipeline

ACTIVE: Final = ("RUNNING", "CANCELLING")

PAUSE_S: Final = 1
"""The seconds between two requests for the state of a task or of a message. AWS offers nothing to wait for."""

BATCH_BYTES: Final = 256 * 1024
"""The bytes of the bodies in one call to SQS. It allows 1 MiB, attributes included ("SendMessageBatch")."""

FASTEST: Final = 500
"""The most messages that SQS's own task moves a second ("StartMessageMoveTask")."""

MANY: Final = 10
"""The number of messages above which one is tried first."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of a redrive.

    Attributes:
        moved: How many messages have been moved so far.
        total: How many will be, approximately.
        first: The message that was moved before the others, while it is followed.
        outcome: How it ended, in the words of the function's log, or an empty string while it is on its way.
        by_sqs: Whether SQS moves them, and continues if this process ends.
    """

    moved: int
    total: int
    first: DeadLetter | None = None
    outcome: str = ""
    by_sqs: bool = False


def redrive(  # noqa: PLR0913 - each is an option of the command line
    pipeline: Pipeline,
    console: Console,
    *,
    cause: str | None = None,
    key: str | None = None,
    limit: int | None = None,
    rate: int | None = None,
    trial: bool = True,
    on_step: Callable[[Step], object] | None = None,
) -> None:
    """Move dead letters back to the main queue, and show the progress.

    Args:
        pipeline: The pipeline.
        console: Shows the progress and the result.
        cause: The number of the cause whose dead letters are moved (see `dead_letters.causes`), or None.
        key: The key of the file whose dead letters are moved, or None.
        limit: How many to move at most, or None.
        rate: How many to move a second at most, or None.
        trial: Whether to try one first if there are more than `MANY`.
        on_step: Called with each step. If it raises an exception, the redrive ends with that.

    Raises:
        UserError: Not all could be moved or would be processed, or the one that was tried first failed.
    """
    dead = counts(pipeline.dead_letter_queue_url)
    at_once = ", or move the messages all the same (--no-trial)"
    require_working(pipeline, enabled=trial and dead.waiting > 0, otherwise=at_once)
    sqs = boto3.client("sqs")
    latest = _latest(sqs, pipeline)
    running = _is_active(latest)
    if not dead.waiting and not running:
        hidden = f", but{in_flight(dead)} Then try again." if dead.in_flight else "."
        console.print(f"Nothing to redrive: {pipeline.dead_letter_queue_name} has no messages{hidden}", highlight=False)
        return
    expected = 0
    if cause is None and key is None and limit is None:
        if running:
            console.print("A redrive is running already.")
        steps = move_all(pipeline, latest, total=dead.waiting, rate=rate, trial=trial and dead.waiting > MANY)
    else:
        if running:
            raise UserError("SQS is moving all dead letters already: 'xfarm redrive' without a choice follows that.")
        ids = None
        if cause is not None or key is not None:
            ids = _chosen(pipeline, console, cause=cause, key=key, limit=limit)
            expected = len(ids)
        number = expected or limit or 0
        trial = trial and min(number, dead.waiting) > MANY
        steps = move(pipeline, number=number, ids=ids, rate=rate, trial=trial)
    moved = _show(steps, console, on_step)
    console.print(
        f"{moved:,} moved from {pipeline.dead_letter_queue_name} back to {pipeline.main_queue_name}.", highlight=False
    )
    dead_letters.require_found(moved, expected)
    if dead.in_flight:
        console.print(f"Not moved:{in_flight(dead)}", highlight=False)


def _chosen(
    pipeline: Pipeline, console: Console, *, cause: str | None, key: str | None, limit: int | None
) -> frozenset[str]:
    """Return the ids of the messages of a choice."""
    with console.status("reading the dead letters"):
        letters = peek(pipeline)
        # Only a cause needs the errors, which take time to find.
        errors = last_errors(pipeline, letters) if cause is not None else dict.fromkeys(map(_id, letters), "")
    found = dead_letters.causes(letters, errors)
    return frozenset(map(_id, dead_letters.choose(pipeline, found, cause=cause, key=key, limit=limit)))


def _id(letter: DeadLetter) -> str:
    return letter.message_id


def _show(steps: Generator[Step], console: Console, on_step: Callable[[Step], object] | None) -> int:
    """Show the progress of a redrive, and return how many messages it moved."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    step = None
    try:
        with progress, closing(steps):
            bar = progress.add_task("moving")
            for step in steps:
                if step.first and not progress.tasks[bar].completed:
                    console.print(f"First {place(step.first)}, before the others.", markup=False, highlight=False)
                if step.outcome:
                    console.print(f"It is done: {step.outcome}.", markup=False, highlight=False)
                progress.update(bar, completed=step.moved, total=step.total)
                if on_step:
                    on_step(step)
    except KeyboardInterrupt:
        if step and step.by_sqs:
            raise
        moved = step.moved if step else 0
        raise UserError(f"interrupted, {moved:,} moved. The others are still in the dead-letter queue.") from None
    except Exception:
        if step and not step.by_sqs and not step.first:
            console.print(f"{step.moved:,} moved so far.", highlight=False)
        raise
    return step.moved if step else 0


def move_all(
    pipeline: Pipeline,
    latest: ListMessageMoveTasksResultEntryTypeDef | None,
    *,
    total: int,
    rate: int | None,
    trial: bool,
) -> Generator[Step]:
    """Have SQS move all dead letters to the main queue; yield the progress until it ends.

    In the main queue, each message has a new id and all its attempts again ("Learn how to configure a dead-letter queue
    redrive in Amazon SQS"). If SQS does so already, follow that, as a queue can have only one task at a time
    ("StartMessageMoveTask").

    Args:
        pipeline: The pipeline.
        latest: The task that was started last.
        total: How many messages there are, approximately.
        rate: How many to move a second at most, 1 to 500, or None for as many as SQS decides.
        trial: Whether to try one first.

    Raises:
        UserError: The one that was tried first failed, or the task ended before all messages were moved.
    """
    sqs = boto3.client("sqs")
    tried = 0
    if trial and not _is_active(latest):
        for step in _try(sqs, pipeline, total):
            tried = step.moved
            yield step
        if not tried:  # somebody else has all of them in flight
            return
    for moved, found in _move(sqs, pipeline, latest, rate):
        yield Step(moved=tried + moved, total=tried + found, by_sqs=True)


def move(
    pipeline: Pipeline, *, number: int, ids: frozenset[str] | None = None, rate: int | None = None, trial: bool = False
) -> Generator[Step]:
    """Move some dead letters to the main queue; yield the progress.

    Each is sent to the main queue before it is deleted from the dead-letter queue. So none is lost if this process is
    killed; one may then be in both queues, and processing a file twice gives the same result.

    Args:
        pipeline: The pipeline.
        number: How many to move at most.
        ids: The ids of the messages to move, or None for any.
        rate: How many to move a second at most, or None.
        trial: Whether to try one first.

    Raises:
        UserError: The one that was tried first failed, or SQS did not take or delete a message.
    """
    sqs = boto3.client("sqs")
    moved = 0
    if trial:
        for step in _try(sqs, pipeline, number, ids):
            moved = step.moved
            yield step
        if not moved:
            return
    for messages in take(pipeline, partial(_send, sqs, pipeline), number=number - moved, ids=ids, rate=rate):
        moved += len(messages)
        yield Step(moved=moved, total=number)


def take(
    pipeline: Pipeline,
    keep: Callable[[list[MessageTypeDef]], object],
    *,
    number: int,
    ids: frozenset[str] | None = None,
    rate: int | None = None,
) -> Generator[list[MessageTypeDef]]:
    """Take messages out of the dead-letter queue; yield them, up to ten at a time.

    The messages that are not to be taken have to be received too, and stay hidden from others meanwhile. After half of
    the visibility timeout, all are made visible again, and this starts again with the first.

    Args:
        pipeline: The pipeline.
        keep: Called with messages before they are deleted. If it raises an exception, they are not.
        number: How many to take at most.
        ids: The ids of the messages to take, or None for any.
        rate: How many to take a second at most, or None.

    Raises:
        UserError: SQS did not delete a message, or is too slow.
    """
    taken = 0
    due = 0.0
    again = True
    while again and taken < number:
        again, before = False, taken
        with Received(pipeline, number if ids is None else MOST) as received:
            for messages in received.batches():
                wanted = [message for message in messages if ids is None or message["MessageId"] in ids]
                for part in _parts(wanted[: number - taken], min(BATCH, rate or BATCH)):
                    time.sleep(max(0.0, due - time.monotonic()))
                    due = time.monotonic() + len(part) / rate if rate else 0
                    keep(part)
                    received.delete(part)
                    taken += len(part)
                    yield part
                if taken == number:
                    break
                if received.expired:
                    again = True
                    break
        if again and taken == before:
            raise UserError("AWS is too slow: the dead letters are visible again before they can be moved. Try later.")


def _parts(messages: list[MessageTypeDef], most: int) -> Iterator[list[MessageTypeDef]]:
    """Yield messages in lists that one call to SQS can send."""
    start = size = 0
    for number, message in enumerate(messages):
        length = len(message["Body"].encode())
        if number > start and (number - start == most or size + length > BATCH_BYTES):
            yield messages[start:number]
            start, size = number, 0
        size += length
    if messages:
        yield messages[start:]


def _send(sqs: SQSClient, pipeline: Pipeline, messages: list[MessageTypeDef]) -> dict[str, str]:
    """Send received messages to the main queue, and return the new id of each by its number."""
    entries: list[SendMessageBatchRequestEntryTypeDef] = [
        {
            "Id": str(number),
            "MessageBody": message["Body"],
            "MessageAttributes": message.get("MessageAttributes", {}),
        }
        for number, message in enumerate(messages)
    ]
    return send_batch(sqs, pipeline, entries)


def _try(sqs: SQSClient, pipeline: Pipeline, total: int, ids: frozenset[str] | None = None) -> Iterator[Step]:
    """Move one message, and follow it until all that it announces is processed; yield nothing if there is none.

    Raises:
        UserError: Its first attempt failed, or there was none within the time of one retry.
    """
    mapping = boto3.client("lambda").get_event_source_mapping(UUID=pipeline.event_source_mapping_id)
    since = parsedate_to_datetime(mapping["ResponseMetadata"]["HTTPHeaders"]["date"])  # by AWS's clock
    # First, as these fail if the function or its log was deleted.
    patience_s = one_retry(pipeline)
    outcomes(pipeline, "", since)
    sent: dict[str, str] = {}

    def send(messages: list[MessageTypeDef]) -> None:
        sent.update(_send(sqs, pipeline, messages))

    for [message] in list(take(pipeline, send, number=1, ids=ids)):  # all, so that the others are visible again
        first = dead_letters.read(message)
        deadline = time.monotonic() + patience_s
        while True:
            ended = outcomes(pipeline, sent["0"], since)
            if error := next((error for _, error in ended if error), ""):
                raise UserError(
                    f"{place(first)}, the first, failed again, so the others were not moved: {printable(error)}. "
                    "Fix the cause, or move the others without a trial (--no-trial)."
                )
            done = len(ended) >= max(1, len(parse(message["Body"])))
            yield Step(moved=1, total=total, first=first, outcome=", ".join(dict(ended)) if done else "")
            if done:
                break
            if time.monotonic() > deadline:
                waiting = counts(pipeline.main_queue_url).waiting
                raise UserError(
                    f"{place(first)}, the first, has neither a result nor an error in the function's log after the "
                    f"time of one retry, so the others were not moved: it waits in {pipeline.main_queue_name}, where "
                    f"{waiting:,} messages are waiting, or the function crashed, see its log."
                )
            time.sleep(PAUSE_S)


def _is_active(task: ListMessageMoveTasksResultEntryTypeDef | None) -> bool:
    return bool(task and task.get("Status") in ACTIVE)


def _latest(sqs: SQSClient, pipeline: Pipeline) -> ListMessageMoveTasksResultEntryTypeDef | None:
    """Return the task that was started last, or None if there was none."""
    return next(iter(sqs.list_message_move_tasks(SourceArn=pipeline.dead_letter_queue_arn).get("Results", [])), None)


def _move(
    sqs: SQSClient, pipeline: Pipeline, latest: ListMessageMoveTasksResultEntryTypeDef | None, rate: int | None
) -> Iterator[tuple[int, int]]:
    """Have SQS move the messages; yield the number moved and the total until the task ends.

    Args:
        sqs: The client.
        pipeline: The pipeline with the dead letters.
        latest: The task that was started last. If it is still active, follow it; otherwise start another one.
        rate: How many messages to move a second at most, or None.

    Raises:
        UserError: The task ended before all messages were moved.
    """
    ended = None
    if not _is_active(latest):
        ended = latest and latest.get("StartedTimestamp")
        source, main = pipeline.dead_letter_queue_arn, pipeline.main_queue_arn
        # Without a destination, SQS would not know where to move a message that was sent to the dead-letter queue.
        if rate:
            sqs.start_message_move_task(SourceArn=source, DestinationArn=main, MaxNumberOfMessagesPerSecond=rate)
        else:
            sqs.start_message_move_task(SourceArn=source, DestinationArn=main)
    while True:
        task = _latest(sqs, pipeline)
        if task and task.get("StartedTimestamp") != ended:
            moved = task.get("ApproximateNumberOfMessagesMoved", 0)
            yield moved, task.get("ApproximateNumberOfMessagesToMove", 0)
            if (status := task.get("Status")) not in ACTIVE:
                break
        time.sleep(PAUSE_S)
    if status != "COMPLETED":
        reason = f": {task['FailureReason']}" if "FailureReason" in task else ""
        raise UserError(
            f"the redrive is {status} after {moved} messages{reason}. The others are still in the dead-letter queue."
        )
