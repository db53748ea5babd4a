"""The operator's commands, without AWS."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from xfarm.errors import UserError
from xfarm.operations import dead_letters, redrive, reprocess, send, status
from xfarm.operations.pipeline import Counts, Pipeline, deployed, key_of, number_of, printable, shell_word
from xfarm.paths import ROOT

EXPORTS: dict[str, dict[str, Any] | None] = {
    "storage": {"bucket_name": "bucket", "bucket_arn": "x", "input_prefix": "inputs/", "output_prefix": "outputs/"},
    "messaging": {
        "main_queue_url": "https://sqs.eu-west-1.amazonaws.com/1/main",
        "dead_letter_queue_arn": "arn:aws:sqs:eu-west-1:1:dead",
        "dead_letter_queue_url": "https://sqs.eu-west-1.amazonaws.com/1/dead",
        "alarm_topic_arn": "arn:aws:sns:eu-west-1:1:alarms",
    },
    "compute": {"function_name": "function", "log_group_name": "logs", "event_source_mapping_id": "id"},
}
PIPELINE = deployed("dev", EXPORTS)
WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UPLOAD = send.Upload(
    name="a b.csv", key="inputs/a b.csv", etag="e1", version_id=None, written=WRITTEN, earlier=frozenset()
)


# The deployed pipeline


def test_a_pipeline_consists_of_the_stacks_outputs() -> None:
    assert (PIPELINE.stack, PIPELINE.bucket_name, PIPELINE.function_name) == ("dev", "bucket", "function")
    assert (PIPELINE.main_queue_name, PIPELINE.dead_letter_queue_name) == ("main", "dead")


@pytest.mark.parametrize("absent", [None, {}])
def test_the_error_names_the_stacks_that_are_not_deployed_and_the_command(absent: dict[str, Any] | None) -> None:
    with pytest.raises(UserError, match=r"no messaging and no compute: deploy it with 'xfarm deploy dev'"):
        deployed("dev", EXPORTS | {"messaging": absent, "compute": absent})


def test_nothing_is_named_where_nothing_is_deployed() -> None:
    with pytest.raises(UserError, match=r"^'dev' is not deployed: deploy it with 'xfarm deploy dev'\.$"):
        deployed("dev", dict.fromkeys(EXPORTS))


@pytest.mark.parametrize("text", ["inputs/ä b", "s3://bucket/inputs/ä b"])
def test_a_key_may_be_given_as_the_url_that_commands_print(text: str) -> None:
    assert key_of(PIPELINE, text) == "inputs/ä b"


def test_a_url_of_another_bucket_is_refused() -> None:
    with pytest.raises(UserError, match=r"'s3://other/a' is not in the bucket of 'dev', which is s3://bucket/\."):
        key_of(PIPELINE, "s3://other/a")


def test_the_bucket_alone_is_the_prefix_of_all_keys() -> None:
    assert key_of(PIPELINE, "s3://bucket") == ""


@pytest.mark.parametrize("key", ["inputs/a b", "inputs/it's", "inputs/new\nline\t", "inputs/\x1b\u0085'\\", "inputs/ä"])
def test_a_key_is_printed_as_a_word_that_a_shell_reads_as_that_key(key: str) -> None:
    word = shell_word(key)
    assert word.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
    )
    assert done.stdout.decode() == key


@pytest.mark.parametrize("missing", ["get_queue_attributes", "get_function_configuration", "get_event_source_mapping"])
def test_nothing_is_sent_to_a_pipeline_of_which_a_part_was_deleted(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ClientError({"Error": {"Code": "ResourceNotFoundException"}}, missing)
    client = MagicMock(spec=["get_queue_attributes", "get_function_configuration", "get_event_source_mapping"])
    getattr(client, missing).side_effect = error
    monkeypatch.setattr(boto3, "client", Mock(return_value=client))
    (tmp_path / "a").touch()
    for operation in (
        lambda: send.send(PIPELINE, [tmp_path], Console(quiet=True)),
        lambda: redrive.redrive(PIPELINE, Console(quiet=True)),
        lambda: reprocess.reprocess(PIPELINE, Console(quiet=True), source=tmp_path / "a"),
    ):
        with pytest.raises(ClientError):
            operation()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no."), ClientError({}, "SendMessageBatch")])
def test_reprocessing_that_ends_early_says_how_to_go_on(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text("inputs/a\ninputs/b\ninputs/c\n", encoding="utf-8")
    monkeypatch.setattr(boto3, "client", MagicMock())
    monkeypatch.setattr(reprocess, "require_working", Mock())
    monkeypatch.setattr(reprocess, "counts", Mock(return_value=Counts(waiting=0, in_flight=0)))
    monkeypatch.setattr(reprocess, "message_about", Mock(return_value="{}"))
    monkeypatch.setattr(reprocess, "send_batch", Mock(side_effect=[None, None, error]))
    output = io.StringIO()
    with pytest.raises((UserError, ClientError)) as raised:
        reprocess.reprocess(PIPELINE, Console(file=output, width=200), source=tmp_path / "keys", rate=1.5)
    said = output.getvalue() + str(raised.value)
    assert "2 sent: to go on, run the same command with --after inputs/b." in said


def test_a_list_with_a_key_elsewhere_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("inputs/a\nelsewhere/b\n", encoding="utf-8")
    with pytest.raises(UserError, match="'elsewhere/b' is not in 'inputs/'"):
        reprocess.reprocess(PIPELINE, Console(quiet=True), source=tmp_path / "keys")  # without AWS


def test_the_error_names_an_output_that_an_older_deployment_lacks() -> None:
    with pytest.raises(UserError, match=r"no log_group_name: deploy it"):
        deployed("dev", EXPORTS | {"compute": {"function_name": "function", "event_source_mapping_id": "id"}})


def test_the_address_for_alarms_is_optional_as_version_0_1_0_does_not_export_it() -> None:
    assert PIPELINE.alarm_email == ""
    messaging = (EXPORTS["messaging"] or {}) | {"alarm_email": "ops@example.org"}
    assert deployed("dev", EXPORTS | {"messaging": messaging}).alarm_email == "ops@example.org"


@pytest.mark.parametrize("kind", ["fifo", "broken link", "link to a folder"])
def test_nothing_in_a_folder_is_passed_over_in_silence(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.csv").touch()
    if kind == "fifo":
        os.mkfifo(folder / "odd")
    else:
        (folder / "odd").symlink_to(tmp_path if kind == "link to a folder" else tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"odd' is neither a file nor a folder, .* or a device: remove it, or name"):
        send.find([folder])
    if kind != "link to a folder":
        with pytest.raises(UserError, match=r"odd' is neither a file nor a folder, .* or a device: name the files"):
            send.find([folder / "odd"])


# Files to send


def test_the_names_of_a_folders_files_do_not_include_the_folders_own(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b").touch()
    (tmp_path / "a").touch()
    (tmp_path / "single").touch()
    assert send.find([tmp_path / "deep", tmp_path / "single"]) == {
        "er/b": tmp_path / "deep" / "er" / "b",
        "single": tmp_path / "single",
    }


def test_an_empty_folder_or_missing_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "emptier").mkdir(parents=True)
    with pytest.raises(UserError, match="contains no files"):
        send.find([tmp_path / "empty"])
    with pytest.raises(UserError, match="no file or folder"):
        send.find([tmp_path / "missing"])


def test_two_files_with_the_same_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").touch()
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="would both be named 'a'"):
        send.find([tmp_path / "deep", tmp_path / "a"])


def test_a_file_that_is_named_twice_is_sent_once(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert send.find([tmp_path / "a", tmp_path / "a", tmp_path]) == {"a": tmp_path / "a"}


def test_a_name_that_is_too_long_is_refused_in_a_short_sentence() -> None:
    with pytest.raises(UserError) as refusal:
        send.find([Path("x" * 5000)])
    assert len(str(refusal.value)) < 400


def test_a_file_that_is_deleted_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(folder: Path, **_: object) -> list[tuple[str, list[str], list[str]]]:
        return [(str(folder), [], ["gone"])]

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(UserError, match=r"gone' can't be read: No such file or directory\."):
        send.find([tmp_path])


def test_a_url_is_not_taken_for_a_file() -> None:
    with pytest.raises(UserError, match=r"^'s3://bucket/inputs/a' is no file of this machine: 'xfarm reprocess' "):
        send.find([Path("s3://bucket/inputs/a")])


def test_a_folder_without_permissions_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "a").touch()
    monkeypatch.setattr(Path, "lstat", refuse)  # root may do anything
    with pytest.raises(UserError, match=r"/a' can't be read: Permission denied\."):
        send.find([tmp_path])


def test_a_name_is_read_as_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "Łódź.txt").touch()
    program = (
        "import sys; from pathlib import Path; from xfarm.operations.send import find; "
        "print(ascii(find([Path(sys.argv[1])])))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=kept | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ascii("Łódź.txt") in done.stdout, done.stderr


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff")).touch()
    except OSError:
        pytest.skip("this file system accepts only UTF-8")
    with pytest.raises(UserError, match="not UTF-8"):
        send.find([tmp_path])


# Which result and which dead letter belong to an upload


@pytest.mark.parametrize(
    ("document", "belongs"),
    [
        ({"key": UPLOAD.key, "etag": "e1", "version_id": None}, True),
        ({"key": "a b.csv", "etag": "e1", "version_id": None}, False),
        ({"key": UPLOAD.key, "etag": "e2", "version_id": None}, False),
        ({"key": UPLOAD.key, "etag": "e1", "version_id": "v1"}, False),
        ({}, False),
    ],
)
def test_a_result_belongs_to_an_upload_by_key_etag_and_version(document: dict[str, Any], belongs: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert send.is_of(document, UPLOAD) is belongs


LETTER = dead_letters.DeadLetter(
    message_id="m", sent=WRITTEN, receives=3, bucket="bucket", key=UPLOAD.key, etag="e1", uploaded=WRITTEN
)


@pytest.mark.parametrize(
    ("letter", "belongs"),
    [
        (LETTER, True),
        (replace(LETTER, key="inputs/b"), False),
        (replace(LETTER, etag="e2"), False),
        (replace(LETTER, version_id="v1"), False),
        (replace(LETTER, uploaded=WRITTEN - timedelta(milliseconds=1)), False),
        (replace(LETTER, uploaded=None), False),
    ],
)
def test_a_dead_letter_belongs_to_an_upload_by_key_etag_version_and_time(
    letter: dead_letters.DeadLetter,
    belongs: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert send.is_about(letter, UPLOAD) is belongs


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1000, "1,000 files")])
def test_a_noun_is_in_the_singular_only_after_1(count: int, text: str) -> None:
    assert number_of(count, "file") == text


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "NotFound"])
def test_a_pipeline_that_is_partly_destroyed_has_a_status(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def client(_service: str) -> Any:  # noqa: ANN401 - any client
        client = Mock()
        error = ClientError({"Error": {"Code": code, "Message": "no such thing"}}, "GetEventSourceMapping")
        client.get_event_source_mapping.side_effect = error
        return client

    monkeypatch.setattr("boto3.client", client)
    text = io.StringIO()
    stacks = {"storage": status.StackState(resources=5, updated="2026-11-26T09:30:00.123456789+01:00")}
    assert not status.show("dev", stacks, PIPELINE, Console(file=text, width=500), as_json=False)
    assert re.search("storage +5 +2026-11-26 08:30:00 UTC\n", text.getvalue())
    assert text.getvalue().splitlines()[-1].startswith("a part of 'dev' does not exist in AWS, because")
    with pytest.raises(UserError, match=r"'xfarm drift dev' shows which, 'xfarm deploy dev --refresh' creates it"):
        status.health(PIPELINE)  # of the page


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"size": 0, "rows": 0}, "0 bytes, 0 rows"),
        ({"size": 1_500_000, "rows": 1}, "1.5 MB, 1 row"),
        (
            {"size": 5, "rows": None, "malformed": {"line": 3, "reason": "not CSV"}},
            "5 bytes, malformed at line 3: not CSV",
        ),
        (
            {"size": 9, "rows": 2000, "rows_with_fewer_fields": 1000, "rows_with_more_fields": 1},
            "9 bytes, 2,000 rows, 1,000 with fewer fields, 1 with more fields",
        ),
        (
            {"size": 9, "rows": 2, "rows_with_fewer_fields": 0, "duplicate_columns": ["a", "b"]},
            "9 bytes, 2 rows, columns named more than once: a, b",
        ),
        ({"whatever": "another process.py says"}, ""),
    ],
)
def test_a_document_is_summarized(document: dict[str, Any], words: str) -> None:
    assert send.in_brief(document) == words


# Messages and logs


def message(body: str) -> Any:  # noqa: ANN401 - a type from boto3's stubs
    return {
        "MessageId": "m",
        "Body": body,
        "Attributes": {"SentTimestamp": "1767323045000", "ApproximateReceiveCount": "3"},
    }


def test_a_dead_letter_has_the_facts_of_s3s_event() -> None:
    record = {
        "eventTime": "2026-01-02T03:04:05.678Z",
        "s3": {"bucket": {"name": "bucket"}, "object": {"key": "inputs/a+b%2B.csv", "eTag": "e1", "versionId": "v1"}},
    }
    assert dead_letters.read(message(json.dumps({"Records": [record]}))) == dead_letters.DeadLetter(
        message_id="m",
        sent=WRITTEN,
        receives=3,
        bucket="bucket",
        key="inputs/a b+.csv",
        etag="e1",
        version_id="v1",
        uploaded=WRITTEN + timedelta(milliseconds=678),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Records", "s3", "object", "bucket", "eventTime", "key"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def entity(**facts: Any) -> str:  # noqa: ANN401 - any JSON
    record = {"eventTime": "2026-01-02T03:04:05Z", "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}, **facts}
    return json.dumps({"Records": [record]})


@given(JSON.map(json.dumps) | st.text())
@example(entity(s3={"bucket": {"name": "b"}, "object": {"key": 1}}))
@example(entity(eventTime="yesterday"))
@example(entity(eventTime=0))
@example("[" * 100_000)
def test_any_message_can_be_read_as_a_dead_letter(body: str) -> None:
    letter = dead_letters.read(message(body))
    assert (letter.message_id, letter.sent, letter.receives) == ("m", WRITTEN, 3)


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        (
            '{"outcome": "failed", "message_id": "m", "key": "k", "error": "e", "error_type": "T"}',
            dead_letters.Failure(message_id="m", key="k", error="T: e"),
        ),
        (
            '{"outcome": "failed", "message_id": "m", "key": "k", "error": "e", "error_type": "T", "reason": "r"}',
            dead_letters.Failure(message_id="m", key="k", error="r: e"),
        ),
        (
            '{"outcome": "failed", "message_id": "m", "error": "e"}',
            dead_letters.Failure(message_id="m", key=None, error="e"),
        ),
        ('{"outcome": "processed", "message_id": "m", "error": "e"}', None),
        ('{"outcome": "failed", "message_id": null, "error": "e"}', None),
        ("START RequestId: 1", None),
        ("[]", None),
    ],
)
def test_a_failed_attempt_is_read_from_the_log(line: str, failure: dead_letters.Failure | None) -> None:
    assert dead_letters.read_log(line) == failure


def test_an_event_time_without_a_zone_is_utc() -> None:
    letter = dead_letters.read(message(entity(eventTime="2026-01-02T03:04:05")))
    assert letter.uploaded == WRITTEN


def test_control_characters_are_escaped_for_the_terminal() -> None:
    assert printable("Łódź \x1b[31m+\r\n") == r"Łódź \x1b[31m+\r\n"


def test_an_unknown_number_is_not_shown_as_0() -> None:
    assert status.unknown(None) == "unknown"
    assert status.unknown(0) == "0"
    assert status.unknown(1.5, " s") == "1.5 s"


# Redrives, with a stub that checks requests and responses against boto3's model of SQS


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    client = boto3.client("sqs", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")

    def only_client(service: str) -> object:
        assert service == "sqs"
        return client

    monkeypatch.setattr(boto3, "client", only_client)
    monkeypatch.setattr(redrive, "PAUSE_S", 0)
    monkeypatch.setattr(redrive, "require_working", Mock())
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def expect_counts(sqs: Stubber, waiting: int) -> None:
    attributes = {"ApproximateNumberOfMessages": str(waiting), "ApproximateNumberOfMessagesNotVisible": "0"}
    sqs.add_response("get_queue_attributes", {"Attributes": attributes})


def expect_tasks(sqs: Stubber, *tasks: dict[str, Any]) -> None:
    sqs.add_response("list_message_move_tasks", {"Results": list(tasks)}, {"SourceArn": PIPELINE.dead_letter_queue_arn})


def expect_start(sqs: Stubber) -> None:
    queues = {"SourceArn": PIPELINE.dead_letter_queue_arn, "DestinationArn": "arn:aws:sqs:eu-west-1:1:main"}
    sqs.add_response("start_message_move_task", {"TaskHandle": "h"}, queues)


def task(started: int, state: str, moved: int, **more: str) -> dict[str, Any]:
    return {
        "StartedTimestamp": started,
        "Status": state,
        "ApproximateNumberOfMessagesMoved": moved,
        "ApproximateNumberOfMessagesToMove": 3,
        **more,
    }


@pytest.fixture
def run() -> Callable[[Pipeline], str]:
    def run(pipeline: Pipeline) -> str:
        output = io.StringIO()
        redrive.redrive(pipeline, Console(file=output, width=200))
        return output.getvalue()

    return run


def test_a_redrive_is_followed_to_its_end(sqs: Stubber, run: Callable[[Pipeline], str]) -> None:
    expect_counts(sqs, 3)
    expect_tasks(sqs)
    expect_start(sqs)
    expect_tasks(sqs)
    expect_tasks(sqs, task(1, "RUNNING", 1))
    expect_tasks(sqs, task(1, "COMPLETED", 3))
    assert run(PIPELINE) == "3 moved from dead back to main.\n"


def test_an_earlier_redrive_is_not_taken_for_this_one(sqs: Stubber, run: Callable[[Pipeline], str]) -> None:
    expect_counts(sqs, 2)
    expect_tasks(sqs, task(1, "COMPLETED", 3))
    expect_start(sqs)
    expect_tasks(sqs, task(1, "COMPLETED", 3))
    expect_tasks(sqs, task(2, "COMPLETED", 2))
    assert run(PIPELINE) == "2 moved from dead back to main.\n"


def test_a_redrive_that_is_already_running_is_followed(sqs: Stubber, run: Callable[[Pipeline], str]) -> None:
    expect_counts(sqs, 0)
    expect_tasks(sqs, task(1, "RUNNING", 1))
    expect_tasks(sqs, task(1, "RUNNING", 2))
    expect_tasks(sqs, task(1, "COMPLETED", 3))
    assert run(PIPELINE) == "A redrive is running already.\n3 moved from dead back to main.\n"


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_a_redrive_that_sqs_stops_is_an_error(sqs: Stubber, run: Callable[[Pipeline], str], state: str) -> None:
    expect_counts(sqs, 3)
    expect_tasks(sqs)
    expect_start(sqs)
    expect_tasks(sqs, task(1, state, 1, FailureReason="AccessDenied"))
    with pytest.raises(
        UserError, match=f"is {state} after 1 messages: AccessDenied. The others are still in the dead-letter queue"
    ):
        run(PIPELINE)


def test_a_redrive_whose_state_may_not_be_read_fails(sqs: Stubber, run: Callable[[Pipeline], str]) -> None:
    expect_counts(sqs, 3)
    sqs.add_client_error("list_message_move_tasks", "AccessDenied")
    with pytest.raises(ClientError, match="AccessDenied"):
        run(PIPELINE)
