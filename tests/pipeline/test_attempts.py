"""A file is dead only after the function has begun it, and failed, as often as the settings say."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from rich.console import Console

from local.emulator import Emulator
from operations import dead_letters, status
from operations.pipeline import counts
from tests.checkout import free_port
from tests.emulated_pipeline import EnforcingEmulator, declared, lambda_zip, make, running
from tests.pipeline.conftest import ACCOUNTS
from tests.pipeline.driver import EMPTY, Driver
from tests.waiting import eventually

PATIENCE_S = 400

TIMEOUT_S = 2
"""Of the function: everything is as much shorter than with the timeout of the stacks."""
PROMISED_S = TIMEOUT_S * 3 / 4
"""What a file has of it, see docs/batches.md."""

TAKING = """

import time
_process = process


def process(source, body):
    if "poison" in source.key:
        raise RuntimeError("as the test wants it")
    time.sleep({seconds})
    return _process(source, body)
"""

SECOND_A_MEGABYTE = """

import time
_process = process


def process(source, body):
    def slowly():
        for chunk in body:
            time.sleep(len(chunk) / 1_000_000)
            yield chunk
    return _process(source, slowly())
"""


def visibility(timeout_s: int) -> int:
    """Return the visibility timeout that the stacks give the queue, for a function of such a timeout."""
    resources = declared("1" * 12)
    return resources["main-queue"]["visibilityTimeoutSeconds"] * timeout_s // resources["function"]["timeout"]


def receives() -> int:
    """Return after how many receives a message is a dead letter."""
    return json.loads(declared("1" * 12)["main-queue-redrive-policy"]["redrivePolicy"])["maxReceiveCount"]


@dataclass(frozen=True)
class Account:
    """A pipeline in an account of its own; what is done with it is done within `used`."""

    number: str
    driver: Driver

    @contextmanager
    def used(self) -> Iterator[Driver]:
        """Point boto3 at the account."""
        with pointed_at(self.number):
            yield self.driver


@contextmanager
def pointed_at(account: str) -> Iterator[None]:
    """Point boto3 at an account of the emulator: it takes twelve digits for the account's own root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("AWS_ACCESS_KEY_ID", account)
        yield


@contextmanager
def pipelines(emulator: Emulator, *processes: str, timeout_s: int, visibility_s: int) -> Iterator[list[Account]]:
    """Make a pipeline for each of the texts that are added to the function's `process`."""
    accounts = []
    for process in processes:
        number = str(next(ACCOUNTS))
        with pointed_at(number):
            pipeline = make(visibility_s=visibility_s, timeout_s=timeout_s, code=lambda_zip(process=process))
            accounts.append(Account(number, Driver(emulator, pipeline)))
    yield accounts
    for account in accounts:
        with account.used() as driver:
            driver.remove()


def files(number: int) -> dict[str, bytes]:
    """Make files of four bytes."""
    return {f"{name}.bin": b"good" for name in range(number)}


def finish(driver: Driver) -> None:
    """Wait until no message is left in the main queue."""
    eventually(lambda: counts(driver.pipeline.main_queue_url) == EMPTY, PATIENCE_S)


def dead(driver: Driver) -> dict[str, str]:
    """Return the names of the files that are dead, each with what it last failed of."""
    letters = dead_letters.peek(driver.pipeline)
    errors = dead_letters.last_errors(driver.pipeline, letters)
    return {
        str(letter.key).removeprefix(driver.pipeline.input_prefix): errors[letter.message_id] for letter in letters
    }


def attempts(driver: Driver, name: str) -> int:
    """Return how often the function began with a file."""
    return len([line for line in driver.logged() if "key" in line and driver.name(line) == name])


def throttles(driver: Driver) -> int:
    """Return how many calls of the function Lambda has throttled."""
    now = datetime.now(UTC)
    answer = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/Lambda",
        MetricName="Throttles",
        Dimensions=[{"Name": "FunctionName", "Value": driver.pipeline.function_name}],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=7200,
        Statistics=["Sum"],
    )
    return round(sum(point["Sum"] for point in answer["Datapoints"]))


def reserve(driver: Driver, concurrency: int) -> None:
    """Let the function run so often at a time and no more: Lambda throttles whatever else calls it."""
    boto3.client("lambda").put_function_concurrency(
        FunctionName=driver.pipeline.function_name, ReservedConcurrentExecutions=concurrency
    )


@pytest.mark.parametrize("reserved", [None, 5], ids=["", "every second call throttled"])
def test_none_of_300_good_files_dies_beside_one_that_fails_five_times(emulator: Emulator, reserved: int | None) -> None:
    contents = files(300)
    processes = [TAKING.format(seconds=share * PROMISED_S) for share in (0.25, 0.5, 0.9)]
    with pipelines(emulator, *processes, timeout_s=TIMEOUT_S, visibility_s=visibility(TIMEOUT_S)) as accounts:
        for account in accounts:
            with account.used() as driver:
                if reserved:
                    reserve(driver, reserved)
                driver.upload(contents | {"poison": b""})
        for account in accounts:
            with account.used() as driver:
                finish(driver)
                assert driver.results() == contents.keys()
                assert dead(driver).keys() == {"poison"}
                assert attempts(driver, "poison") == receives()
                if reserved:
                    assert throttles(driver) >= len(driver.logged())
