"""Reprocessing: new messages on the main queue for files that are there already."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.progress import Progress, TextColumn

from xfarm.errors import UserError
from xfarm.operations import audit
from xfarm.operations.pipeline import counts, key_of, number_of, print_plain, printable, require_working, shell_word
from xfarm.operations.send import head
from xfarm.waiting import announced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

RATE: Final = 10
"""How many files are sent a second at most, by default: as many as the function processes at a time by default."""

BACKLOG_S: Final = 10
"""For how many seconds' files the main queue may hold messages before sending pauses, so that new files do not wait."""

BATCH: Final = 10
"""The most messages in one call to SQS ("SendMessageBatch")."""

ATTEMPTS: Final = 5
"""How often a message is sent that SQS did not take."""


def reprocess(  # noqa: PLR0913 - each is an option of the command line
    pipeline: Pipeline,
    console: Console,
    *,
    prefix: str = "",
    missing: bool = False,
    since: datetime | None = None,
    source: Path | None = None,
    after: str | None = None,
    rate: float = RATE,
    dry_run: bool = False,
) -> None:
    """Send a message about each selected file to the main queue, as S3 would.

    If the file has a result, the message has the sequencer of its event, else 0: so the new result replaces the present
    one, and never that of a newer event ("Event message structure", Amazon S3 User Guide).

    Args:
        pipeline: The pipeline.
        console: Shows progress and the result.
        prefix: The prefix of the files' keys; by default all files.
        missing: Whether to select only files that `audit` finds to be lost.
        since: The time from which on files must have been written, or None.
        source: A file that selects the files, or None: with a key in each line, or the output of `xfarm audit --json`,
            or what `xfarm redrive --discard` wrote.
        after: The key after which to begin, in the order in which they are sent, or None.
        rate: How many files to send a second at most. Sending pauses while the queue holds as many as in `BACKLOG_S`.
        dry_run: Whether to show the keys and send nothing.

    Raises:
        UserError: The selection is not possible, nothing would be processed, or SQS does not take the messages.
    """
    prefix = audit.require_input(pipeline, prefix)
    if source:
        keys = _listed(pipeline, source, prefix, console)
    elif missing:
        keys = sorted(found.key for found in audit.findings(pipeline, prefix) if found.state == "lost")
    else:
        keys = _written(pipeline, prefix, since)
    keys = _after(keys, None if after is None else key_of(pipeline, after))
    if dry_run:
        number = 0
        for number, key in enumerate(keys, 1):  # noqa: B007 - counts them
            print_plain(console, key)
        console.print(f"To process again: {number:,}.", highlight=False)
        return
    _send(pipeline, keys, console, rate, resumable=not missing)


