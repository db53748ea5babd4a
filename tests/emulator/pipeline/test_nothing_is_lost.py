"""Each file has its result after a temporary fault, and is in the dead-letter queue after a permanent one."""

import io
import json
import random
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from tests.support.driver import EMPTY, Driver
from tests.support.waiting import eventually
from xfarm.errors import UserError
from xfarm.operations import dead_letters, status
from xfarm.operations.develop import develop
from xfarm.operations.pipeline import counts
from xfarm.operations.redrive import redrive
from xfarm.operations.reprocess import reprocess
from xfarm.operations.send import send
from xfarm.paths import ROOT

pytestmark = pytest.mark.waits

RANDOM = random.Random(0)  # noqa: S311 - the same files each time
SIZES = (0, 1, 100, 10_000, 300_000)
"""The bytes, written as hex, after the first line: from none to more than the function reads at a time."""


def files(number: int) -> dict[str, bytes]:
    """Return files of mixed sizes, mostly small, no two of them the same."""
    weights = (1, 1, 60, 30, 8)
    return {
        f"{name:04}.csv": f"n{name}\n".encode() + RANDOM.randbytes(size).hex().encode()
        for name, size in enumerate(RANDOM.choices(SIZES, weights, k=number))
    }


def test_a_thousand_files_of_mixed_sizes_some_delivered_twice(driver: Driver) -> None:
    contents = files(1000)
    driver.set_mapping(enabled=False)
    driver.upload(contents)
    bodies = driver.take(len(contents))
    # SQS and S3 deliver at least once, and in any order.
    bodies += RANDOM.sample(bodies, 400)
    RANDOM.shuffle(bodies)
    driver.set_mapping(enabled=True)
    driver.send(bodies)
    driver.assert_complete(contents)
    handled = [line for line in driver.logged() if line["outcome"] != "test_event"]
    assert len(handled) >= len(bodies)
    assert {line["outcome"] for line in handled} == {"processed"}


@pytest.mark.parametrize("fault", ["reading is denied", "the function crashes"])
def test_files_have_results_after_a_fault_is_fixed(driver: Driver, fault: str) -> None:
    driver.shorten_visibility_timeout()
    driver.set_receives(100)  # a slow machine may need more than the default until each file has failed once
    contents = files(50)
    function, name = boto3.client("lambda"), driver.pipeline.function_name
    if fault == "reading is denied":
        driver.deny_reading("*")
        driver.upload(contents)
        eventually(lambda: {driver.name(line) for line in driver.failures("AccessDenied")} == contents.keys())
        assert driver.results() == set()
        driver.allow_reading()
    else:
        function.update_function_configuration(FunctionName=name, Handler="lambda_function.renamed")
        driver.upload(contents)
        eventually(lambda: driver.last_processing_result() == "FAILED")
        assert driver.results() == set()
        function.update_function_configuration(FunctionName=name, Handler="lambda_function.handler")
    driver.assert_complete(contents)


def test_files_that_fail_for_good_are_in_the_dead_letter_queue_and_can_be_redriven(
    driver: Driver, console: Console
) -> None:
    driver.shorten_visibility_timeout()
    contents = files(90) | {f"refused-{number}.csv": f"x\n{number}\n".encode() for number in range(10)}
    refused = {name for name in contents if name.startswith("refused")}
    driver.deny_reading("refused-*")
    driver.upload(contents)
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting >= len(refused))
    driver.assert_idle()
    assert driver.results() == contents.keys() - refused
    letters = dead_letters.peek(driver.pipeline)
    assert sorted(str(letter.key) for letter in letters) == sorted(
        driver.pipeline.input_prefix + name for name in refused
    )
    driver.allow_reading()
    redrive(driver.pipeline, console)
    driver.assert_complete(contents)


def test_files_uploaded_while_the_event_source_mapping_is_disabled(driver: Driver, tmp_path: Path) -> None:
    contents = files(200)
    driver.set_mapping(enabled=False)
    driver.upload(contents)
    (tmp_path / "sent.csv").write_bytes(b"sent\n")
    for command in (
        lambda: send(driver.pipeline, [tmp_path], Console(quiet=True)),
        lambda: reprocess(driver.pipeline, Console(quiet=True)),
        lambda: develop(driver.pipeline, ROOT / "lambda_code", [tmp_path], Console(quiet=True)),
    ):
        with pytest.raises(UserError, match=r"nothing would be processed, .* 'xfarm deploy \w+ --refresh'"):
            command()
    shown = io.StringIO()
    assert status.show(driver.pipeline.stack, {}, driver.pipeline, Console(file=shown, width=500), as_json=False)
    assert f"that is Disabled: enable it with 'xfarm deploy {driver.pipeline.stack} --refresh'" in shown.getvalue()
    send(driver.pipeline, [tmp_path], Console(quiet=True), timeout=0)
    contents["sent.csv"] = b"sent\n"
    eventually(lambda: counts(driver.pipeline.main_queue_url).waiting >= len(contents))
    assert driver.results() == set()
    driver.set_mapping(enabled=True)
    driver.assert_complete(contents)


