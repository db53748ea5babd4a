"""The function's log, as text for people: which attempt at which file had which outcome."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import stat
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config

from xfarm.operations.dead_letters import log_facts, read_log
from xfarm.operations.pipeline import key_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mypy_boto3_logs.type_defs import FilteredLogEventTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

BACK: Final = timedelta(hours=1)
"""How far the lines go back by default."""

OVERLAP: Final = timedelta(minutes=2)
"""How late, by its time, a line may arrive in CloudWatch and still be shown by `--follow`.

Lines arrive out of order, and FilterLogEvents can't ask for what has arrived since the last request (aws/aws-sdk #213).
"""

PAUSE_S: Final = 2
"""The seconds between two looks for new lines. An account has a few requests a second ("CloudWatch Logs quotas")."""

ID_CHARACTERS: Final = 8
"""How much of a message's id is shown."""

_REPORT_OF: Final = re.compile(r"REPORT RequestId: ([\w-]+)")

_OF_A_FAILURE: Final = re.compile("error|exception|traceback|timed out|timeout|died", re.IGNORECASE)
"""What is in Lambda's lines about a failure, and usually in those that `process` prints about one."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the log.

    Attributes:
        time: When it was written.
        text: The line.
        facts: What the function says in it about one attempt; empty if Lambda wrote the line, or `process` printed it.
    """

    time: datetime
    text: str
    facts: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether the line is about a failure."""
        return self.facts["outcome"] == "failed" if self.facts else bool(_OF_A_FAILURE.search(self.text))


def read(event: FilteredLogEventTypeDef) -> Line:
    """Return the line in an event of CloudWatch Logs, whatever its text is."""
    text = event.get("message", "").strip()
    time = datetime.fromtimestamp(event.get("timestamp", 0) / 1000, UTC)
    return Line(time=time, text=text, facts=log_facts(text))


def lines(pipeline: Pipeline, since: datetime, *, pattern: str = "", follow: bool = False) -> Iterator[Line]:
    """Yield the lines in the function's log, in the order of their times.

    Args:
        pipeline: The pipeline.
        since: The time of the first line.
        pattern: Which lines to return ("Filter pattern syntax", Amazon CloudWatch Logs User Guide); all by default.
        follow: Whether to go on with new lines. They come as they arrive, so their times may be out of order.

    Raises:
        BrokenPipeError: Nobody reads the output any more.
    """
    logs = boto3.client("logs", config=Config(retries={"mode": "adaptive", "total_max_attempts": 10}))
    overlap = OVERLAP // timedelta(milliseconds=1)
    start = newest = max(0, int(since.timestamp() * 1000))
    seen: dict[str, int] = {}
    while True:
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=pipeline.log_group_name, startTime=start, filterPattern=pattern
        )
        for page in pages:
            for event in page["events"]:
                identity, time = event.get("eventId") or str(event), event.get("timestamp", 0)
                if identity not in seen:
                    seen[identity] = time
                    newest = max(newest, time)
                    yield read(event)
            seen = {identity: time for identity, time in seen.items() if time >= newest - overlap}
        if not follow:
            return
        start = max(start, newest - overlap)  # by CloudWatch's time, as this machine's clock may be wrong
        _pause()


def _pause() -> None:
    """Wait for `PAUSE_S`.

    Raises:
        BrokenPipeError: The output is a pipe that nobody reads any more, as in `xfarm logs --follow | head`.
    """
    broken = select.poll()
    if sys.stdout and stat.S_ISFIFO(os.fstat(1).st_mode):
        broken.register(1, 0)
    if broken.poll(PAUSE_S * 1000):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def field_pattern(field: str, beginning: str) -> str:
    """Return the pattern for lines of JSON in which a field has a certain beginning, or a part of that.

    A pattern may end with a wildcard, but what other special characters mean in it is not documented ("Filter pattern
    syntax"). So it ends at the first of them, and matches more than it should.
    """
    plain = re.match(r"[\w./ -]{0,500}", beginning, re.ASCII)
    return f'{{ $.{field} = "{plain[0] if plain else ""}*" }}'


def show(  # noqa: PLR0913 - each is an option of the command line
    pipeline: Pipeline,
    console: Console,
    *,
    key: str | None = None,
    errors: bool = False,
    since: datetime | None = None,
    follow: bool = False,
    as_json: bool = False,
) -> None:
    """Show the function's log.

    Args:
        pipeline: The pipeline.
        console: Where to show it.
        key: The key or the URL of the only file to show, or None.
        errors: Whether to show failures only.
        since: The time of the first line; by default, an hour ago.
        follow: Whether to go on with new lines until Ctrl-C.
        as_json: Whether to print each line as a JSON object, with its time as `time`. Lines that are not one are in
            `message`.

    Raises:
        UserError: The URL is one of another bucket.
    """
    key = None if key is None else key_of(pipeline, key)
    since = since or datetime.now(UTC) - BACK
    pattern = "" if key is None else field_pattern("key", key)
    attempts = _attempts(pipeline)
    files: dict[str, list[str]] = {}
    found = False
    if follow:
        print(f"Following {pipeline.log_group_name} until you press Ctrl-C.", file=sys.stderr)
    selected: Iterable[Line] = lines(pipeline, since, pattern=pattern, follow=follow)
    if key is not None:
        selected = (line for line in selected if line.facts.get("key") == key)
    with contextlib.suppress(KeyboardInterrupt) if follow else contextlib.nullcontext():
        for line in selected if key is None or follow else _by_attempt(selected):
            if "key" in line.facts:
                files.setdefault(str(line.facts.get("request_id")), []).append(str(line.facts["key"]))
            report = _REPORT_OF.match(line.text)
            of_report = files.pop(report[1], []) if report else []
            if errors and not line.failed:
                continue
            found = True
            if as_json:
                time = line.time.isoformat(timespec="milliseconds")
                print(json.dumps({"time": time, **(line.facts or {"message": line.text})}), flush=True)
            elif text := _text(line, attempts, of_report):
                style = "red" if line.failed else ""
                console.print(f"{_time(line.time)} {printable(text)}", style=style, markup=False, highlight=False)
    if not found and not as_json and not follow:
        about = "" if key is None else f" about '{printable(key)}'"
        if key is not None and not key.startswith(pipeline.input_prefix):
            about += f", which does not begin with '{pipeline.input_prefix}' like the keys of files,"
        failures = " of failures" if errors else ""
        console.print(
            f"No lines{failures}{about} since {_time(since)}. --since goes further back, as far as the log is kept "
            "(compute:logRetentionDays).",
            markup=False,
            highlight=False,
        )


def _by_attempt(selected: Iterable[Line]) -> list[Line]:
    """Return lines in the order of the messages, and of the attempts at each.

    Attempts may overlap, so their lines may be in another order: "Amazon SQS visibility timeout".
    """
    messages: dict[str, list[Line]] = {}
    for line in selected:
        messages.setdefault(str(line.facts.get("message_id")), []).append(line)
    return [line for each in messages.values() for line in sorted(each, key=_attempt)]


def _attempt(line: Line) -> int:
    """Return the number of the attempt; 0 if the line has none, as those of version 0.1.0."""
    count = line.facts.get("receive_count")
    return count if isinstance(count, int) else 0


def _time(time: datetime) -> str:
    """Return a time as `--since` takes it."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _attempts(pipeline: Pipeline) -> str:
    """Return how many receives a message has, or "" if it has any number of them."""
    name = "RedrivePolicy"
    answer = boto3.client("sqs").get_queue_attributes(QueueUrl=pipeline.main_queue_url, AttributeNames=[name])
    policy = answer.get("Attributes", {}).get(name)
    return str(json.loads(policy)["maxReceiveCount"]) if policy else ""


def _text(line: Line, attempts: str, files: list[str]) -> str:
    """Return a line as text for people, or "" if it says nothing to them.

    Args:
        line: The line.
        attempts: How many receives a message has.
        files: The keys of the files of the invocation, if the line is Lambda's report about it.
    """
    facts = line.facts
    if not facts:
        text = line.text.replace("\t", ", ")
        if files:
            text = _REPORT_OF.sub(lambda _: f"REPORT {', '.join(files)}", text)
        return "" if re.match("(START|END) RequestId: ", text) else text
    about = []
    if count := _attempt(line):
        about.append(f"attempt {count} of {attempts}" if attempts else f"attempt {count}")
    if message := facts.get("message_id"):
        about.append(f"message {str(message)[:ID_CHARACTERS]}")
    if isinstance(facts.get("duration_ms"), int):
        about.append(f"{facts['duration_ms']:,} ms")
    failure = read_log(line.text)
    error = failure.error if failure else facts.get("error")
    words = [facts["outcome"], facts.get("key"), f"({', '.join(about)})" if about else None]
    return " ".join(str(word) for word in words if word) + (f": {error}" if error else "")
