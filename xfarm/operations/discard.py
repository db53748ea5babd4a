"""Discarding dead letters that can't be processed: they move to a file."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.progress import Progress, TextColumn

from xfarm.errors import UserError, WrongUsageError
from xfarm.operations import dead_letters
from xfarm.operations.dead_letters import last_errors, peek
from xfarm.operations.pipeline import print_plain
from xfarm.operations.redrive import take

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from mypy_boto3_sqs.type_defs import MessageTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline


def discard(  # noqa: PLR0913 - each is an option of the command line
    pipeline: Pipeline,
    console: Console,
    folder: Path,
    *,
    cause: str | None = None,
    key: str | None = None,
    limit: int | None = None,
    ask: bool,
) -> None:
    """Move dead letters to a new file, and say where it is.

    Args:
        pipeline: The pipeline.
        console: Shows what is chosen, the progress and the result.
        folder: Where to create the file.
        cause: The number of the cause whose dead letters are moved (see `dead_letters.causes`), or None.
        key: The key of the file whose dead letters are moved, or None.
        limit: How many to move at most, the oldest first, or None.
        ask: Whether to ask for confirmation.

    Raises:
        UserError: The user declined, or not all could be moved.
    """
    if ask and not sys.stdin.isatty():
        raise WrongUsageError(
            f"discarding from '{pipeline.stack}' needs --yes if there is no terminal to confirm it at."
        )
    with console.status("reading the dead letters"):
        letters = peek(pipeline)
        errors = last_errors(pipeline, letters)
    if not letters:
        console.print(f"Nothing to discard: {pipeline.dead_letter_queue_name} has no visible messages.")
        return
    found = dead_letters.causes(letters, errors)
    chosen = dead_letters.choose(pipeline, found, cause=cause, key=key, limit=limit)
    for each in dead_letters.causes(chosen, errors):
        print_plain(console, f"{len(each.letters):,}: {each.error}")
    if ask:
        _confirm(pipeline, console, len(chosen))
    path = folder / f"dead-letters-{pipeline.stack}-{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"
    moved = 0
    progress = Progress(
        TextColumn("{task.completed:,} of {task.total:,}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with (
            progress,
            closing(
                move_to_file(pipeline, path, {each.message_id: errors[each.message_id] for each in chosen})
            ) as steps,
        ):
            task = progress.add_task("", total=len(chosen))
            for moved in steps:
                progress.update(task, completed=moved)
    except KeyboardInterrupt:
        raise UserError(f"interrupted: {_moved(pipeline, path, moved)}") from None
    except Exception:
        console.print(_moved(pipeline, path, moved), markup=False, highlight=False)
        raise
    console.print(_moved(pipeline, path, moved), markup=False, highlight=False)
    dead_letters.require_found(moved, len(chosen))


def _moved(pipeline: Pipeline, path: Path, number: int) -> str:
    return f"{number:,} moved from {pipeline.dead_letter_queue_name}" + (f" to {path}." if path.exists() else ".")


def _confirm(pipeline: Pipeline, console: Console, number: int) -> None:
    answer = console.input(f"Type '{pipeline.stack}' to delete these {number:,} messages once they are in a file: ")
    if answer.strip() != pipeline.stack:
        raise UserError(f"that was not '{pipeline.stack}', so nothing was discarded.")


def move_to_file(pipeline: Pipeline, path: Path, errors: dict[str, str]) -> Generator[int]:
    """Move dead letters to a new file, one JSON object in each line; yield how many were moved so far.

    A message is deleted only when it is on the disk. So none is lost if this process is killed; one may then be in the
    queue too.

    Args:
        pipeline: The pipeline.
        path: The file, which is created if there is anything to move.
        errors: The error of each message to move, by its id.

    Raises:
        UserError: The file can't be written, or SQS did not delete a message.
    """

    def write(messages: list[MessageTypeDef]) -> None:
        try:
            created = not moved
            with path.open("x" if created else "a", encoding="utf-8") as file:
                for message in messages:
                    file.write(_line(message, errors[message["MessageId"]]))
                file.flush()
                os.fsync(file.fileno())
            if created:  # its name has to be on the disk too
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise UserError(
                f"'{path}' can't be written: {error.strerror}. Nothing was deleted that is not in it."
            ) from error

    moved = 0
    for messages in take(pipeline, write, number=len(errors), ids=frozenset(errors)):
        moved += len(messages)
        yield moved


def _line(message: MessageTypeDef, error: str) -> str:
    facts = {
        **asdict(dead_letters.read(message)),
        "error": error,
        "body": message["Body"],
        "message_attributes": message.get("MessageAttributes", {}),
    }
    return json.dumps(facts, default=_as_text) + "\n"


def _as_text(value: datetime | bytes) -> str:
    return b64encode(value).decode() if isinstance(value, bytes) else value.isoformat()
