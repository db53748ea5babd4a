"""Puts what is in the dead-letter queue back into the main queue."""

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

UNDER_WAY: Final = ("RUNNING", "CANCELLING")

PAUSE_S: Final = 1
"""Between one look at a task and the next, in seconds. SQS has nothing to wait on."""


def redrive(pipeline: Pipeline, console: Console) -> None:
    """Move all dead letters back, and follow it until it is done.

    Each begins anew in the main queue: with a new id, and as many attempts as the first time ("Learn how to configure
    a dead-letter queue redrive in Amazon SQS"). SQS does it by itself, so that interrupting this stops nothing; a
    redrive that is running already is followed, as a queue has one at a time ("StartMessageMoveTask").

    Raises:
        UserError: SQS could not move all of them.
    """
    sqs = boto3.client("sqs")
    there = counts(pipeline.dead_letter_queue_url)
    latest = _latest(sqs, pipeline)
    if latest and latest.get("Status") in UNDER_WAY:
        console.print("A redrive is running already.")
    elif not there.waiting:
        hidden = f", but {there.in_flight} being looked at: try again in a minute" if there.in_flight else ""
        console.print(f"Nothing to put back: {pipeline.dead_letter_queue_name} has no message{hidden}.")
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
    """Return the task that was started last."""
    return next(iter(sqs.list_message_move_tasks(SourceArn=pipeline.dead_letter_queue_arn).get("Results", [])), None)


def _move(
    sqs: SQSClient, pipeline: Pipeline, latest: ListMessageMoveTasksResultEntryTypeDef | None
) -> Iterator[tuple[int, int]]:
    """Have SQS move the messages; yield how many it has moved, and of how many, until it is done.

    Args:
        sqs: The client.
        pipeline: Whose dead letters.
        latest: The task that was started last. One that is under way is followed, else another one is started.

    Raises:
        UserError: SQS stopped before all were moved.
    """
    over = None
    if not latest or latest.get("Status") not in UNDER_WAY:
        over = latest and latest.get("StartedTimestamp")
        # Without a destination each message goes where it came from.
        sqs.start_message_move_task(SourceArn=pipeline.dead_letter_queue_arn)
    while True:
        task = _latest(sqs, pipeline)
        if task and task.get("StartedTimestamp") != over:
            moved = task.get("ApproximateNumberOfMessagesMoved", 0)
            yield moved, task.get("ApproximateNumberOfMessagesToMove", 0)
            if (status := task.get("Status")) not in UNDER_WAY:
                break
        time.sleep(PAUSE_S)
    if status != "COMPLETED":
        reason = f": {task['FailureReason']}" if "FailureReason" in task else ""
        raise UserError(f"the redrive is {status} after {moved} messages{reason}. The others are where they were.")
