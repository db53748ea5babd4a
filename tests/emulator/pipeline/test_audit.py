"""What the audit finds lost is processed again, and nothing else."""

import io
import json
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import boto3
import pytest
from rich.console import Console

from tests.support.driver import EMPTY, Driver
from tests.support.waiting import eventually
from xfarm.errors import UserError
from xfarm.operations import audit
from xfarm.operations.pipeline import counts
from xfarm.operations.reprocess import reprocess

RATE = 1000
"""Files a second: more than the emulator takes."""


def found(driver: Driver, *, thorough: bool = False) -> dict[str, str]:
    """Return what the audit says about each file without a result, by its name."""
    pipeline = driver.pipeline
    findings = audit.findings(pipeline, pipeline.input_prefix, thorough=thorough)
    return {finding.key.removeprefix(pipeline.input_prefix): finding.state for finding in findings}


def lose(driver: Driver) -> dict[str, bytes]:
    """Upload files, and let the messages of some be purged, expire, or never be sent; return those files."""
    s3, sqs, pipeline = boto3.client("s3"), boto3.client("sqs"), driver.pipeline
    purged = {f"purged {number}&.csv": b"n\n1\n" for number in range(3)}
    driver.set_mapping(enabled=False)
    driver.upload(purged)
    eventually(lambda: counts(pipeline.main_queue_url).waiting >= len(purged))
    sqs.purge_queue(QueueUrl=pipeline.main_queue_url)
    eventually(lambda: counts(pipeline.main_queue_url) == EMPTY)

    expired = {"expired/a.csv": b"n\n2\n", "expired/a-b.csv": b"n\n3\n"}
    driver.upload(expired)
    driver.take(len(expired))  # SQS deletes them in the same way when their retention period, a minute at least, ends
    driver.set_mapping(enabled=True)

    silent = {"silent/ä.csv": b"n\n4\n"}
    notification = s3.get_bucket_notification_configuration(Bucket=pipeline.bucket_name)
    s3.put_bucket_notification_configuration(Bucket=pipeline.bucket_name, NotificationConfiguration={})
    driver.upload(silent)
    s3.put_bucket_notification_configuration(
        Bucket=pipeline.bucket_name,
        NotificationConfiguration={"QueueConfigurations": notification["QueueConfigurations"]},
    )
    return purged | expired | silent


