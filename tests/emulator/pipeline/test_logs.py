"""The function's log, of attempts that really happened, and how following it ends."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.emulated_pipeline import lambda_zip
from tests.support.waiting import eventually
from xfarm.operations import logs
from xfarm.operations.pipeline import counts
from xfarm.paths import ROOT

PROGRAM = """
import json, sys
from xfarm import cli
from xfarm.operations.pipeline import Pipeline
cli._deployed = lambda stack: Pipeline(**json.loads(sys.argv[1]))
cli.xfarm(["logs", "--follow"])
"""
"""The command line, without Pulumi's state to read the pipeline from."""

UNFINISHED = """
import os

_handler = handler


def handler(event, context):
    result = _handler(event, context)
    os.write(2, b"\\xff is no UTF-8\\nA line that has no end")
    return result
"""
"""Code to append to the function, which then writes a byte that is not UTF-8, and a line without a line break."""


def shown(driver: Driver, **options: str | bool) -> list[str]:
    output = io.StringIO()
    logs.show(driver.pipeline, Console(file=output, width=500), **options)  # pyrefly: ignore[bad-argument-type]
    return output.getvalue().splitlines()


def test_the_attempts_at_a_file_are_shown_with_their_errors(driver: Driver) -> None:
    driver.shorten_visibility_timeout()
    driver.set_receives(2)
    driver.deny_reading("refused*")
    driver.upload({"refused.csv": b"", "fine.csv": b"n\n1\n"})
    eventually(lambda: counts(driver.pipeline.dead_letter_queue_url).waiting)
    key = f"{driver.pipeline.input_prefix}refused.csv"
    attempts = shown(driver, key=key)
    assert [f"failed {key} (attempt {number} of 2, " in line for number, line in enumerate(attempts, 1)] == [True] * 2
    assert all("the function's role may not read it" in line for line in attempts)
    assert shown(driver, errors=True) == attempts
    text = "\n".join(shown(driver))
    assert f"processed {driver.pipeline.input_prefix}fine.csv (attempt 1 of 2, " in text
    assert f"REPORT {driver.pipeline.input_prefix}fine.csv, Duration: " in text
    events = boto3.client("logs").filter_log_events(logGroupName=driver.pipeline.log_group_name)["events"]
    assert len({event.get("eventId") for event in events}) == len(events)  # or equal lines would be shown once
    driver.allow_reading()


def test_all_that_an_invocation_has_written_is_in_its_log(driver: Driver) -> None:
    code = lambda_zip(lambda_function=UNFINISHED)
    boto3.client("lambda").update_function_code(FunctionName=driver.pipeline.function_name, ZipFile=code)
    driver.upload({"fine.csv": b""})
    eventually(lambda: f"REPORT {driver.pipeline.input_prefix}fine.csv, Duration: " in "\n".join(shown(driver)))
    assert [line for line in shown(driver) if line.endswith(" A line that has no end")]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "import pandas",
            "Runtime.ImportModuleError: Unable to import module 'lambda_function': No module named 'pand",
        ),
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    ],
)
def test_why_code_cannot_be_imported_is_in_the_log(driver: Driver, code: str, error: str) -> None:
    archive = lambda_zip(process=f"\n{code}\n")
    boto3.client("lambda").update_function_code(FunctionName=driver.pipeline.function_name, ZipFile=archive)
    driver.upload({"fine.csv": b""})
    eventually(lambda: any(f"[ERROR] {error}" in line for line in shown(driver, errors=True)))


def test_a_log_of_several_pages_is_read_to_its_end(driver: Driver) -> None:
    client, group = boto3.client("logs"), driver.pipeline.log_group_name
    client.create_log_stream(logGroupName=group, logStreamName="many")
    number, time = 12_000, int((datetime.now(UTC) - timedelta(minutes=10)).timestamp() * 1000)
    for start in range(0, number, 4000):
        client.put_log_events(
            logGroupName=group,
            logStreamName="many",
            logEvents=[{"timestamp": time + each // 7, "message": f"n {each}"} for each in range(start, start + 4000)],
        )
    lines = logs.lines(driver.pipeline, datetime.now(UTC) - logs.BACK)
    assert [line.text for line in lines if line.text.startswith("n ")] == [f"n {each}" for each in range(number)]


@contextmanager
def following(driver: Driver) -> Iterator[subprocess.Popen[str]]:
    """Run `xfarm logs --follow`, and wait until it has shown all lines that there are."""
    # Child processes inherit an ignored signal, and pytest in the background ignores this one.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(asdict(driver.pipeline))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        try:
            assert process.stdout
            while " REPORT " not in process.stdout.readline():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


def test_new_lines_are_followed_until_ctrl_c(driver: Driver) -> None:
    with following(driver) as process:
        driver.upload({"new.csv": b"n\n1\n"})
        assert process.stdout
        while f"processed {driver.pipeline.input_prefix}new.csv" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors == f"Following {driver.pipeline.log_group_name} until you press Ctrl-C.\n"


def test_following_ends_when_nobody_reads_even_if_there_is_nothing_new(driver: Driver) -> None:
    with following(driver) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        eventually(lambda: process.poll() is not None)
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors == f"Following {driver.pipeline.log_group_name} until you press Ctrl-C.\n"
