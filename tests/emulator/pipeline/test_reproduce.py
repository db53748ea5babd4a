"""What the function does with a file is done again on this machine, by its own code."""

import hashlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import lambda_function
import process
import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.emulated_pipeline import ACCOUNTS, FAILING, create_pipeline, lambda_zip
from tests.support.waiting import eventually
from xfarm.emulator.server import Emulator
from xfarm.errors import UserError
from xfarm.operations import dead_letters, reproduce
from xfarm.operations.pipeline import counts

ROWS = b"n\n1\n2\n"


@pytest.fixture(scope="module")
def driver(emulator: Emulator) -> Iterator[Driver]:
    """Create a pipeline, shared by all tests here, whose function fails for "bad" files, once each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("AWS_ACCESS_KEY_ID", str(next(ACCOUNTS)))
        code = lambda_zip(process=FAILING)
        driver = Driver(emulator, create_pipeline(visibility_s=60, max_receives=1, code=code))
        driver.shorten_visibility_timeout()
        yield driver
        driver.remove()


@pytest.fixture(autouse=True)
def _as_in_a_new_process(
    driver: Driver,  # noqa: ARG001 - sets the account
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "lambda_function", lambda_function)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("INPUT_PREFIX", "OUTPUT_PREFIX"):
        monkeypatch.setenv(name, f"{name}/")
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, handler)  # of the module that other tests have imported


def failing(source: process.Source, body: Any) -> Any:  # noqa: ANN401 - as `process`
    if "bad" in source.key:
        raise RuntimeError("test failure")
    return as_shipped(source, body)


as_shipped = process.process


def shown(driver: Driver, what: str, *, debug: bool = False) -> str:
    output = io.StringIO()
    reproduce.reproduce(driver.pipeline, what, Console(file=output, width=300, soft_wrap=True), debug=debug)
    return output.getvalue()


def objects(driver: Driver) -> dict[str, str]:
    """Return the ETag of each object in the bucket."""
    listed = boto3.client("s3").list_object_versions(Bucket=driver.pipeline.bucket_name)
    return {f"{each['Key']} {each['VersionId']}": each["ETag"] for each in listed.get("Versions", [])}


def stored(driver: Driver, name: str) -> str:
    """Upload a file that was not there before, wait for its result, and return its key."""
    assert name not in driver.results()
    driver.upload({name: ROWS})
    eventually(lambda: name in driver.results())
    return driver.pipeline.input_prefix + name


def dead_letter(driver: Driver, body: str) -> str:
    """Put a message into the dead-letter queue, and return its id."""
    return boto3.client("sqs").send_message(QueueUrl=driver.pipeline.dead_letter_queue_url, MessageBody=body)[
        "MessageId"
    ]


def test_the_result_of_the_same_code_is_equal_and_nothing_is_written(driver: Driver) -> None:
    key = stored(driver, "a & ä.csv")
    before = objects(driver)
    text = shown(driver, key)
    assert f"Processing s3://{driver.pipeline.bucket_name}/{key} (6 bytes).\n" in text
    assert text.endswith("Equal to the stored result. Nothing was written.\n")
    assert "the time limit (60 s there)" in text
    assert "the memory (1024 MB there)" in text
    assert objects(driver) == before


def test_the_test_message_of_s3_has_nothing_to_process(driver: Driver) -> None:
    message = dead_letter(driver, json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}))
    letters = [each for each in dead_letters.peek(driver.pipeline) if each.message_id == message]
    assert dead_letters.last_errors(driver.pipeline, letters) == {message: dead_letters.NO_FILE}
    assert shown(driver, message).endswith("The function has no work to do (test_event).\n")
    boto3.client("sqs").purge_queue(QueueUrl=driver.pipeline.dead_letter_queue_url)


def test_what_another_process_makes_different_is_named(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(source: process.Source, body: Any) -> Any:  # noqa: ANN401 - as `process`
        return as_shipped(source, body) | {"rows": 7, "new\x1b": "x"}

    key = stored(driver, "changed.csv")
    before = objects(driver)
    monkeypatch.setattr(process, "process", changed)
    text = shown(driver, key)
    assert text.endswith("Different from the stored result: rows, new\\x1b. Nothing was written.\n")
    (rows,) = [line for line in text.splitlines() if " rows " in line]
    assert [cell.strip() for cell in rows.strip("│").split("│")] == ["rows", "7", "2"]
    assert objects(driver) == before


def test_a_local_file_is_compared_with_the_result_of_its_name(driver: Driver, tmp_path: Path) -> None:
    stored(driver, "local.csv")
    local = tmp_path / "local.csv"
    local.write_bytes(ROWS)
    text = shown(driver, str(local))
    # `Driver.upload` names no type, as the others do by the file's name.
    assert text.endswith("Different from the stored result: content_type. Nothing was written.\n")
    local.write_bytes(b"n\n1\n")
    assert "etag, size, content_type, sha256, rows." in shown(driver, str(local))
    local.rename(tmp_path / "never sent.csv")
    assert shown(driver, str(tmp_path / "never sent.csv")).endswith("There is no stored result. Nothing was written.\n")


def test_a_failure_recurs_with_the_same_error(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.upload({"bad.csv": ROWS})
    key = f"{driver.pipeline.input_prefix}bad.csv"
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting)
    (letter,) = [letter for letter in dead_letters.peek(driver.pipeline) if letter.key == key]
    monkeypatch.setattr(process, "process", failing)
    same = r"the attempt failed with RuntimeError: test failure\. The function has logged the same error\."
    for what in (letter.message_id, letter.message_id[:8], key):
        output = io.StringIO()
        with pytest.raises(UserError, match=same):
            reproduce.reproduce(driver.pipeline, what, Console(file=output, width=300, soft_wrap=True))
        assert 'in failing\n    raise RuntimeError("test failure")\nRuntimeError: test failure\n' in output.getvalue()
    assert counts(driver.pipeline.dead_letter_queue_url).waiting == 1

    monkeypatch.setattr(process, "process", as_shipped)  # fixed
    assert shown(driver, letter.message_id).endswith("There is no stored result. Nothing was written.\n")


def test_what_takes_longer_than_lambda_allows_has_not_succeeded(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(source: process.Source, body: Any) -> Any:  # noqa: ANN401 - as `process`
        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + 61)
        return as_shipped(source, body)

    key = stored(driver, "slow.csv")
    monkeypatch.setattr(process, "process", slow)
    with pytest.raises(UserError, match=r"it took 61(\.\d+)? s here, and Lambda ends an attempt before 60 s: raise"):
        shown(driver, f"s3://{driver.pipeline.bucket_name}/{key}")


def test_a_failure_is_shown_without_a_log(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = replace(driver.pipeline, log_group_name="deleted")
    driver.upload({"bad too.csv": ROWS})
    monkeypatch.setattr(process, "process", failing)
    with pytest.raises(UserError, match=r"RuntimeError: test failure\. The function has logged no error of this file"):
        reproduce.reproduce(pipeline, f"{pipeline.input_prefix}bad too.csv", Console(file=io.StringIO()))


def test_the_debugger_starts_where_an_error_is_raised(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def post_mortem(traceback: Any) -> None:  # noqa: ANN401 - as in pdb
        while traceback.tb_next:
            traceback = traceback.tb_next
        places.append(traceback.tb_frame.f_code.co_name)

    places: list[str] = []
    driver.upload({"bad.csv": ROWS})
    monkeypatch.setattr(process, "process", failing)
    monkeypatch.setattr(reproduce.pdb, "post_mortem", post_mortem)
    with pytest.raises(UserError, match="test failure"):
        shown(driver, f"{driver.pipeline.input_prefix}bad.csv", debug=True)
    assert places == ["failing"]


def test_a_message_that_is_gone_is_found_in_the_log(driver: Driver) -> None:
    key = stored(driver, "from the log.csv")
    (line,) = eventually(lambda: [line for line in driver.logged() if line.get("key") == key])
    text = shown(driver, line["message_id"][:8])
    assert "The message is not in the dead-letter queue. The log says which file it was about." in text
    assert text.endswith("Equal to the stored result. Nothing was written.\n")


def test_a_message_that_s3_did_not_send_fails_as_in_lambda(driver: Driver) -> None:
    with pytest.raises(UserError, match=r"^the attempt failed with NotUnderstoodError: the body is not JSON\.$"):
        shown(driver, dead_letter(driver, "no event"))


def test_the_object_of_a_message_may_be_deleted(driver: Driver) -> None:
    body = reproduce.find_case(driver.pipeline, stored(driver, "deleted.csv")).body
    boto3.client("s3").delete_object(
        Bucket=driver.pipeline.bucket_name, Key=f"{driver.pipeline.input_prefix}deleted.csv"
    )
    with pytest.raises(UserError, match=r"/deleted\.csv does not exist any more\.$"):
        shown(driver, dead_letter(driver, body))


def test_a_folder_has_no_result(driver: Driver) -> None:
    key = f"{driver.pipeline.input_prefix}folder/"
    boto3.client("s3").put_object(Bucket=driver.pipeline.bucket_name, Key=key)
    assert shown(driver, key).endswith("It is a folder created in S3's console, which has no result.\n")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("inputs/\x1bnone", r"s3://bucket-\d+/inputs/\\x1bnone does not exist\.$"),
        ("a\x1b", r"^'a\\x1b' is not the key of a file, which begins with 'inputs/', nor a file on this machine, nor"),
        ("deadbeef", "^there is no message 'deadbeef' in xFarmDeadLetterSqs, and no line"),
        (".", "^'.' is not the key of a file"),
    ],
)
def test_what_does_not_exist_is_named(driver: Driver, what: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        shown(driver, what)


def test_an_id_that_several_messages_have_is_refused(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    url = driver.pipeline.dead_letter_queue_url
    for body in "ab":
        boto3.client("sqs").send_message(QueueUrl=url, MessageBody=body)
    monkeypatch.setattr(reproduce, "MESSAGE_ID", reproduce.re.compile(""))
    with pytest.raises(UserError, match=r"^the ids of several messages begin with '': [\w-]+, [\w-]+"):
        shown(driver, "")


def test_what_process_itself_writes_is_discarded_and_what_it_deletes_is_refused(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = stored(driver, "writing.csv")
    before = objects(driver)

    def writing(source: process.Source, body: Any) -> Any:  # noqa: ANN401 - as `process`
        s3 = boto3.client("s3")
        s3.put_object(Bucket=source.bucket, Key="thumbnail", Body=b"x")
        s3.upload_fileobj(io.BytesIO(b"x"), source.bucket, key)
        assert s3.head_object(Bucket=source.bucket, Key=key)["ContentLength"] == len(ROWS)
        if "DELETE" in os.environ:
            s3.delete_object(Bucket=source.bucket, Key=key)
        return as_shipped(source, body)

    monkeypatch.setattr(process, "process", writing)
    assert shown(driver, key).endswith("Equal to the stored result. Nothing was written.\n")
    monkeypatch.setenv("DELETE", "1")
    with pytest.raises(
        UserError, match="PermissionError: xfarm reproduce writes nothing to S3, so DeleteObject is ref"
    ):
        shown(driver, key)
    assert objects(driver) == before
    boto3.client("s3").put_object(Bucket=driver.pipeline.bucket_name, Key="written afterwards")
    assert len(objects(driver)) == len(before) + 1


def test_code_that_cannot_be_imported_is_shown(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = stored(driver, "imported.csv")
    monkeypatch.delattr(process, "process")
    with pytest.raises(UserError, match="the function's code can't be imported, so Lambda could not run it either"):
        shown(driver, key)
    assert "ImportError: cannot import name 'process'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"Variables": {"INPUT_PREFIX": "in/", "OUTPUT_PREFIX": "in/out/"}}, "can't be imported"),  # as they overlap
        (
            {"Error": {"Message": "kms:Decrypt denied"}},
            "may not read the function's environment variables: kms:Decrypt",
        ),
    ],
)
def test_the_functions_own_environment_is_used(
    driver: Driver, environment: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(parsed: dict[str, Any], **_: object) -> None:
        parsed["Environment"] = environment

    key = f"{driver.pipeline.input_prefix}environment {words}.csv"
    driver.upload({f"environment {words}.csv": ROWS})
    create: Any = boto3.client

    def client(service: str, **options: Any) -> Any:  # noqa: ANN401 - any client
        made: Any = create(service, **options)
        made.meta.events.register("after-call.lambda.GetFunctionConfiguration", answer)
        return made

    monkeypatch.setattr(boto3, "client", client)
    with pytest.raises(UserError, match=words):
        shown(driver, key)


def test_a_result_of_another_file_at_the_same_place_is_not_compared(driver: Driver) -> None:
    key = stored(driver, "another.csv")
    place = f"{driver.pipeline.output_prefix}another.csv.json"
    document = json.dumps({"key": "inputs/another"})
    boto3.client("s3").put_object(Bucket=driver.pipeline.bucket_name, Key=place, Body=document.encode())
    assert shown(driver, key).endswith("There is no stored result. Nothing was written.\n")


def test_a_version_is_read_where_the_bucket_keeps_them(driver: Driver, tmp_path: Path) -> None:
    driver.keep_versions()
    key = stored(driver, "version")
    assert shown(driver, key).endswith("Equal to the stored result. Nothing was written.\n")
    (tmp_path / "version").write_bytes(ROWS)
    assert "Different from the stored result: content_type. " in shown(driver, str(tmp_path / "version"))
    old = dead_letter(driver, reproduce.find_case(driver.pipeline, key).body)
    driver.upload({"version": b"newer"})
    assert "(5 bytes)" in shown(driver, key)
    text = shown(driver, old)
    assert "(6 bytes)" in text
    assert hashlib.sha256(ROWS).hexdigest() in text