def test_what_was_lost_is_found_and_processed_and_nothing_else(
    driver: Driver, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {f"kept/{number}.csv": b"n\n0\n" for number in range(20)}
    driver.upload(kept)
    driver.assert_complete(kept)
    boto3.client("s3").put_object(Bucket=driver.pipeline.bucket_name, Key=f"{driver.pipeline.input_prefix}folder/")
    lost = lose(driver)
    assert found(driver) == found(driver, thorough=True) == dict.fromkeys(lost, "lost")
    assert not audit.audit(driver.pipeline, "", console, thorough=False, as_json=True)
    counted = {"files": 26, "has a result": 20, "on its way": 0, "dead letter": 0, "lost": len(lost)}
    assert json.loads(capsys.readouterr().out)["counts"] == counted

    eventually(lambda: {driver.name(line) for line in driver.logged() if "key" in line} >= kept.keys())
    before = len(driver.logged())
    reprocess(driver.pipeline, console, missing=True, rate=RATE)
    driver.assert_complete(kept | lost)
    eventually(lambda: len(driver.logged()) >= before + len(lost))  # the lines come after the results
    assert {driver.name(line) for line in driver.logged()[before:] if "key" in line} <= lost.keys()
    assert found(driver) == found(driver, thorough=True) == {}
    text = io.StringIO()
    assert audit.audit(driver.pipeline, "", Console(file=text, width=500), thorough=False, as_json=False)
    assert text.getvalue() == "26 files: 26 with a result, 0 on the way, 0 in the dead-letter queue, 0 lost.\n"


def test_a_file_that_failed_is_a_dead_letter_and_one_that_waits_is_on_its_way(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.shorten_visibility_timeout()
    driver.deny_reading("refused*")
    driver.upload({"refused.csv": b""})
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting)
    driver.set_mapping(enabled=False)
    driver.upload({"waiting.csv": b""})
    eventually(lambda: counts(driver.pipeline.main_queue_url).waiting)
    assert found(driver) == {"refused.csv": "dead letter", "waiting.csv": "on its way"}
    with monkeypatch.context() as patch:
        patch.setattr(audit, "MOST", 0)
        with pytest.raises(UserError, match="there are 1 dead letters, of which 0 can be read"):
            found(driver)
    queue = {"QueueUrl": driver.pipeline.dead_letter_queue_url}
    (hidden,) = boto3.client("sqs").receive_message(**queue, VisibilityTimeout=600)["Messages"]
    with pytest.raises(UserError, match="1 dead letter can't be read, because another command reads them"):
        found(driver)
    boto3.client("sqs").change_message_visibility(**queue, ReceiptHandle=hidden["ReceiptHandle"], VisibilityTimeout=0)
    monkeypatch.setattr(audit, "_retention", Mock(return_value=timedelta(0)))
    assert found(driver)["waiting.csv"] == "lost"  # its message has expired, and the queue has others
    driver.allow_reading()


def test_reprocessing_replaces_results_but_never_that_of_a_newer_event(driver: Driver, console: Console) -> None:
    contents = {"a/1.csv": b"n\n1\n", "a/2.csv": b"n\n2\n", "b.csv": b"n\n3\n"}
    driver.upload(contents)
    driver.assert_complete(contents)
    before = {line["message_id"] for line in driver.logged()}
    reprocess(driver.pipeline, console, prefix=f"{driver.pipeline.input_prefix}a/", rate=RATE)

    def again() -> dict[str, str]:
        lines = [line for line in driver.logged() if line["message_id"] not in before]
        return {driver.name(line): line["outcome"] for line in lines}

    eventually(lambda: len(again()) == 2)
    assert again() == {"a/1.csv": "processed", "a/2.csv": "processed"}
    driver.upload({"b.csv": b"n\n4\n"})
    driver.assert_complete(contents | {"b.csv": b"n\n4\n"})


def test_keys_come_from_a_file_and_an_interrupted_command_goes_on_after_one(driver: Driver, tmp_path: Path) -> None:
    prefix = driver.pipeline.input_prefix
    listed = tmp_path / "keys"
    listed.write_text("".join(f"{prefix}{name}\n" for name in "cab"), encoding="utf-8")
    text = io.StringIO()
    reprocess(driver.pipeline, Console(file=text, width=500), source=listed, after=f"{prefix}c", dry_run=True)
    assert text.getvalue().splitlines() == [f"{prefix}a", f"{prefix}b", "To process again: 2."]
    listed.write_bytes(f"\ufeff{prefix}c\u2028\r\n{prefix}sub/a\n{prefix}sub/a\n".encode())
    text = io.StringIO()
    reprocess(driver.pipeline, Console(file=text, width=500), source=listed, prefix=f"{prefix}sub/", dry_run=True)
    assert text.getvalue().splitlines() == [f"{prefix}sub/a", "To process again: 1."]
    discarded = [json.dumps({"key": key, "error": "no", "body": "{}"}) + "\n" for key in (None, f"{prefix}a", None)]
    listed.write_text("".join(discarded))
    text = io.StringIO()
    reprocess(driver.pipeline, Console(file=text, width=500), source=listed, dry_run=True)
    assert text.getvalue().splitlines() == [
        "Left out: 2 messages not about a file.",
        f"{prefix}a",
        "To process again: 1.",
    ]
    with pytest.raises(UserError, match="is not one of the selected files"):
        reprocess(driver.pipeline, Console(file=text), source=listed, after=f"{prefix}d")


def test_a_file_that_does_not_exist_is_counted_and_not_sent(driver: Driver, tmp_path: Path) -> None:
    listed = tmp_path / "keys"
    listed.write_text(f"{driver.pipeline.input_prefix}gone\n", encoding="utf-8")
    text = io.StringIO()
    reprocess(driver.pipeline, Console(file=text, width=500), source=listed)
    assert text.getvalue() == f"0 sent to {driver.pipeline.main_queue_name}. Not found: 1.\n"
