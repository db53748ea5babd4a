"""Starting and stopping the emulator, and what it keeps."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.handlers import set_list_objects_encoding_type_url

from tests.support.checkout import free_port
from tests.support.emulated_pipeline import create_pipeline, running
from tests.support.waiting import eventually
from xfarm.emulator.server import REGION, Emulator
from xfarm.errors import UserError
from xfarm.file_locks import share


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(tmp_path / "emulator", free_port())
    yield emulator
    emulator.stop()


def client(emulator: Emulator, service: str) -> Any:  # noqa: ANN401 - each service has its own type of client
    return boto3.client(  # pyrefly: ignore[no-matching-overload]
        service,
        endpoint_url=emulator.endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def process(emulator: Emulator) -> int:
    return int((emulator.directory / "lock").read_text().split()[0])


def test_it_starts_once_and_stops(emulator: Emulator) -> None:
    assert not emulator.running()
    emulator.start()
    first = process(emulator)
    emulator.start()
    assert emulator.running()
    assert process(emulator) == first
    emulator.stop()
    assert not emulator.running()
    emulator.stop()


def test_those_who_have_waited_for_its_end_are_not_taken_for_it(emulator: Emulator) -> None:
    emulator.start()
    emulator.stop()
    with (emulator.directory / "lock").open() as lock:
        share(lock)
        assert not emulator.running()


def test_it_keeps_objects_and_messages_when_it_is_stopped(emulator: Emulator) -> None:
    emulator.start()
    queue = client(emulator, "sqs").create_queue(QueueName="queue")["QueueUrl"]
    assert queue.startswith(emulator.endpoint)
    client(emulator, "sqs").send_message(QueueUrl=queue, MessageBody="still here")
    location = {"LocationConstraint": REGION}
    client(emulator, "s3").create_bucket(Bucket="bucket", CreateBucketConfiguration=location)
    client(emulator, "s3").put_object(Bucket="bucket", Key="key", Body=b"content")
    emulator.stop()
    emulator.start()
    (message,) = client(emulator, "sqs").receive_message(QueueUrl=queue)["Messages"]
    assert message["Body"] == "still here"
    assert client(emulator, "s3").get_object(Bucket="bucket", Key="key")["Body"].read() == b"content"


def test_it_listens_on_the_loopback_address_only_and_writes_to_its_folder_only(emulator: Emulator) -> None:
    emulator.start()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", emulator.port)) != 0
    assert {path.name for path in emulator.directory.iterdir()} == {"lock", "log", "tmp"}
    assert [path.name for path in (emulator.directory / "tmp").iterdir()] == [f"ministack-{emulator.port}.pid"]


def test_it_does_not_inherit_the_user_s_credentials(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    monkeypatch.setenv("DATABASE_PASSWORD", "real")
    environment = emulator.environment()
    assert "real" not in environment.values()
    assert [name for name in environment if name.startswith("AWS_")] == ["AWS_DEFAULT_REGION"]
    assert environment["HOME"] == str(emulator.directory)


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(emulator: Emulator) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", emulator.port))
        other.listen()
        with pytest.raises(UserError, match=rf"port {emulator.port} is taken.*GATEWAY_PORT"):
            emulator.start()
    emulator.start()


def test_one_folder_has_one_emulator(emulator: Emulator) -> None:
    emulator.start()
    other = Emulator(emulator.directory, free_port())
    with pytest.raises(UserError, match=rf"runs at port {emulator.port}.*GATEWAY_PORT={emulator.port}"):
        other.start()


def test_it_starts_after_another_was_killed(emulator: Emulator) -> None:
    emulator.directory.mkdir()
    (emulator.directory / "lock").write_text(f"{os.getpid()} {emulator.port}")
    assert not emulator.running()
    emulator.start()
    assert process(emulator) != os.getpid()


def test_files_are_processed_when_it_starts_again_at_another_port(emulator: Emulator) -> None:
    with running(emulator):
        pipeline = create_pipeline(visibility_s=60)
    with running(replace(emulator, port=free_port())):
        s3, bucket = boto3.client("s3"), pipeline.bucket_name
        s3.put_object(Bucket=bucket, Key="inputs/a.csv", Body=b"a\n1\n")
        eventually(lambda: s3.list_objects_v2(Bucket=bucket, Prefix="outputs/")["KeyCount"])
        assert boto3.client("sqs").create_queue(QueueName=pipeline.main_queue_name)["QueueUrl"] == (
            pipeline.main_queue_url
        )


def test_it_is_found_at_the_port_that_it_was_started_with(emulator: Emulator) -> None:
    asked_for = replace(emulator, port=free_port())
    assert asked_for.current() is None
    emulator.start()
    assert asked_for.current() == emulator


@pytest.mark.parametrize("deleted", ["", "lock"])
def test_it_ends_when_its_folder_is_deleted_and_another_starts_at_its_port(emulator: Emulator, deleted: str) -> None:
    emulator.start()
    first, path = process(emulator), emulator.directory / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    emulator.start()
    assert process(emulator) != first
    assert emulator.running()


def test_it_is_found_if_the_command_that_started_it_was_killed_at_once(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def start_and_die(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - those of `Popen`
        popen(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", start_and_die)
        if not (fork := os.fork()):
            try:
                emulator.start()
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == -signal.SIGKILL
    emulator.start()
    assert emulator.running()
    emulator.stop()
    assert not emulator.running()


def test_it_saves_its_data_in_the_new_place_and_ends_if_its_folder_is_moved(emulator: Emulator) -> None:
    emulator.start()
    queue = client(emulator, "sqs").create_queue(QueueName="queue")["QueueUrl"]
    moved = replace(emulator, directory=emulator.directory.rename(emulator.directory.with_name("moved")))
    eventually(lambda: not moved.running())
    assert not emulator.directory.exists()
    with running(moved):
        assert client(moved, "sqs").list_queues()["QueueUrls"] == [queue]
        assert not moved.unsaved.exists()


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process, which has a process group of its own."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def test_it_is_stopped_only_once_the_command_that_starts_it_has_recorded_its_process(
    emulator: Emulator, other_process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    kill, recorded, looked = os.kill, Emulator._recorded, Event()  # noqa: SLF001 - to know that it looks

    def record(process: int, number: int) -> None:
        killed.append(process)
        if process == other_process.pid:  # 0 would be the process group of this test
            kill(process, number)

    def look(emulator: Emulator) -> tuple[int, int]:
        found = recorded(emulator)
        looked.set()
        return found

    monkeypatch.setattr(os, "kill", record)
    monkeypatch.setattr(Emulator, "_recorded", look)
    emulator.directory.mkdir()
    path = emulator.directory / "lock"
    with path.open("a") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stopping = pool.submit(emulator.stop)
        looked.wait()
        path.write_text(f"{other_process.pid} {emulator.port}")
        other_process.wait()
        fcntl.flock(lock, fcntl.LOCK_UN)
        stopping.result()
    assert killed == [other_process.pid]


def test_a_start_forgets_the_process_of_the_last_one_before_it_waits_for_its_port(
    emulator: Emulator, other_process: subprocess.Popen[bytes]
) -> None:
    emulator.directory.mkdir()
    (emulator.directory / "lock").write_text(f"{other_process.pid} {emulator.port}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", emulator.port))
        taken.listen()
        with pytest.raises(UserError, match="is taken by another program"):
            emulator.start()
    assert (emulator.directory / "lock").read_text() == ""
    assert emulator.unsaved.exists()


def test_whether_it_ended_without_saving_is_known_at_the_next_start(emulator: Emulator) -> None:
    emulator.start()
    emulator.stop()
    emulator.start()
    os.kill(process(emulator), signal.SIGTERM)  # as when the machine shuts down
    eventually(lambda: not emulator.running())
    emulator.start()
    assert not emulator.unsaved.exists()
    os.kill(process(emulator), signal.SIGKILL)
    eventually(lambda: not emulator.running())
    emulator.start()
    assert emulator.unsaved.exists()


def test_the_end_of_its_log_is_shown_if_it_dies_at_once(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xfarm.emulator.server._PROGRAM", Path("/not/there.py"))
    with pytest.raises(UserError, match=r"ended at once.*\n.*/not/there\.py"):
        emulator.start()


@pytest.mark.parametrize("parameters", [{}, {"Prefix": "a\x01"}, {"MaxKeys": 2}, {"Delimiter": "\x01"}])
def test_a_listing_of_versions_has_keys_that_xml_cannot_hold(emulator: Emulator, parameters: dict[str, Any]) -> None:
    emulator.start()
    s3 = client(emulator, "s3")
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    keys = ["a\x01\x1f", "a\x01\r\nb\t", "a\x01\ufffe+ %26&amp;<é>"]
    for key in keys:
        s3.put_object(Bucket="bucket", Key=key, Body=b"")
    pages = list(s3.get_paginator("list_object_versions").paginate(Bucket="bucket", **parameters))
    if "Delimiter" in parameters:
        assert [each["Prefix"] for page in pages for each in page["CommonPrefixes"]] == ["a\x01"]
    else:
        assert {each["Key"] for page in pages for each in page["Versions"]} == set(keys)


def test_a_listing_without_an_encoding_has_character_references(emulator: Emulator) -> None:
    emulator.start()
    s3 = client(emulator, "s3")
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.meta.events.unregister("before-parameter-build.s3.ListObjects", set_list_objects_encoding_type_url)
    s3.put_object(Bucket="bucket", Key="a\r\n\tb&#x1;", Body=b"")
    assert [each["Key"] for each in s3.list_objects(Bucket="bucket")["Contents"]] == ["a\r\n\tb&#x1;"]


def test_a_bucket_s_subresources_are_not_answered_with_a_listing(emulator: Emulator) -> None:
    emulator.start()
    s3 = client(emulator, "s3")
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="bucket", Key="a\x01", Body=b"")
    assert s3.get_bucket_request_payment(Bucket="bucket")["Payer"] == "BucketOwner"
    with pytest.raises(ClientError, match="NotImplemented"):
        s3.list_bucket_metrics_configurations(Bucket="bucket")
