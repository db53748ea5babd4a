"""The operator's commands, on a pipeline that boto3 creates in seconds."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from rich.console import Console

from tests.support.driver import RETRY_S, Driver
from tests.support.emulated_pipeline import FAILING, create_pipeline, lambda_zip, private_emulator, running
from xfarm.errors import UserError
from xfarm.operations import dead_letters, send, status
from xfarm.operations.pipeline import Counts, DeletedError, Pipeline, counts
from xfarm.operations.redrive import redrive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECEIVES = 1


def queue(name: str) -> tuple[str, str]:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Create a pipeline whose failing files are in the dead-letter queue within seconds."""
    with running(private_emulator(tmp_path_factory.mktemp("emulator"))) as emulator:
        pipeline = create_pipeline(visibility_s=60, max_receives=RECEIVES, code=lambda_zip(process=FAILING))
        Driver(emulator, pipeline).shorten_visibility_timeout()
        yield pipeline


@pytest.fixture
def quiet(pipeline: Pipeline, request: pytest.FixtureRequest) -> Pipeline:
    """Return a pipeline whose function gets no files, with folders, dead letters and logs for one test."""
    name = request.node.name[:80]  # the longest name in SQS ("Amazon SQS standard queue quotas")
    dead_url, dead_arn = queue(name)
    boto3.client("logs").create_log_group(logGroupName=name)
    return replace(
        pipeline,
        input_prefix=f"{name}/in/",
        output_prefix=f"{name}/out/",
        dead_letter_queue_arn=dead_arn,
        dead_letter_queue_url=dead_url,
        log_group_name=name,
    )


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(output: io.StringIO) -> Console:
    return Console(file=output, width=200, soft_wrap=True)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    return path


def put_document(pipeline: Pipeline, name: str, **document: Any) -> None:  # noqa: ANN401 - any JSON
    key = pipeline.input_prefix + name
    place, _ = send.places(pipeline, key)
    body = json.dumps({"key": key, **document}).encode()
    boto3.client("s3").put_object(Bucket=pipeline.bucket_name, Key=place, Body=body)


def put_dead_letter(pipeline: Pipeline, upload: send.Upload, uploaded: datetime) -> str:
    record = {
        "eventTime": uploaded.isoformat(),
        "s3": {"bucket": {"name": pipeline.bucket_name}, "object": {"key": upload.key, "eTag": upload.etag}},
    }
    body = json.dumps({"Records": [record]})
    return boto3.client("sqs").send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody=body)["MessageId"]


def log(pipeline: Pipeline, **facts: str) -> None:
    logs = boto3.client("logs")
    logs.create_log_stream(logGroupName=pipeline.log_group_name, logStreamName="stream")
    logs.put_log_events(
        logGroupName=pipeline.log_group_name,
        logStreamName="stream",
        logEvents=[
            {"timestamp": int(datetime.now(UTC).timestamp() * 1000), "message": message}
            for message in ("START RequestId: 1", json.dumps(facts))
        ],
    )


def test_each_file_of_a_folder_is_followed_to_its_result(
    pipeline: Pipeline, tmp_path: Path, console: Console, output: io.StringIO
) -> None:
    (tmp_path / "sub [x]").mkdir()
    (tmp_path / "a.csv").write_text("x\n1\n", encoding="utf-8")
    (tmp_path / "sub [x]" / "ü +%.txt").write_bytes(b"12345")
    send.send(pipeline, [tmp_path], console)
    assert sorted(output.getvalue().splitlines()) == [
        "a.csv -> outputs/a.csv.json (4 bytes, 1 row)",
        "sub [x]/ü +%.txt -> outputs/sub [x]/ü +%.txt.json (5 bytes)",
    ]
    sent = boto3.client("s3").head_object(Bucket=pipeline.bucket_name, Key="inputs/a.csv")
    assert sent["ContentType"] == "text/csv"


