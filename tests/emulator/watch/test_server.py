"""What the page's server shows, does, and refuses to do."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from tornado.netutil import bind_sockets

from tests.support.serving import Served, served
from tests.support.waiting import eventually
from xfarm.errors import UserError
from xfarm.operations.pipeline import Pipeline, counts
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


def test_messages_are_counted_where_they_are(page: Served, pipeline: Pipeline) -> None:
    sqs = boto3.client("sqs")
    sqs.send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody="x")
    assert page.state()["health"]["dead_letter_queue"] == {"waiting": 1, "in_flight": 0}
    (message,) = sqs.receive_message(QueueUrl=pipeline.dead_letter_queue_url)["Messages"]
    assert page.state()["health"]["dead_letter_queue"] == {"waiting": 0, "in_flight": 1}
    sqs.delete_message(QueueUrl=pipeline.dead_letter_queue_url, ReceiptHandle=message["ReceiptHandle"])
    assert page.state()["health"]["dead_letter_queue"] == {"waiting": 0, "in_flight": 0}


def put_back(page: Served) -> None:
    status, _, body = page.ask("POST", "/redrive", page.ours)
    assert (status, json.loads(body)["said"]) == (200, "1 moved from xFarmDeadLetterSqs back to xFarmMainQueue.")


def test_a_dead_letter_is_shown_put_back_and_followed_again(
    page: Served, pipeline: Pipeline, mend: Callable[[], None]
) -> None:
    assert page.send("bad.csv", b"x\n") == (200, {})
    dead = eventually(lambda: (file := page.file("bad.csv"))["state"] == "dead" and file)
    assert dead["text"] == "RuntimeError: as the test wants it"
    assert page.state()["health"]["dead_letter_queue"]["waiting"] == 1
    put_back(page)
    eventually(lambda: counts(pipeline.dead_letter_queue_url).waiting)  # again, while nobody looks at the page
    eventually(lambda: page.file("bad.csv")["state"] == "dead")
    mend()
    put_back(page)
    eventually(lambda: page.file("bad.csv")["state"] == "done")
    assert page.state()["health"]["dead_letter_queue"]["waiting"] == 0


def test_the_newest_upload_of_a_name_is_the_one_that_is_followed(page: Served) -> None:
    for body in (b"a\n1\n", b"a\n1\n2\n"):
        assert page.send("twice.csv", body) == (200, {})
    eventually(lambda: page.file("twice.csv")["text"] == "6 bytes, 2 rows")
    assert [file["name"] for file in page.state()["files"]].count("twice.csv") == 1


def test_what_became_of_an_upload_is_not_taken_for_that_of_a_newer_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    page = PipelineView(pipeline, every=0)

    def look(_: UploadTracker, waiting: list[Upload]) -> list[Arrival]:
        page.send("replaced.csv", path)
        return [Arrival(upload=waiting[0], document={})]

    monkeypatch.setattr(UploadTracker, "look", look)
    page.send("replaced.csv", path)
    assert [file["state"] for file in page.state()["files"]] == ["waiting"]


def test_only_so_many_files_are_remembered(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "REMEMBERED", 2)
    for number in range(3):
        page.send(f"{number}.txt", b"x")
    assert [file["name"] for file in page.state()["files"]] == ["2.txt", "1.txt"]


FOREIGN: dict[str, dict[str, str | None]] = {
    "no token": {"X-Token": None},
    "a wrong token": {"X-Token": "guessed"},
    "no origin": {"Origin": None},
    "another site's origin": {"Origin": "http://site.example"},
    "another port's origin": {"Origin": "http://127.0.0.1:1"},
    "a name made to resolve to this machine": {"Host": "site.example", "Origin": "http://site.example"},
    "this machine at another port": {"Host": "127.0.0.1:1"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", ["/files?name=foreign.csv", "/redrive"])
def test_nobody_else_may_change_anything(
    page: Served, pipeline: Pipeline, path: str, headers: dict[str, str | None]
) -> None:
    given = page.ours | headers
    status, _, body = page.ask("POST", path, {name: value for name, value in given.items() if value is not None}, b"x")
    assert status == 403
    assert json.loads(body)["error"]
    assert "inputs/foreign.csv" not in keys(pipeline)


@pytest.mark.parametrize("path", ["/", "/state", "/anything"])
@pytest.mark.parametrize("headers", [{"Host": "site.example"}, {"Origin": "http://site.example"}, {"Origin": "null"}])
def test_nobody_else_may_read_anything(page: Served, path: str, headers: dict[str, str]) -> None:
    status, _, body = page.ask("GET", path, headers)
    assert status == 403
    assert page.token.encode() not in body


def test_what_is_sent_may_be_neither_framed_nor_kept_nor_joined_by_scripts_of_others(page: Served) -> None:
    for path in ("/", "/state", "/anything"):
        headers = page.ask("GET", path)[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
    assert page.ask("GET", "/anything")[0] == 404


def test_an_account_is_only_shown_whatever_is_asked(pipeline: Pipeline) -> None:
    with served(replace(pipeline, stack="dev"), writable=False) as page:
        assert page.token == ""
        html = page.ask("GET", "/")[2].decode()
        assert "read-only" in html
        assert "Put them back" not in html
        assert page.state()["health"]["event_source_mapping"] == "Enabled"
        for path in ("/files?name=foreign.csv", "/redrive"):
            status, _, body = page.ask("POST", path, page.ours, b"x")
            assert (status, json.loads(body)) == (403, {"error": "'dev' is only shown: nothing is changed from here"})
        assert "inputs/foreign.csv" not in keys(pipeline)


def test_what_aws_refuses_is_told_in_a_sentence(pipeline: Pipeline) -> None:
    with served(replace(pipeline, bucket_name="no-such-bucket")) as page:
        status, _, body = page.ask("GET", "/state")
        assert status == 502
        assert json.loads(body)["error"].startswith("AWS refused ListObjectsV2: ")
        status, said = page.send("x.csv", b"x")
        assert status == 502
        assert "(NoSuchBucket)" in said["error"]


def test_a_file_without_a_name_is_refused(page: Served) -> None:
    status, said = page.send("", b"x")
    assert (status, said) == (409, {"error": "a file needs a name."})


def test_aws_is_asked_no_more_often_than_is_said(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Pipeline] = []

    def counted(pipeline: Pipeline) -> Health:
        asked.append(pipeline)
        return health(pipeline)

    monkeypatch.setattr(view, "health", counted)
    with served(pipeline, every=3600) as page:
        page.state()
        page.state()
    assert len(asked) == 1


def test_a_port_that_is_taken_is_told_with_what_to_do(pipeline: Pipeline) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^Port {port} is taken by another program: name another one with --port\.$"
        ):
            asyncio.run(serve(PipelineView(pipeline, every=0), port=port, writable=True, ready=print))


def test_it_listens_on_this_machine_alone(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[socket.socket] = []

    def bind(*arguments: Any) -> list[socket.socket]:  # noqa: ANN401  whatever it is given
        bound.extend(bind_sockets(*arguments))
        return bound

    monkeypatch.setattr(server, "bind_sockets", bind)
    with served(pipeline) as page:
        assert [each.getsockname() for each in bound] == [("127.0.0.1", page.port)]
