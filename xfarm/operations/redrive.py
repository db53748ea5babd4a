"""The redrive: it moves the messages in the dead-letter queue back to the main queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import boto3
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from xfarm.errors import UserError
from xfarm.operations.pipeline import counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import ListMessageMoveTasksResultEntryTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

ACTIVE: Final = ("RUNNING", "CANCELLING")

PAUSE_S: Final = 1
"""The seconds between two requests for the state of a task. SQS offers nothing to wait for."""


def redrive(pipeline: Pipeline, console: Console) -> None:
    """Move all dead letters back to the main queue, and follow the task until it ends.

    In the main queue, each message has a new id and all its attempts again ("Learn how to configure a dead-letter queue
    redrive in Amazon SQS"). SQS does the work, so interrupting this command stops nothing. If a redrive is running
    already, follow that one, as a queue can have only one at a time ("StartMessageMoveTask").

    Raises:
        UserError: SQS could not move all of them.
    """
    sqs = boto3.client("sqs")
    dead = counts(pipeline.dead_letter_queue_url)
    latest = _latest(sqs, pipeline)
    if latest and latest.get("Status") in ACTIVE:
        console.print("A redrive is running already.")
    elif not dead.waiting:
        hidden = f", but {dead.in_flight} in flight: try again in a minute" if dead.in_flight else ""
        console.print(f"Nothing to redrive: {pipeline.dead_letter_queue_name} has no messages{hidden}.")
        return
    moved = 0
    with Progress(
        TextColumn("moving"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("")
        for moved, total in _move(sqs, pipeline, latest):
            progress.update(bar, completed=moved, total=total)
    console.print(f"{moved} moved from {pipeline.dead_letter_queue_name} back to {pipeline.main_queue_name}.")


def _latest(sqs: SQSClient, pipeline: Pipeline) -> ListMessageMoveTasksResultEntryTypeDef | None:
    """Return the task that was started last, or None if there was none."""
    return next(iter(sqs.list_message_move_tasks(SourceArn=pipeline.dead_letter_queue_arn).get("Results", [])), None)


def _move(
    sqs: SQSClient, pipeline: Pipeline, latest: ListMessageMoveTasksResultEntryTypeDef | None
) -> Iterator[tuple[int, int]]:
    """Have SQS move the messages; yield the number moved and the total until the task ends.

    Args:
        sqs: The client.
        pipeline: The pipeline with the dead letters.
        latest: The task that was started last. If it is still active, follow it; otherwise start another one.

    Raises:
        UserError: The task ended before all messages were moved.
    """
    ended = None
    if not latest or latest.get("Status") not in ACTIVE:
        ended = latest and latest.get("StartedTimestamp")
        # Without a destination, SQS moves each message to the queue that it came from.
        sqs.start_message_move_task(SourceArn=pipeline.dead_letter_queue_arn)
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
