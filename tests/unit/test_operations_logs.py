"""The function's log, from a fake CloudWatch that answers where botocore would send."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.unit.test_operations_commands import JSON, PIPELINE
from xfarm.operations import logs

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
OVERLAP_MS = logs.OVERLAP // timedelta(milliseconds=1)
PAGE = 3
REQUEST = "3b2f6c1e-0000-4000-8000-000000000000"
MESSAGE = "1a2b3c4d-0000-4000-8000-000000000000"


class CloudWatch:
    """A log whose lines arrive in batches, one before each look of a reader."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.later: list[list[dict[str, Any]]] = []
        self.starts: list[int] = []

    def add(self, *messages: str) -> None:
        self.events += [self.event(NOW_MS + number, message) for number, message in enumerate(messages)]

    @staticmethod
    def event(time: int, message: str) -> dict[str, Any]:
        return {"eventId": f"{time} {message}", "timestamp": time, "message": message, "logStreamName": "s"}

    def answer(self, params: dict[str, Any], **_: object) -> tuple[AWSResponse, dict[str, Any]]:
        request = json.loads(params["body"])
        first = int(request.get("nextToken", 0))
        if not first:
            self.starts.append(request["startTime"])
        found = [event for event in self.events if event["timestamp"] >= request["startTime"]]
        found.sort(key=lambda event: event["timestamp"])
        page: dict[str, Any] = {"events": found[first : first + PAGE]}
        if found[first + PAGE :]:
            page["nextToken"] = str(first + PAGE)
        return AWSResponse("", 200, HTTPHeaders(), None), page

    def pause(self) -> None:
        """Let the next lines arrive, or interrupt the reader."""
        if not self.later:
            raise KeyboardInterrupt
        self.events += self.later.pop(0)


@pytest.fixture
def cloudwatch(monkeypatch: pytest.MonkeyPatch) -> CloudWatch:
    cloudwatch = CloudWatch()
    create: Any = boto3.client

    def client(service: str, **options: Any) -> Any:  # noqa: ANN401 - any client
        made: Any = create(service, "eu-west-1", aws_access_key_id="test", aws_secret_access_key="test", **options)
        made.meta.events.register("before-call.cloudwatch-logs.FilterLogEvents", cloudwatch.answer)
        made.meta.events.register("before-call.sqs.GetQueueAttributes", queue)
        return made

    def queue(**_: object) -> tuple[AWSResponse, dict[str, Any]]:
        attributes = {"RedrivePolicy": json.dumps({"maxReceiveCount": 5})}
        return AWSResponse("", 200, HTTPHeaders(), None), {"Attributes": attributes}

    monkeypatch.setattr(boto3, "client", client)
    monkeypatch.setattr(logs, "_pause", cloudwatch.pause)
    return cloudwatch


def shown(**options: Any) -> str:  # noqa: ANN401 - of `logs.show`
    output = io.StringIO()
    logs.show(PIPELINE, Console(file=output, width=20, soft_wrap=True), since=NOW, **options)
    return output.getvalue()


def line(outcome: str = "failed", **facts: Any) -> str:  # noqa: ANN401 - any JSON
    return json.dumps({"outcome": outcome, "message_id": MESSAGE, "request_id": REQUEST, **facts})


# Following


@st.composite
def arrivals(draw: st.DrawFn) -> list[list[int]]:
    """Return the times of the lines in each look's batch, none of them later than may be."""
    newest = NOW_MS
    batches: list[list[int]] = []
    for _ in range(draw(st.integers(1, 5))):
        batch = draw(st.lists(st.integers(max(NOW_MS, newest - OVERLAP_MS), newest + 2 * OVERLAP_MS), max_size=8))
        newest = max([newest, *batch])
        batches.append(batch)
    return batches