def _listed(pipeline: Pipeline, source: Path, prefix: str, console: Console) -> list[str]:
    """Return the keys with a prefix in a file: one in each line, or those that an audit found.

    Raises:
        UserError: The file can't be read, or a key is not in the input folder.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"'{source}' can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{source}' is not UTF-8 text.") from error
    try:
        keys = [str(each["key"]) for each in json.loads(text)["without_result"]]
    except (ValueError, LookupError, TypeError):
        lines = [_key(line.removesuffix("\r")) for line in text.split("\n")]
        keys = [key for key in lines if key is not None]
        if others := len(lines) - len(keys):
            console.print(f"Left out: {number_of(others, 'message')} not about a file.", highlight=False)
    required = [audit.require_input(pipeline, key) for key in dict.fromkeys(filter(None, keys))]
    return [key for key in required if key.startswith(prefix)]


def _key(line: str) -> str | None:
    """Return the key in a line: the line itself, or that of a discarded dead letter; None if that is about no file."""
    if line.startswith("{"):
        with suppress(ValueError, LookupError):
            key = json.loads(line)["key"]
            return key if key is None else str(key)
    return line


def _written(pipeline: Pipeline, prefix: str, since: datetime | None) -> Iterator[str]:
    for file in audit.Folder(pipeline=pipeline, prefix=prefix).files(audit.client()):
        if since is None or file.written >= since:
            yield file.key


def _after(keys: Iterable[str], after: str | None) -> Iterator[str]:
    """Yield the keys that come after one of them.

    Raises:
        UserError: It is not one of them.
    """
    remaining = iter(keys)
    if after is not None and after not in remaining:  # takes all keys up to it
        raise UserError(f"'{printable(after)}' is not one of the selected files, so there is nothing after it.")
    yield from remaining


def _send(pipeline: Pipeline, keys: Iterator[str], console: Console, rate: float, *, resumable: bool) -> None:
    require_working(pipeline)
    s3, sqs = audit.client(), boto3.client("sqs")
    progress = Progress(
        TextColumn("{task.completed:,} sent, {task.fields[state]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    sent, gone, last = 0, 0, None
    try:
        task = progress.add_task("", total=None, state="")
        with (
            ThreadPoolExecutor(BATCH) as pool,
            progress,
            announced(lambda: f"{sent:,} sent, {progress.tasks[0].fields['state']}", unless=console.is_terminal),
        ):
            due = 0.0
            for batch in audit.chunks(keys, max(1, min(BATCH, int(rate)))):
                time.sleep(max(0.0, due - time.monotonic()))
                due = time.monotonic() + len(batch) / rate
                while counts(pipeline.main_queue_url).waiting > rate * BACKLOG_S:
                    progress.update(task, state="waiting for the queue")
                    time.sleep(1)  # SQS has nothing to wait for
                messages = list(filter(None, pool.map(partial(message_about, s3, pipeline), batch)))
                send_batch(
                    sqs, pipeline, [{"Id": str(number), "MessageBody": body} for number, body in enumerate(messages)]
                )
                sent, gone, last = sent + len(messages), gone + len(batch) - len(messages), batch[-1]
                progress.update(task, completed=sent, state=f"at most {rate:g} a second")
    except (KeyboardInterrupt, UserError, ClientError, BotoCoreError) as error:
        again = f" with --after {shell_word(last)}" if last and resumable else ""
        go_on = f"{sent:,} sent: to go on, run the same command{again}."
        if isinstance(error, KeyboardInterrupt):
            raise UserError(f"interrupted, {go_on}") from None
        print_plain(console, go_on)
        raise
    absent = f" Not found: {gone:,}." if gone else ""
    console.print(f"{sent:,} sent to {pipeline.main_queue_name}.{absent}", highlight=False)


def message_about(s3: S3Client, pipeline: Pipeline, key: str) -> str | None:
    """Return S3's event notification for an object as it is now, or None if it does not exist."""
    current = head(s3, pipeline.bucket_name, key)
    if not current:
        return None
    result = audit.result_of(s3, pipeline, key)
    metadata = result["Metadata"] if result else {}
    # Of another bucket, from which the result was copied, the sequencer says nothing here.
    of_this_bucket = metadata.get("bucket", pipeline.bucket_name) == pipeline.bucket_name
    described = {
        "key": quote_plus(key, safe="/"),
        "size": current["ContentLength"],
        "eTag": current["ETag"].strip('"'),
        "sequencer": metadata.get("sequencer", "0") if of_this_bucket else "0",
    }
    if version := current.get("VersionId"):
        described["versionId"] = version
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": s3.meta.region_name,
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "eventName": "ObjectCreated:Put",
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": pipeline.bucket_name}, "object": described},
    }
    return json.dumps({"Records": [record]})


def send_batch(
    sqs: SQSClient, pipeline: Pipeline, messages: list[SendMessageBatchRequestEntryTypeDef]
) -> dict[str, str]:
    """Send up to ten messages to the main queue, and return their new ids by their `Id`.

    Raises:
        UserError: SQS did not take all of them.
    """
    remaining = {message["Id"]: message for message in messages}
    sent: dict[str, str] = {}
    refused = ""
    for attempt in range(ATTEMPTS):
        if not remaining:
            break
        time.sleep(attempt)
        answer = sqs.send_message_batch(QueueUrl=pipeline.main_queue_url, Entries=list(remaining.values()))
        sent |= {each["Id"]: each["MessageId"] for each in answer.get("Successful", [])}
        remaining = {each["Id"]: remaining[each["Id"]] for each in answer.get("Failed", [])}
        refused = next((each.get("Message") or each["Code"] for each in answer.get("Failed", [])), "")
    if remaining:
        raise UserError(f"SQS does not take the messages ({refused}): run the command again later.")
    return sent