def test_the_emulator_is_stopped_with_files_in_flight(driver: Driver) -> None:
    driver.shorten_visibility_timeout()
    contents = files(400)
    driver.set_mapping(enabled=False)
    driver.upload(contents)
    eventually(lambda: counts(driver.pipeline.main_queue_url).waiting >= len(contents))
    driver.set_mapping(enabled=True)
    eventually(driver.results)
    driver.emulator.stop()  # which ends the function at once
    driver.emulator.start()
    # Files that were being processed are invisible until their visibility timeout ends.
    assert counts(driver.pipeline.main_queue_url) != EMPTY
    driver.assert_complete(contents)


def test_every_malformed_message_is_a_dead_letter_and_blocks_nothing(driver: Driver) -> None:
    driver.shorten_visibility_timeout()
    contents = {f"neighbour-{number}.csv": f"a\n{number}\n".encode() for number in range(20)}
    contents |= {"empty.csv": b"", "with-an-unknown-event.csv": b"a\n"}
    driver.set_mapping(enabled=False)
    driver.upload(contents | {"gone.csv": b"a\n"})
    events = {json.loads(body)["Records"][0]["s3"]["object"]["key"]: json.loads(body) for body in driver.take(23)}
    key = f"{driver.pipeline.input_prefix}gone.csv"
    boto3.client("s3").delete_object(Bucket=driver.pipeline.bucket_name, Key=key)

    def changed(field: str, value: str) -> dict[str, Any]:
        event = json.loads(json.dumps(events[key]))
        (record,) = event["Records"]
        if field == "eventName":
            record[field] = value
        else:
            record["s3"]["object"][field] = value
        return event

    unknown = changed("eventName", "ObjectRemoved:Delete")
    events[f"{driver.pipeline.input_prefix}with-an-unknown-event.csv"]["Records"] += unknown["Records"]
    mixed = json.dumps(events.pop(f"{driver.pipeline.input_prefix}with-an-unknown-event.csv"))
    poison = [
        "this is not JSON",
        "[]",
        '{"no": "Records"}',
        '{"Records": []}',
        json.dumps(unknown),
        json.dumps(changed("key", "inputs/%FF")),
        json.dumps(changed("sequencer", "no number")),
        mixed,  # the file has its result, and the message is a dead letter too
    ]
    harmless = [
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": driver.pipeline.bucket_name}),
        json.dumps(changed("key", "elsewhere/file.csv")),
    ]
    driver.set_mapping(enabled=True)
    ids = driver.send([*poison, *harmless, *map(json.dumps, events.values())])
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting >= len(poison))
    driver.assert_idle()
    assert driver.results() == contents.keys()
    assert {letter.message_id for letter in dead_letters.peek(driver.pipeline)} == set(ids[: len(poison)])
    outcomes = {line["message_id"]: line["outcome"] for line in driver.logged()}
    assert [outcomes[sent] for sent in ids[len(poison) : len(poison) + 2]] == ["test_event", "gone"]
    assert [line["outcome"] for line in driver.logged() if line.get("key") == key] == ["gone"]


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("order", ["oldest first", "newest first"])
def test_the_newest_of_two_versions_wins_in_any_order_of_events(driver: Driver, order: str, *, versioned: bool) -> None:
    if versioned:
        driver.keep_versions()
    driver.set_mapping(enabled=False)
    for body in (b"a\nolder\n", b"a\nnewer\n"):
        driver.upload({"file.csv": body})
    events = sorted(driver.take(2), key=driver.sequencer)
    newest = driver.sequencer(events[1])
    if order == "newest first":
        events.reverse()
    driver.set_mapping(enabled=True)
    for event in events:
        driver.send([event])
        driver.assert_idle()
    driver.assert_complete({"file.csv": b"a\nnewer\n"})
    assert driver.documents(["file.csv"])["file.csv"]["sequencer"] == newest


@pytest.mark.parametrize("versioned", [False, True])
def test_the_newest_of_many_versions_wins_if_they_are_processed_at_once(driver: Driver, *, versioned: bool) -> None:
    if versioned:
        driver.keep_versions()
    driver.set_mapping(enabled=False)
    for number in range(50):
        driver.upload({"file.csv": f"a\n{number}\n".encode()})
    events = driver.take(50)
    RANDOM.shuffle(events)
    driver.set_mapping(enabled=True)
    driver.send(events)
    driver.assert_idle()
    driver.assert_complete({"file.csv": b"a\n49\n"})