@given(arrivals())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_is_lost_or_repeated_in_whatever_order_they_arrive(
    cloudwatch: CloudWatch, batches: list[list[int]]
) -> None:
    names = iter(range(1000))
    cloudwatch.events.clear()
    cloudwatch.starts.clear()
    cloudwatch.later = [[cloudwatch.event(time, str(next(names))) for time in batch] for batch in batches]
    wanted = sorted(event["message"] for batch in cloudwatch.later for event in batch)
    cloudwatch.later.append([])  # a last look, without new lines
    found: list[str] = []

    def follow(lines: Iterator[logs.Line]) -> None:
        found.extend(line.text for line in lines)

    with pytest.raises(KeyboardInterrupt):
        follow(logs.lines(PIPELINE, NOW, follow=True))
    assert sorted(found) == wanted
    newest = max([NOW_MS, *(time for batch in batches for time in batch)])
    assert cloudwatch.starts[-1] >= newest - OVERLAP_MS  # what is old is not read again and again


def test_following_ends_with_ctrl_c_and_shows_what_came(
    cloudwatch: CloudWatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloudwatch.later = [[cloudwatch.event(NOW_MS, "late")]]
    assert shown(follow=True) == "2026-01-02T03:04:05Z late\n"
    assert capsys.readouterr().err == "Following logs until you press Ctrl-C.\n"


def test_ctrl_c_is_an_interruption_without_follow(cloudwatch: CloudWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    cloudwatch.add("a line")
    monkeypatch.setattr(logs, "_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shown()


# What is shown


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            line("processed", key="inputs/a.csv", receive_count=1, duration_ms=1234),
            "processed inputs/a.csv (attempt 1 of 5, message 1a2b3c4d, 1,234 ms)",
        ),
        (
            line(key="inputs/a", receive_count=2, duration_ms=5, error_type="OSError", error="no"),
            "failed inputs/a (attempt 2 of 5, message 1a2b3c4d, 5 ms): OSError: no",
        ),
        (
            line(key="inputs/a", error_type="ClientError", reason="archived: restore it", error="no"),
            "failed inputs/a (message 1a2b3c4d): archived: restore it: no",
        ),
        (line("test_event"), "test_event (message 1a2b3c4d)"),
        ('{"outcome": "failed", "error": "the event is not a batch"}', "failed: the event is not a batch"),
        (line("processed", key="inputs/\x1b[31m\n"), r"processed inputs/\x1b[31m\n (message 1a2b3c4d)"),
        (f"REPORT RequestId: {REQUEST}\tDuration: 1 ms\t\n", f"REPORT RequestId: {REQUEST}, Duration: 1 ms"),
        ("[ERROR] Runtime.ImportModuleError: no\nTraceback", r"[ERROR] Runtime.ImportModuleError: no\nTraceback"),
        ('{"level": "INFO"}\n', '{"level": "INFO"}'),
    ],
)
def test_a_line_is_shown_as_text(cloudwatch: CloudWatch, message: str, text: str) -> None:
    cloudwatch.add(message)
    assert shown() == f"2026-01-02T03:04:05Z {text}\n"


@given(
    JSON.map(lambda value: json.dumps({"outcome": "failed", "key": value, "receive_count": value}))
    | st.text().filter(str.strip)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_line_is_one_line(cloudwatch: CloudWatch, message: str) -> None:
    cloudwatch.events.clear()
    cloudwatch.add(message)
    assert len(shown().splitlines()) == 1


def test_where_an_invocation_begins_and_ends_is_not_shown_and_its_report_names_the_files(
    cloudwatch: CloudWatch,
) -> None:
    cloudwatch.add(
        f"START RequestId: {REQUEST} Version: $LATEST",
        line("processed", key="inputs/a"),
        line("processed", key="inputs/b"),
        f"END RequestId: {REQUEST}",
        f"REPORT RequestId: {REQUEST}\tDuration: 3 ms",
    )
    assert [each.partition(" ")[2] for each in shown().splitlines()] == [
        "processed inputs/a (message 1a2b3c4d)",
        "processed inputs/b (message 1a2b3c4d)",
        "REPORT inputs/a, inputs/b, Duration: 3 ms",
    ]


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        (line(key="inputs/a", error="no"), True),
        (line("processed", key="inputs/error.csv"), False),
        (f"2026-01-02T03:04:05.678Z {REQUEST} Task timed out after 60.06 seconds", True),
        (f"RequestId: {REQUEST} Error: Runtime exited with error: signal: killed\nRuntime.ExitError", True),
        (f"REPORT RequestId: {REQUEST}\tDuration: 60000 ms\tStatus: timeout", True),
        ("INIT_REPORT Init Duration: 10000 ms\tPhase: init\tStatus: timeout", True),
        ("[ERROR] Runtime.ImportModuleError: Unable to import module 'lambda_function': x", True),
        (f"REPORT RequestId: {REQUEST}\tDuration: 3 ms", False),
        ("printed by process", False),
    ],
)
def test_only_failures_are_shown_on_request(cloudwatch: CloudWatch, message: str, failure: bool) -> None:  # noqa: FBT001 - a parameter of the test
    cloudwatch.add(message)
    text = shown(errors=True)
    assert text.startswith("No lines of failures since 2026-01-02T03:04:05Z.") is not failure


