"""What the page's server shows, does and refuses."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.exceptions import ClientError
from rich.console import Console
from tornado.netutil import bind_sockets

from tests.support.emulated_pipeline import add_dead_letter
from tests.support.serving import Served, served
from tests.support.waiting import eventually
from xfarm.errors import UserError
from xfarm.operations import send
from xfarm.operations.dead_letters import NO_FILE
from xfarm.operations.pipeline import Counts, Pipeline, counts
from xfarm.operations.redrive import MANY, Step
from xfarm.operations.send import Arrival, Upload, UploadTracker
from xfarm.operations.status import Health, health
from xfarm.watch import server, view
from xfarm.watch.server import serve
from xfarm.watch.view import PipelineView


@pytest.fixture
def page(pipeline: Pipeline) -> Iterator[Served]:
    with served(pipeline) as page:
        yield page


def keys(pipeline: Pipeline) -> list[str]:
    listed = boto3.client("s3").list_objects_v2(Bucket=pipeline.bucket_name, Prefix=pipeline.input_prefix)
    return [item["Key"] for item in listed.get("Contents", [])]


def test_a_file_is_uploaded_followed_to_its_result_and_counted(page: Served, pipeline: Pipeline) -> None:
    before = page.state()
    name = "a folder/ö & ü?.csv"
    assert page.send(name, b"a,b\n1,2\n") == (200, {})
    assert f"inputs/{name}" in keys(pipeline)
    assert page.file(name)["result"] == f"outputs/{name}.json"
    done = eventually(lambda: (file := page.file(name))["state"] == "done" and file)
    assert (done["text"], done["document"]["rows"]) == ("8 bytes, 1 row", 1)
    after = page.state()
    assert after["inputs"]["objects"] == before["inputs"]["objects"] + 1
    assert after["outputs"]["objects"] == before["outputs"]["objects"] + 1
    assert after["health"]["event_source_mapping"] == "Enabled"


def test_waiting_messages_and_messages_in_flight_are_counted(page: Served, pipeline: Pipeline) -> None:
    sqs = boto3.client("sqs")
    sqs.send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody="x")
    assert page.state()["health"]["dead_letter_queue"] == {"waiting": 1, "in_flight": 0}
    (message,) = sqs.receive_message(QueueUrl=pipeline.dead_letter_queue_url)["Messages"]
    assert page.state()["health"]["dead_letter_queue"] == {"waiting": 0, "in_flight": 1}
    sqs.delete_message(QueueUrl=pipeline.dead_letter_queue_url, ReceiptHandle=message["ReceiptHandle"])
    assert page.state()["health"]["dead_letter_queue"] == {"waiting": 0, "in_flight": 0}


def start_redrive(page: Served, choice: str = "") -> tuple[int, dict[str, Any]]:
    status, _, body = page.request("POST", f"/redrive?{choice}", page.headers)
    return status, json.loads(body)


def redrive(page: Served, choice: str = "") -> str:
    """Redrive dead letters, and return what was done."""
    assert start_redrive(page, choice) == (200, {})
    eventually(lambda: not page.state()["redrive"]["running"])
    return page.state()["redrive"]["text"]


def causes(page: Served) -> tuple[int, dict[str, Any]]:
    status, _, body = page.request("POST", "/causes", page.headers)
    return status, json.loads(body)


@pytest.fixture
def unannounced(pipeline: Pipeline) -> Iterator[int]:
    """Put messages into the dead-letter queue that are not from S3, and return their number."""
    sqs = boto3.client("sqs")
    number = MANY + 1
    for _ in range(number):
        sqs.send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody="x")
    yield number
    sqs.purge_queue(QueueUrl=pipeline.dead_letter_queue_url)


def test_a_dead_letter_is_shown_redriven_and_followed_again(
    page: Served, pipeline: Pipeline, fix_function: Callable[[], None]
) -> None:
    assert page.send("bad.csv", b"x\n") == (200, {})
    dead = eventually(lambda: (file := page.file("bad.csv"))["state"] == "dead" and file)
    assert dead["text"] == "RuntimeError: test failure"
    assert page.state()["health"]["dead_letter_queue"]["waiting"] == 1
    assert redrive(page) == "1 moved from xFarmDeadLetterSqs back to xFarmMainQueue."
    eventually(lambda: counts(pipeline.dead_letter_queue_url).waiting)  # it is dead again before the page is refreshed
    eventually(lambda: page.file("bad.csv")["state"] == "dead")
    fix_function()
    redrive(page)
    eventually(lambda: page.file("bad.csv")["state"] == "done")
    assert page.state()["health"]["dead_letter_queue"]["waiting"] == 0
    assert page.state()["health"]["causes"] == {"RuntimeError: test failure": 2}


def test_causes_are_shown_and_the_dead_letters_of_one_are_redriven(
    page: Served, pipeline: Pipeline, unannounced: int
) -> None:
    add_dead_letter(pipeline, "inputs/\u202e\n.csv", "row 7 is \x1b[2J")
    status, answer = causes(page)
    assert (status, answer["hidden"]) == (200, "")
    [many, one] = answer["causes"]
    assert (many["letters"], many["files"]) == (unannounced, ["not about a file"] * 3)
    assert many["error"] == NO_FILE
    assert (one["letters"], one["error"]) == (1, r"ValueError: row 7 is \x1b[2J")
    assert one["files"] == [rf"s3://{pipeline.bucket_name}/inputs/\u202e\n.csv"]
    assert one["oldest"].startswith(f"{datetime.now(UTC):%Y-}")
    assert counts(pipeline.dead_letter_queue_url) == Counts(waiting=unannounced + 1, in_flight=0)

    assert redrive(page, f"cause={one['number']}") == "1 moved from xFarmDeadLetterSqs back to xFarmMainQueue."
    assert counts(pipeline.dead_letter_queue_url).waiting == unannounced


def test_of_more_than_ten_one_is_moved_first_and_its_failure_is_shown(
    page: Served, pipeline: Pipeline, unannounced: int
) -> None:
    assert "the first, failed again, so the others were not moved: NotUnderstoodError: " in redrive(page)
    assert counts(pipeline.dead_letter_queue_url).waiting == unannounced - 1
    assert redrive(page, f"trial=false&limit={unannounced - 2}&rate=500").startswith(f"{unannounced - 2} moved from")
    eventually(lambda: counts(pipeline.dead_letter_queue_url).waiting == unannounced)


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ("limit=0", "'0' is not a limit from 1 to 100,000: nothing was moved."),
        ("limit=1.5", "'1.5' is not a limit from 1 to 100,000: nothing was moved."),
        ("limit=100001", "'100001' is not a limit from 1 to 100,000: nothing was moved."),
        ("rate=501", "'501' is not a rate from 1 to 500: nothing was moved."),
        ("rate=%E2%80%AE5", r"'\u202e5' is not a rate from 1 to 500: nothing was moved."),
        (f"rate={'9' * 5000}", f"'{'9' * 5000}' is not a rate from 1 to 500: nothing was moved."),
    ],
)
def test_a_limit_or_rate_that_is_no_number_is_refused(page: Served, choice: str, error: str) -> None:
    assert start_redrive(page, choice) == (409, {"error": error})
    assert page.state()["redrive"] is None


def test_a_choice_that_fits_nothing_is_an_error(page: Served, unannounced: int) -> None:
    assert unannounced
    assert redrive(page, "cause=x") == "'x' is not the number of a cause: 'xfarm dead-letters' shows them."


class SlowRedrive:
    """A redrive that has moved 3 of 5 messages, and continues when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.choice: dict[str, Any] = {}
        self.go_on = Event()
        monkeypatch.setattr(view, "redrive", self)

    def __call__(self, _: Pipeline, console: Console, on_step: Callable[[Step], None], **choice: object) -> None:
        self.choice = choice
        console.print("First.")
        while not self.go_on.wait(0.01):
            on_step(Step(moved=3, total=5))
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SendMessageBatch")


