"""How long files took and why attempts failed, from the function's log, and what is shown of it."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from tests.support.undeployed import PIPELINE
from xfarm.operations import status
from xfarm.operations.dead_letters import Failure
from xfarm.operations.pipeline import Counts, number_of
from xfarm.operations.status import Health, Times, causes, in_words, show

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Logs:
    """A log with given lines, and what was requested of it."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.requested: dict[str, Any] = {}

    def get_paginator(self, operation: str) -> "Logs":
        assert operation == "filter_log_events"
        return self

    def paginate(self, **request: object) -> list[dict[str, Any]]:
        self.requested = request
        return [{"events": [{"message": line}]} for line in self.lines]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Logs:
    logs = Logs()

    def client(_service: str) -> Logs:
        return logs

    monkeypatch.setattr(status.boto3, "client", client)
    return logs


def processed(milliseconds: int) -> str:
    return json.dumps({"outcome": "processed", "since_upload_ms": milliseconds})


def test_the_percentiles_are_those_of_processed_files_only(log: Logs) -> None:
    others = ["START RequestId", "[]", '{"outcome": "failed", "since_upload_ms": 9}', '{"outcome": "processed"}']
    log.lines = (*others, *(processed(1000 * second) for second in range(101)))
    assert status.times(PIPELINE, NOW, None) == Times(files=101, minutes=60, p50=50, p95=95, p99=99)


def test_one_file_is_all_percentiles_and_none_are_no_times(log: Logs) -> None:
    assert status.times(PIPELINE, NOW, None) is None
    log.lines = (processed(250),)
    assert status.times(PIPELINE, NOW, 1) == Times(files=1, minutes=60, p50=0.25, p95=0.25, p99=0.25)


@pytest.mark.parametrize(("messages", "minutes"), [(None, 60), (0, 60), (10_000, 60), (40_000, 15), (10**7, 1)])
def test_so_many_files_that_reading_all_would_take_long_are_read_in_part(
    log: Logs, messages: int | None, minutes: int
) -> None:
    log.lines = (processed(1),)
    found = status.times(PIPELINE, NOW, messages)
    assert found
    assert found.minutes == minutes
    assert log.requested["startTime"] == (NOW - timedelta(minutes=minutes)).timestamp() * 1000


def test_the_times_in_words() -> None:
    assert in_words(None) == "none in the last hour"
    assert in_words(Times(files=1200, minutes=60, p50=0.41234, p95=1.5, p99=12.345)) == (
        "1,200 in the last hour (20 a minute), from upload to result 0.412 s (p50), 1.5 s (p95), 12.3 s (p99)"
    )
    assert in_words(Times(files=9000, minutes=15, p50=1, p95=1, p99=1)).startswith(
        "9,000 in the last 15 minutes (600 a minute)"
    )


# Causes


def failed(*errors: str) -> list[Failure]:
    return [Failure(message_id="m", key=f"inputs/{number}", error=error) for number, error in enumerate(errors)]


def test_the_three_most_frequent_causes_are_counted() -> None:
    errors = ["a", "b", "b", "row 7 of inputs/3", "row 8 of inputs/4", "row 9 of inputs/5", "c", "b", "c", "b"]
    assert causes(failed(*errors)) == {"b": 4, "row # of <key>": 3, "c": 2}
    assert causes([]) == {}


HEALTH = Health(
    main_queue=Counts(waiting=1, in_flight=2),
    dead_letter_queue=Counts(waiting=0, in_flight=0),
    oldest_message_s=None,
    event_source_mapping="Enabled",
    times=None,
    failed_attempts=1300,
    causes={"RuntimeError: [red]row #\x1b[2J": 1290, "KeyError: 'a'": 10},
    errors=0,
    throttles=None,
    concurrency=1000,
    alarm_email=None,
)


def shown(monkeypatch: pytest.MonkeyPatch, state: Health) -> list[str]:
    """Return what `xfarm status dev` shows of a health, without the table of stacks."""
    monkeypatch.setattr(status, "health", Mock(return_value=state))
    console = Console(file=io.StringIO(), width=1000)
    show("dev", {}, PIPELINE, console, as_json=False)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_causes_are_shown_as_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, HEALTH)
    start = lines.index("failed attempts 1,300 in the last hour")
    assert lines[start + 1 : start + 3] == [r"1,290 with RuntimeError: [red]row #\x1b[2J", "10 with KeyError: 'a'"]


def test_a_long_error_is_cut_so_that_the_table_is_not_padded_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, replace(HEALTH, causes={"x" * 5000: 1}))
    assert max(map(len, lines)) < 400


def test_json_has_the_causes_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(status, "health", Mock(return_value=HEALTH))
    show("dev", {}, PIPELINE, Console(), as_json=True)
    assert json.loads(capsys.readouterr().out)["health"]["causes"] == HEALTH.causes


@pytest.mark.parametrize(("waiting", "in_flight"), [(1, 0), (0, 1)])
def test_where_there_are_dead_letters_the_command_that_lists_them_is_named(
    monkeypatch: pytest.MonkeyPatch, waiting: int, in_flight: int
) -> None:
    assert not [line for line in shown(monkeypatch, HEALTH) if "xfarm dead-letters" in line]
    dead = Counts(waiting=waiting, in_flight=in_flight)
    [line] = [line for line in shown(monkeypatch, replace(HEALTH, dead_letter_queue=dead)) if line.startswith("dead ")]
    assert line.endswith(f"{number_of(waiting, 'dead letter')}, {in_flight} in flight: see 'xfarm dead-letters dev'")