def test_the_attempts_at_a_file_are_in_order_and_no_other_file_is_shown(cloudwatch: CloudWatch) -> None:
    cloudwatch.add(
        line(key="inputs/a", receive_count=2, error="no"),
        line(key="inputs/ab", receive_count=1),
        line(key="inputs/a", receive_count=1, error="no"),
        "printed by process",
        line("processed", key="inputs/a", receive_count=1, message_id="another"),
    )
    assert [each.partition(" ")[2] for each in shown(key="inputs/a").splitlines()] == [
        "failed inputs/a (attempt 1 of 5, message 1a2b3c4d): no",
        "failed inputs/a (attempt 2 of 5, message 1a2b3c4d): no",
        "processed inputs/a (attempt 1 of 5, message another)",
    ]


def test_lines_for_programs_have_everything_and_the_time(
    cloudwatch: CloudWatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = line(key="inputs/\x1bä", error="no", traceback="Traceback\n  line 1")
    cloudwatch.add(f"START RequestId: {REQUEST}\n", failed)
    assert shown(as_json=True) == ""
    start, attempt = map(json.loads, capsys.readouterr().out.splitlines())
    assert start == {"time": "2026-01-02T03:04:05.000+00:00", "message": f"START RequestId: {REQUEST}"}
    assert attempt == {"time": "2026-01-02T03:04:05.001+00:00", **json.loads(failed)}


def test_an_empty_log_is_explained(cloudwatch: CloudWatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(key="inputs/\x1b") == (
        r"No lines about 'inputs/\x1b' since 2026-01-02T03:04:05Z. --since goes further back, as far as the log is "
        "kept (compute:logRetentionDays).\n"
    )
    assert (shown(as_json=True), capsys.readouterr().out) == ("", "")
    assert cloudwatch.starts == [NOW_MS, NOW_MS]


def test_where_a_key_lacks_the_prefix_of_all_files_that_is_said(cloudwatch: CloudWatch) -> None:
    assert "No lines about 'a.csv', which does not begin with 'inputs/' like the keys of files, since" in shown(
        key="a.csv"
    )
    assert len(cloudwatch.starts) == 1


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("inputs/a b-1.csv", '{ $.key = "inputs/a b-1.csv*" }'),
        ('inputs/a"b', '{ $.key = "inputs/a*" }'),
        ("inputs/ä", '{ $.key = "inputs/*" }'),
        ("inputs/*b", '{ $.key = "inputs/*" }'),
        ("", '{ $.key = "*" }'),
    ],
)
def test_a_pattern_has_nothing_that_cloudwatch_could_take_for_something_else(key: str, pattern: str) -> None:
    assert logs.field_pattern("key", key) == pattern


def test_a_pattern_is_no_longer_than_cloudwatch_accepts() -> None:
    assert len(logs.field_pattern("key", "x" * 1024)) <= 1024  # "FilterLogEvents"