def test_a_file_that_fails_is_followed_to_the_dead_letter_queue_and_put_back(
    pipeline: Pipeline, tmp_path: Path, console: Console, output: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = status.health(pipeline).times
    paths = [tmp_path / "bad.csv", tmp_path / "good.csv"]
    for path in paths:
        path.write_text("x\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^1 of 2 ended in the dead-letter queue") as raised:
        send.send(pipeline, paths, console)
    assert "no result" not in str(raised.value)
    lines = output.getvalue().splitlines()
    assert lines == [
        "good.csv -> outputs/good.csv.json (2 bytes, 0 rows)",
        "bad.csv -> xFarmDeadLetterSqs (RuntimeError: test failure)",
    ]

    dead_letters.show(pipeline, console, as_json=True)
    letters = json.loads(capsys.readouterr().out)
    assert [(letter["bucket"], letter["key"], letter["error"]) for letter in letters] == [
        (pipeline.bucket_name, "inputs/bad.csv", "RuntimeError: test failure")
    ]
    assert letters[0]["receives"] > RECEIVES
    dead_letters.show(pipeline, console, as_json=False)
    assert f"  s3://{pipeline.bucket_name}/inputs/bad.csv (message {letters[0]['message_id']})\n" in output.getvalue()

    state = status.health(pipeline)
    assert state.dead_letter_queue == Counts(waiting=1, in_flight=0)
    assert state.event_source_mapping == "Enabled"
    assert state.failed_attempts == RECEIVES
    assert state.causes == {"RuntimeError: test failure": RECEIVES}
    assert state.times
    assert (state.times.files, state.times.minutes) == (1 + (earlier.files if earlier else 0), 60)
    assert 0 < state.times.p50 <= state.times.p95 <= state.times.p99 < 600

    boto3.client("lambda").update_function_code(FunctionName=pipeline.function_name, ZipFile=lambda_zip())
    redrive(pipeline, console)
    assert output.getvalue().endswith("1 moved from xFarmDeadLetterSqs back to xFarmMainQueue.\n")
    [upload] = [each for each in input_objects(pipeline) if each.name == "bad.csv"]
    [arrival] = send.follow(pipeline, [upload], 60)
    assert arrival.document is not None
    assert arrival.document["rows"] == 0
    assert counts(pipeline.dead_letter_queue_url) == Counts(waiting=0, in_flight=0)


def input_objects(pipeline: Pipeline) -> list[send.Upload]:
    """Return the objects in the input folder, as if they had just been uploaded and had no results."""
    s3 = boto3.client("s3")
    return [
        send.Upload(
            name=item["Key"].removeprefix(pipeline.input_prefix),
            key=item["Key"],
            etag=item["ETag"].strip('"'),
            version_id=None,
            written=item["LastModified"],
            earlier=frozenset(),
        )
        for item in s3.list_objects_v2(Bucket=pipeline.bucket_name, Prefix=pipeline.input_prefix)["Contents"]
    ]


def test_the_result_of_an_earlier_upload_of_the_same_bytes_is_not_taken_for_this_one(
    quiet: Pipeline, rows: Path, console: Console
) -> None:
    [first] = send.upload(quiet, {"rows.csv": rows}, console)
    put_document(quiet, "rows.csv", etag=first.etag, version_id=None, sequencer="01")
    assert len(list(send.follow(quiet, [first], 0))) == 1
    [second] = send.upload(quiet, {"rows.csv": rows}, console)
    assert list(send.follow(quiet, [second], 0)) == []
    put_document(quiet, "rows.csv", etag=first.etag, version_id=None, sequencer="02")
    [arrival] = send.follow(quiet, [second], 0)
    assert arrival.document is not None
    assert arrival.document["sequencer"] == "02"


def test_the_result_of_other_bytes_is_not_taken_for_this_one(quiet: Pipeline, rows: Path, console: Console) -> None:
    [upload] = send.upload(quiet, {"rows.csv": rows}, console)
    put_document(quiet, "rows.csv", etag="another", version_id=None)
    assert list(send.follow(quiet, [upload], 0)) == []


def test_a_dead_letter_of_an_earlier_upload_is_not_taken_for_this_one(
    quiet: Pipeline, rows: Path, console: Console
) -> None:
    [upload] = send.upload(quiet, {"rows.csv": rows}, console)
    put_dead_letter(quiet, upload, upload.written - timedelta(seconds=1))
    assert list(send.follow(quiet, [upload], 0)) == []
    put_dead_letter(quiet, upload, upload.written)
    [arrival] = send.follow(quiet, [upload], 0)
    assert (arrival.document, arrival.error) == (None, dead_letters.NO_ERROR)


def test_each_file_without_a_result_is_listed_after_the_timeout(
    quiet: Pipeline,
    tmp_path: Path,
    console: Console,
    output: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("new", "failed", "deleted", "replaced"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    follow = send.follow

    def after_all(pipeline: Pipeline, uploads: list[send.Upload], timeout: float) -> Iterator[send.Arrival]:
        s3 = boto3.client("s3")
        s3.delete_object(Bucket=pipeline.bucket_name, Key=f"{pipeline.input_prefix}deleted")
        s3.put_object(Bucket=pipeline.bucket_name, Key=f"{pipeline.input_prefix}replaced", Body=b"newer")
        log(pipeline, outcome="failed", message_id="1", key=f"{pipeline.input_prefix}failed", error="broken")
        return follow(pipeline, uploads, timeout)

    monkeypatch.setattr(send, "follow", after_all)
    with pytest.raises(UserError, match=r"^4 of 4 had no result after 0\.01 s\. Nothing is lost"):
        send.send(quiet, [tmp_path], console, timeout=0.01)
    assert sorted(output.getvalue().splitlines()) == [
        "deleted -> no result (it was deleted, or replaced by a newer upload)",
        "failed -> no result yet (broken)",
        "new -> no result yet",
        "replaced -> no result (it was deleted, or replaced by a newer upload)",
    ]


def test_with_a_timeout_of_0_files_are_only_uploaded(
    quiet: Pipeline, rows: Path, console: Console, output: io.StringIO
) -> None:
    send.send(quiet, [rows], console, timeout=0)
    key = f"{quiet.input_prefix}rows.csv"
    assert output.getvalue() == f"rows.csv -> s3://{quiet.bucket_name}/{key}\n"
    assert boto3.client("s3").get_object(Bucket=quiet.bucket_name, Key=key)["Body"].read() == rows.read_bytes()


def test_an_interrupted_upload_ends_at_once_and_leaves_no_parts(
    quiet: Pipeline, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 * 1024 * 1024)  # eight parts, by boto3's default

    result = Future.result

    def interrupted(self: Future[object], timeout: float | None = None) -> object:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return result(self, timeout)

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        send.upload(quiet, {"large": large}, console)
    s3 = boto3.client("s3")
    assert "Contents" not in s3.list_objects_v2(Bucket=quiet.bucket_name, Prefix=quiet.input_prefix)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=quiet.bucket_name, Prefix=quiet.input_prefix)


def test_a_file_that_cannot_be_read_is_named(quiet: Pipeline, tmp_path: Path, console: Console) -> None:
    with pytest.raises(UserError, match="gone' can't be read: No such file or directory"):
        send.upload(quiet, {"gone": tmp_path / "gone"}, console)


def test_peek_returns_all_dead_letters_and_leaves_them(quiet: Pipeline) -> None:
    sqs = boto3.client("sqs")
    ids = {
        sqs.send_message(QueueUrl=quiet.dead_letter_queue_url, MessageBody=f"not from S3 {number}")["MessageId"]
        for number in range(25)
    }
    for receives in (1, 2):
        letters = dead_letters.peek(quiet)
        assert {letter.message_id for letter in letters} == ids
        assert {letter.receives for letter in letters} == {receives}
        assert counts(quiet.dead_letter_queue_url) == Counts(waiting=25, in_flight=0)


def test_dead_letters_are_visible_again_after_peek_fails(quiet: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3.client("sqs").send_message(QueueUrl=quiet.dead_letter_queue_url, MessageBody="x")

    def fail(_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(dead_letters, "read", fail)
    with pytest.raises(RuntimeError):
        dead_letters.peek(quiet)
    assert counts(quiet.dead_letter_queue_url) == Counts(waiting=1, in_flight=0)


def test_a_message_that_is_not_from_s3_is_shown(quiet: Pipeline, console: Console, output: io.StringIO) -> None:
    dead_letters.show(quiet, console, as_json=False)
    assert output.getvalue().endswith(" is empty.\n")
    sent = boto3.client("sqs").send_message(QueueUrl=quiet.dead_letter_queue_url, MessageBody="x")
    log(quiet, outcome="failed", message_id=sent["MessageId"], error_type="Odd", error="the body is \x1b[1mnot JSON")
    dead_letters.show(quiet, console, as_json=False)
    assert f"  not about a file (message {sent['MessageId']})\n" in output.getvalue()
    assert "  Odd: the body is \\x1b[1mnot JSON\n" in output.getvalue()


def test_a_redrive_of_an_empty_queue_says_so(quiet: Pipeline, console: Console, output: io.StringIO) -> None:
    redrive(quiet, console)
    assert output.getvalue() == f"Nothing to redrive: {quiet.dead_letter_queue_name} has no messages.\n"


def test_messages_in_flight_are_not_redriven(quiet: Pipeline, console: Console, output: io.StringIO) -> None:
    sqs = boto3.client("sqs")
    sqs.send_message(QueueUrl=quiet.dead_letter_queue_url, MessageBody="x")
    sqs.receive_message(QueueUrl=quiet.dead_letter_queue_url, VisibilityTimeout=600)
    redrive(quiet, console)
    assert "has no messages, but 1 may be in flight" in output.getvalue()


def test_a_file_is_followed_for_the_time_of_one_retry(quiet: Pipeline) -> None:
    (function_timeout_s,) = {
        boto3.client("lambda").get_function_configuration(FunctionName=quiet.function_name)["Timeout"]
    }
    assert send.one_retry(quiet) == RETRY_S + function_timeout_s == 70


def test_status_shows_the_subscription_for_alarms_and_what_to_do(quiet: Pipeline) -> None:
    sns = boto3.client("sns")
    topic = sns.create_topic(Name="Mailed")["TopicArn"]
    mailed = replace(quiet, alarm_topic_arn=topic, alarm_email="ops@example.org")

    def line(pipeline: Pipeline) -> list[str]:
        output = io.StringIO()
        status.show("local", {}, pipeline, Console(file=output, width=300), as_json=False)
        return [line for line in output.getvalue().splitlines() if line.startswith("Mailed")]

    assert line(quiet) == []
    (gone,) = line(mailed)
    assert "ops@example.org has not confirmed the subscription, or has ended it" in gone
    assert "'xfarm deploy local --refresh'" in gone
    arn = sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="ops@example.org", ReturnSubscriptionArn=True)[
        "SubscriptionArn"
    ]
    assert status.health(mailed).alarm_email == "pending"
    (pending,) = line(mailed)
    assert "mails nothing yet: ops@example.org must follow the link in AWS's mail" in pending
    sns.confirm_subscription(TopicArn=topic, Token=arn.rpartition(":")[2])
    (confirmed,) = line(mailed)
    assert "mails alarms to ops@example.org" in confirmed


def test_a_bucket_that_was_deleted_by_hand_is_missing(quiet: Pipeline) -> None:
    with pytest.raises(DeletedError):
        status.health(replace(quiet, bucket_name="deleted-by-hand"))


def test_a_metric_without_values_is_unknown(quiet: Pipeline) -> None:
    state = status.health(replace(quiet, function_name="never-called", main_queue_url=quiet.dead_letter_queue_url))
    assert (state.oldest_message_s, state.errors, state.throttles) == (None, None, None)


def test_errors_are_those_of_the_last_hour_and_the_age_is_the_newest(quiet: Pipeline) -> None:
    now = datetime.now(UTC)
    function, queue_name = "measured", quiet.dead_letter_queue_name

    def put(namespace: str, metric: str, dimension: tuple[str, str], *values: tuple[int, float]) -> None:
        for minutes, value in values:
            boto3.client("cloudwatch").put_metric_data(
                Namespace=namespace,
                MetricData=[
                    {
                        "MetricName": metric,
                        "Dimensions": [{"Name": dimension[0], "Value": dimension[1]}],
                        "Timestamp": now - timedelta(minutes=minutes),
                        "Value": value,
                    }
                ],
            )

    put("AWS/Lambda", "Errors", ("FunctionName", function), (2, 1), (50, 2), (70, 4))
    put("AWS/Lambda", "Throttles", ("FunctionName", function), (2, 0))
    put("AWS/SQS", "ApproximateAgeOfOldestMessage", ("QueueName", queue_name), (20, 9), (8, 30), (3, 90))
    measured = replace(quiet, function_name=function, main_queue_url=quiet.dead_letter_queue_url)
    state = status.health(measured)
    assert (state.oldest_message_s, state.errors, state.throttles) == (90, 3, 0)


def test_an_old_value_does_not_count_as_the_present_age(quiet: Pipeline) -> None:
    boto3.client("cloudwatch").put_metric_data(
        Namespace="AWS/SQS",
        MetricData=[
            {
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": quiet.dead_letter_queue_name}],
                "Timestamp": datetime.now(UTC) - timedelta(minutes=20),
                "Value": 9,
            }
        ],
    )
    assert status.health(replace(quiet, main_queue_url=quiet.dead_letter_queue_url)).oldest_message_s is None
