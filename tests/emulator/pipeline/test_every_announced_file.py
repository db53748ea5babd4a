"""Every file that S3 announces has one result, or a reason for having none, whatever its key."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import boto3
import pytest
from rich.console import Console

from tests.support.driver import EMPTY, Driver
from tests.support.waiting import eventually
from xfarm.operations import dead_letters
from xfarm.operations.pipeline import counts
from xfarm.operations.redrive import redrive
from xfarm.operations.send import places, send

MAX_RECEIVES = 5
"""The default of `messaging:maxReceiveCount`."""


def notify(driver: Driver, prefix: str) -> None:
    """Set the prefix of the bucket's notification, as a deployment of messaging does."""
    s3, bucket = boto3.client("s3"), driver.pipeline.bucket_name
    configuration = s3.get_bucket_notification_configuration(Bucket=bucket)
    (queue,) = configuration["QueueConfigurations"]
    queue["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [queue]})


def set_input_prefix(driver: Driver, prefix: str) -> None:
    """Set the function's input prefix, as a deployment of compute does."""
    variables = {"INPUT_PREFIX": prefix, "OUTPUT_PREFIX": driver.pipeline.output_prefix}
    boto3.client("lambda").update_function_configuration(
        FunctionName=driver.pipeline.function_name, Environment={"Variables": variables}
    )


def put(driver: Driver, keys: Iterable[str]) -> None:
    for key in keys:
        boto3.client("s3").put_object(Bucket=driver.pipeline.bucket_name, Key=key, Body=key.encode())


def results(driver: Driver) -> dict[str, str]:
    """Return the key of the file of each result, by the result's key."""
    return {
        f"{driver.pipeline.output_prefix}{name}.json": document["key"]
        for name, document in driver.documents(driver.results()).items()
    }


def test_files_uploaded_while_the_prefix_changes_and_changes_back_have_results(driver: Driver) -> None:
    driver.shorten_visibility_timeout()
    uploaded: list[str] = []

    def upload(prefix: str, when: str) -> None:
        keys = [f"{prefix}{when}-{number}.csv" for number in range(10)]
        put(driver, keys)
        uploaded.extend(keys)

    put(driver, shared := ["inputs/drop/shared.csv"])
    driver.assert_idle()
    for number, (now, then) in enumerate([("inputs/", "drop/"), ("drop/", "inputs/")]):
        driver.set_mapping(enabled=False)
        upload(now, f"{number}-in-flight")
        notify(driver, then)
        upload(then, f"{number}-before-the-function-changes")
        driver.set_mapping(enabled=True)
        driver.assert_idle()
        driver.set_mapping(enabled=False)
        upload(then, f"{number}-while-the-function-changes")
        if then == "drop/":
            put(driver, [another := "drop/shared.csv"])
            shared.append(another)
        # Files under the old prefix that are in flight when the function changes.
        notify(driver, now)
        upload(now, f"{number}-late")
        notify(driver, then)
        set_input_prefix(driver, then)
        driver.set_mapping(enabled=True)
        driver.assert_idle()
        upload(then, f"{number}-afterwards")
        driver.assert_idle()
    assert sorted(results(driver).values()) == sorted(uploaded + shared)
    assert counts(driver.pipeline.dead_letter_queue_url) == EMPTY
    assert {line["outcome"] for line in driver.logged()} == {"test_event", "processed"}


def test_files_that_would_share_a_result_have_one_each(driver: Driver) -> None:
    keys = ["inputs/drop/a.csv", "drop/a.csv"]
    put(driver, keys[:1])
    driver.assert_idle()
    notify(driver, "drop/")
    put(driver, keys[1:])
    driver.assert_idle()
    found = results(driver)
    assert sorted(found.values()) == sorted(keys)
    assert found["outputs/drop/a.csv.json"] == "inputs/drop/a.csv"


def test_folders_created_in_the_console_have_no_results(driver: Driver) -> None:
    folders = {"inputs/folder/", "inputs/folder/in a folder/"}
    for key in folders:
        boto3.client("s3").put_object(Bucket=driver.pipeline.bucket_name, Key=key, Body=b"")
    put(driver, ["inputs/folder/a.csv", "inputs/no-folder/"])
    driver.assert_idle()
    assert results(driver) == {
        "outputs/folder/a.csv.json": "inputs/folder/a.csv",
        "outputs/no-folder/.json": "inputs/no-folder/",
    }
    assert {line["key"] for line in driver.logged() if line["outcome"] == "folder"} == folders


def test_send_finds_the_results_of_very_long_and_unusual_keys(driver: Driver, tmp_path: Path) -> None:
    folders = "/".join("d" * 200 for _ in range(4))
    names = [
        *(f"{folders}/{'x' * (length - len(f'inputs/{folders}/'))}" for length in (1018, 1019, 1024)),
        "control \x01\x1f\x7f.csv",
        "line\nbreak\r\ttab",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    output = io.StringIO()
    send(driver.pipeline, [tmp_path], Console(file=output, width=10_000, soft_wrap=True))
    assert sorted(results(driver).values()) == sorted(f"inputs/{name}" for name in names)
    lines = dict(line.split(" -> ") for line in output.getvalue().splitlines())
    assert len(lines) == len(names)
    assert lines[r"control \x01\x1f\x7f.csv"].startswith(r"outputs/control \x01\x1f\x7f.csv.json (")
    for name in names[1:3]:
        (place,) = places(driver.pipeline, f"inputs/{name}")
        assert lines[name].startswith(f"{place} (")
        assert len(place) == 1024


def test_a_dead_letter_with_control_characters_in_its_key_is_shown(driver: Driver) -> None:
    driver.shorten_visibility_timeout()
    driver.deny_reading("*")
    put(driver, ["inputs/a\x01\nb.csv"])
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting)
    output = io.StringIO()
    dead_letters.show(driver.pipeline, Console(file=output, width=1000), as_json=False)
    assert rf"  s3://{driver.pipeline.bucket_name}/inputs/a\x01\nb.csv (message " in output.getvalue()
    driver.allow_reading()
    redrive(driver.pipeline, Console(file=output))
    driver.assert_idle()
    assert list(results(driver).values()) == ["inputs/a\x01\nb.csv"]


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_file_is_dead_with_a_reason_and_is_processed_after_it_is_restored(
    driver: Driver,
    console: Console,
    capsys: pytest.CaptureFixture[str],
    storage_class: Literal["GLACIER", "DEEP_ARCHIVE"],
) -> None:
    driver.shorten_visibility_timeout()
    s3, place = boto3.client("s3"), {"Bucket": driver.pipeline.bucket_name, "Key": "inputs/archived.csv"}
    s3.put_object(**place, Body=b"a\n1\n", StorageClass=storage_class)
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting)
    attempts = driver.failures("InvalidObjectState")
    assert [line["reason"] for line in attempts] == ["archived: restore it, then redrive"] * MAX_RECEIVES
    dead_letters.show(driver.pipeline, console, as_json=True)
    (letter,) = json.loads(capsys.readouterr().out)
    assert letter["error"].startswith("archived: restore it, then redrive")
    s3.restore_object(**place, RestoreRequest={"Days": 1})
    eventually(lambda: 'ongoing-request="false"' in s3.head_object(**place).get("Restore", ""))
    redrive(driver.pipeline, console)
    driver.assert_complete({"archived.csv": b"a\n1\n"})
