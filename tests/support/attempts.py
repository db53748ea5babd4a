"""Pipelines whose files take their time, and what became of each file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from tests.support.driver import EMPTY, Driver
from tests.support.emulated_pipeline import ACCOUNTS, create_pipeline, declared, lambda_zip
from tests.support.waiting import eventually
from xfarm.emulator.server import Emulator
from xfarm.operations import dead_letters
from xfarm.operations.pipeline import counts

TIMEOUT_S = 12
"""The function's timeout: shorter than in the stacks, like all times here, and enough for a slow and busy machine."""
PROMISED_S = TIMEOUT_S - 2
"""The part of it that a file has, see docs/batches.md."""

SLOW = """

import time
_process = process


def process(source, body):
    time.sleep({seconds})
    return _process(source, body)
"""

TAKING_A_SHARE = """

import signal
import time
_process = process


def process(source, body):
    if "poison" in source.key:
        raise RuntimeError("test failure")
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)  # until the function interrupts this
    time.sleep(max(0, left_s - {left_s}))
    return _process(source, body)
"""

SECOND_PER_MEGABYTE = """

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
    """Return the visibility timeout that the stacks give the queue for a function's timeout."""
    resources = declared("1" * 12)
    return resources["main-queue"]["visibilityTimeoutSeconds"] * timeout_s // resources["function"]["timeout"]


def receives() -> int:
    """Return the number of receives after which a message is a dead letter."""
    return json.loads(declared("1" * 12)["main-queue-redrive-policy"]["redrivePolicy"])["maxReceiveCount"]


@dataclass(frozen=True)
class Account:
    """A pipeline in its own account. Use it within `used`."""

    number: str
    driver: Driver

    @contextmanager
    def used(self) -> Iterator[Driver]:
        """Point boto3 at the account."""
        with pointed_at(self.number):
            yield self.driver


@contextmanager
def pointed_at(account: str) -> Iterator[None]:
    """Point boto3 at an account of the emulator, by an access key of twelve digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("AWS_ACCESS_KEY_ID", account)
        yield


@contextmanager
def pipelines(
    emulator: Emulator, *processes: str, timeout_s: int, visibility_s: int, receives: int | None = None
) -> Iterator[list[Account]]:
    """Create a pipeline for each of `processes`, texts to append to the module `process`."""
    accounts = []
    for process in processes:
        number = str(next(ACCOUNTS))
        with pointed_at(number):
            pipeline = create_pipeline(
                visibility_s=visibility_s, max_receives=receives, timeout_s=timeout_s, code=lambda_zip(process=process)
            )
            accounts.append(Account(number, Driver(emulator, pipeline)))
    yield accounts
    for account in accounts:
        with account.used() as driver:
            driver.remove()


@contextmanager
def deployed(
    emulator: Emulator, process: str = "", *, timeout_s: int, visibility_s: int, receives: int | None = None
) -> Iterator[Driver]:
    """Create a pipeline, and point boto3 at its account."""
    made = pipelines(emulator, process, timeout_s=timeout_s, visibility_s=visibility_s, receives=receives)
    with made as [account], account.used() as driver:
        yield driver


def files(number: int) -> dict[str, bytes]:
    """Return files of four bytes."""
    return {f"{name}.bin": b"good" for name in range(number)}


def finish(driver: Driver) -> None:
    """Wait until the main queue is empty."""
    eventually(lambda: counts(driver.pipeline.main_queue_url) == EMPTY)


def dead(driver: Driver) -> dict[str, str]:
    """Return the last error of each file in the dead-letter queue, by its name."""
    letters = dead_letters.peek(driver.pipeline)
    errors = dead_letters.last_errors(driver.pipeline, letters)
    return {str(letter.key).removeprefix(driver.pipeline.input_prefix): errors[letter.message_id] for letter in letters}


def attempts(driver: Driver, name: str) -> int:
    """Return how often the function began a file."""
    begun = [line for line in driver.logged() if line.get("error_type") != "NotStartedError"]
    return [driver.name(line) for line in begun if "key" in line].count(name)


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
    """Reserve concurrency for the function: Lambda throttles all calls above it."""
    boto3.client("lambda").put_function_concurrency(
        FunctionName=driver.pipeline.function_name, ReservedConcurrentExecutions=concurrency
    )


SHARES = {0.25: 3, 0.5: 4, 0.9: 5}
"""Parts of the promised time that a file takes, each with a reserved concurrency that throttles every second call."""


def assert_that_only_the_poison_file_is_dead(emulator: Emulator, *, throttled: bool) -> None:
    """Process 300 good files and one that fails, for each of `SHARES`, and check that all but that one have results."""
    contents = files(300)
    processes = [TAKING_A_SHARE.format(left_s=(1 - share) * PROMISED_S) for share in SHARES]
    with pipelines(emulator, *processes, timeout_s=TIMEOUT_S, visibility_s=visibility(TIMEOUT_S)) as accounts:
        for account, concurrency in zip(accounts, SHARES.values(), strict=True):
            with account.used() as driver:
                if throttled:
                    reserve(driver, concurrency)
                driver.upload({"poison": b""})  # first, or its five attempts would come after all others
                driver.upload(contents)
        for account in accounts:
            with account.used() as driver:
                finish(driver)
                assert driver.results() == contents.keys()
                assert dead(driver).keys() == {"poison"}
                assert attempts(driver, "poison") == receives()
                if throttled:
                    assert throttles(driver) >= len(driver.logged())
