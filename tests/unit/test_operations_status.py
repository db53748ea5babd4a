"""How long files took, from the function's log."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.undeployed import PIPELINE
from xfarm.operations import status
from xfarm.operations.status import Times, in_words

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