def test_the_progress_is_shown_until_the_end_and_nothing_else_is_started(
    page: Served, unannounced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unannounced
    slow = SlowRedrive(monkeypatch)
    assert page.state()["redrive"] is None
    assert start_redrive(page, "cause=4812&limit=7&rate=5&trial=false") == (200, {})
    shown = eventually(lambda: (run := page.state()["redrive"])["moved"] and run)
    assert {**shown, "started": 0} == {"started": 0, "running": True, "moved": 3, "total": 5, "text": "First."}
    assert slow.choice == {"cause": "4812", "limit": 7, "rate": 5, "trial": False}
    assert start_redrive(page) == (409, {"error": "a redrive is running already."})
    assert causes(page) == (409, {"error": "a redrive is running: look at the causes when it has ended."})
    with monkeypatch.context() as patch:
        # If the page read them, the redrive would miss them.
        patch.setattr(send, "peek", Mock(side_effect=AssertionError))
        assert page.send("meanwhile.csv", b"a\n1\n") == (200, {})
        eventually(lambda: page.file("meanwhile.csv")["state"] == "done")
    slow.go_on.set()
    eventually(lambda: not page.state()["redrive"]["running"])
    assert page.state()["redrive"]["text"] == "First.\nAWS refused SendMessageBatch: no (AccessDenied)."
    assert causes(page)[0] == 200


def test_a_redrive_ends_with_the_server(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowRedrive(monkeypatch)
    page = PipelineView(pipeline, refresh_s=0)
    page.redrive(cause=None, limit=None, rate=None, trial=True)
    page.close()
    assert page.state()["redrive"]["running"] is False
    assert page.state()["redrive"]["text"] == "First.\nthe page's server has ended."


def test_of_several_uploads_with_one_name_the_newest_is_followed(page: Served) -> None:
    for body in (b"a\n1\n", b"a\n1\n2\n"):
        assert page.send("twice.csv", body) == (200, {})
    eventually(lambda: page.file("twice.csv")["text"] == "6 bytes, 2 rows")
    assert [file["name"] for file in page.state()["files"]].count("twice.csv") == 1


def test_the_result_of_an_upload_is_not_shown_for_a_newer_upload(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    page = PipelineView(pipeline, refresh_s=0)

    def look(_: UploadTracker, waiting: list[Upload], **_options: bool) -> list[Arrival]:
        page.send("replaced.csv", path)
        return [Arrival(upload=waiting[0], document={})]

    monkeypatch.setattr(UploadTracker, "look", look)
    page.send("replaced.csv", path)
    assert [file["state"] for file in page.state()["files"]] == ["waiting"]


def test_the_number_of_files_is_limited(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MAX_FILES", 2)
    for number in range(3):
        page.send(f"{number}.txt", b"x")
    assert [file["name"] for file in page.state()["files"]] == ["2.txt", "1.txt"]


FOREIGN: dict[str, dict[str, str | None]] = {
    "no token": {"X-Token": None},
    "a wrong token": {"X-Token": "guessed"},
    "no origin": {"Origin": None},
    "another site's origin": {"Origin": "http://site.example"},
    "another port's origin": {"Origin": "http://127.0.0.1:1"},
    "a name that resolves to this machine": {"Host": "site.example", "Origin": "http://site.example"},
    "this machine at another port": {"Host": "127.0.0.1:1"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", ["/files?name=foreign.csv", "/redrive", "/causes"])
def test_foreign_requests_can_change_nothing(
    page: Served, pipeline: Pipeline, path: str, headers: dict[str, str | None]
) -> None:
    sent = {name: value for name, value in (page.headers | headers).items() if value is not None}
    status, _, body = page.request("POST", path, sent, b"x")
    assert status == 403
    assert list(json.loads(body)) == ["error"]
    assert "inputs/foreign.csv" not in keys(pipeline)
    assert page.state()["redrive"] is None


@pytest.mark.parametrize("path", ["/", "/state", "/causes", "/anything"])
@pytest.mark.parametrize("headers", [{"Host": "site.example"}, {"Origin": "http://site.example"}, {"Origin": "null"}])
def test_foreign_requests_can_read_nothing(page: Served, path: str, headers: dict[str, str]) -> None:
    status, _, body = page.request("GET", path, headers)
    assert status == 403
    assert page.token.encode() not in body


def test_responses_forbid_framing_caching_and_foreign_scripts(page: Served) -> None:
    for path in ("/", "/state", "/anything"):
        headers = page.request("GET", path)[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
    assert page.request("GET", "/anything")[0] == 404


def test_a_read_only_page_refuses_every_change(pipeline: Pipeline) -> None:
    with served(replace(pipeline, stack="dev"), writable=False) as page:
        assert page.token  # for the causes
        html = page.request("GET", "/")[2].decode()
        assert "read-only" in html
        assert "Redrive</button>" not in html
        assert causes(page) == (200, {"causes": [], "hidden": ""})
        assert page.state()["health"]["event_source_mapping"] == "Enabled"
        for path in ("/files?name=foreign.csv", "/redrive"):
            status, _, body = page.request("POST", path, page.headers, b"x")
            assert (status, json.loads(body)) == (403, {"error": "the page of 'dev' is read-only."})
        assert "inputs/foreign.csv" not in keys(pipeline)


def test_an_error_of_aws_is_one_sentence(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(replace(pipeline, bucket_name="no-such-bucket")) as page:
        status, _, body = page.request("GET", "/state")
        assert status == 409
        assert json.loads(body)["error"].startswith("a part of 'local' does not exist in AWS, because it was deleted")
        with monkeypatch.context() as patch:
            patch.setattr(view, "health", Mock(side_effect=ClientError({"Error": {"Code": "A"}}, "GetMetricData")))
            status, _, body = page.request("GET", "/state")
        assert status == 502
        assert json.loads(body)["error"].startswith("AWS refused GetMetricData: ")
        status, response = page.send("x.csv", b"x")
        assert status == 502
        assert "(NoSuchBucket)" in response["error"]


def test_a_file_without_a_name_is_refused(page: Served) -> None:
    assert page.send("", b"x") == (409, {"error": "a file needs a name."})


def test_the_state_is_not_refreshed_before_its_time(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Pipeline] = []

    def counted(pipeline: Pipeline) -> Health:
        calls.append(pipeline)
        return health(pipeline)

    monkeypatch.setattr(view, "health", counted)
    with served(pipeline, refresh_s=3600) as page:
        page.state()
        page.state()
    assert len(calls) == 1


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(pipeline: Pipeline) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^port {port} is taken by another program: choose another one with --port\.$"
        ):
            asyncio.run(serve(PipelineView(pipeline, refresh_s=0), port=port, writable=True, ready=print))


def test_the_server_listens_on_the_loopback_address_only(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[socket.socket] = []

    def bind(*arguments: Any) -> list[socket.socket]:  # noqa: ANN401 - the arguments of `bind_sockets`
        bound.extend(bind_sockets(*arguments))
        return bound

    monkeypatch.setattr(server, "bind_sockets", bind)
    with served(pipeline) as page:
        assert [each.getsockname() for each in bound] == [("127.0.0.1", page.port)]
