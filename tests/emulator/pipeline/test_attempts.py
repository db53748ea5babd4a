"""Attempts: a file is dead only after the function has begun it, and failed, as often as the settings say."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from rich.console import Console

from tests.emulator.pipeline.conftest import ACCOUNTS
from tests.support.checkout import free_port
from tests.support.driver import EMPTY, Driver
from tests.support.emulated_pipeline import EnforcingEmulator, create_pipeline, declared, lambda_zip, running
from tests.support.waiting import eventually
from xfarm.emulator.server import Emulator
from xfarm.operations import dead_letters, status
from xfarm.operations.pipeline import Counts, counts

PATIENCE_S = 400

TIMEOUT_S = 4
"""The function's timeout. All times are shorter than in the stacks, in proportion to it."""
PROMISED_S = TIMEOUT_S * 3 / 4
"""The part of it that a file has, see docs/batches.md."""

SLOW = """

import time
_process = process


def process(source, body):
    if "poison" in source.key:
        raise RuntimeError("test failure")
    time.sleep({seconds})
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
    eventually(lambda: counts(driver.pipeline.main_queue_url) == EMPTY, PATIENCE_S)


def dead(driver: Driver) -> dict[str, str]:
    """Return the last error of each file in the dead-letter queue, by its name."""
    letters = dead_letters.peek(driver.pipeline)
    errors = dead_letters.last_errors(driver.pipeline, letters)
    return {str(letter.key).removeprefix(driver.pipeline.input_prefix): errors[letter.message_id] for letter in letters}


def attempts(driver: Driver, name: str) -> int:
    """Return how often the function began a file."""
    begun = [line for line in driver.logged() if line.get("error_type") != "NotBegunError"]
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


@pytest.mark.parametrize("throttled", [False, True], ids=["", "every second call throttled"])
def test_none_of_300_good_files_is_dead_after_another_file_fails_five_times(
    emulator: Emulator,
    throttled: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    contents = files(300)
    processes = [SLOW.format(seconds=share * PROMISED_S) for share in SHARES]
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


def test_files_that_take_a_quarter_of_the_timeout_each_all_have_results(emulator: Emulator) -> None:
    contents = files(60)
    with deployed(emulator, SLOW.format(seconds=1), timeout_s=4, visibility_s=visibility(4)) as driver:
        driver.upload(contents)
        driver.assert_complete(contents)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_only_a_file_that_takes_longer_than_the_timeout_is_dead_and_its_error_says_what_to_raise(
    emulator: Emulator, batch_size: int
) -> None:
    contents = files(9)
    with deployed(emulator, SECOND_PER_MEGABYTE, timeout_s=8, visibility_s=10) as driver:
        driver.set_mapping(enabled=False)
        boto3.client("lambda").update_event_source_mapping(
            UUID=driver.pipeline.event_source_mapping_id, BatchSize=batch_size
        )
        driver.upload({"slow.bin": bytes(12_000_000)})  # the first in the queue
        driver.upload(contents)
        driver.set_mapping(enabled=True)
        finish(driver)
        assert driver.results() == contents.keys()
        assert attempts(driver, "slow.bin") == receives()
        (reason,) = dead(driver).values()
        assert "messaging:consumerTimeoutSeconds" in reason
        assert "compute:memorySize" in reason


# The behaviour of the emulator that these tests rely on


def test_a_throttled_message_uses_up_no_receive_while_it_is_invisible(emulator: Emulator) -> None:
    with deployed(emulator, timeout_s=10, visibility_s=60, receives=1) as driver:
        eventually(driver.logged)  # S3's test message
        reserve(driver, 0)
        driver.upload({"a.bin": b"good"})
        eventually(lambda: throttles(driver) > 2)
        assert counts(driver.pipeline.main_queue_url) == Counts(waiting=0, in_flight=1)
        boto3.client("lambda").delete_function_concurrency(FunctionName=driver.pipeline.function_name)
        driver.assert_complete({"a.bin": b"good"})


def test_a_message_throttled_for_its_whole_visibility_timeout_uses_up_a_receive(
    emulator: Emulator,
) -> None:
    with deployed(emulator, timeout_s=1, visibility_s=2, receives=2) as driver:
        eventually(driver.logged)
        reserve(driver, 0)
        driver.upload({"a.bin": b"good"})
        finish(driver)
        assert dead(driver) == {"a.bin": dead_letters.NO_ERROR}
        assert attempts(driver, "a.bin") == 0


def test_throttled_messages_are_processed_before_new_ones(emulator: Emulator) -> None:
    contents = files(60)
    process = SLOW.format(seconds=0.2)
    with deployed(emulator, process, timeout_s=10, visibility_s=12, receives=1) as driver:
        reserve(driver, 1)
        driver.upload(contents)
        finish(driver)
        assert throttles(driver) > 0
        assert driver.results() == contents.keys()


def test_no_more_messages_are_received_than_the_maximum_concurrency(emulator: Emulator) -> None:
    maximum = declared("1" * 12)["event-source-mapping"]["scalingConfig"]["maximumConcurrency"]
    contents = files(3 * maximum)
    with deployed(emulator, SLOW.format(seconds=1), timeout_s=10, visibility_s=60) as driver:
        driver.set_mapping(enabled=False)
        driver.upload(contents)
        driver.set_mapping(enabled=True)
        seen = []

        def done() -> bool:
            seen.append(counts(driver.pipeline.main_queue_url))
            return seen[-1] == EMPTY

        eventually(done)
        assert max(each.in_flight for each in seen) == maximum


class NewAccount(EnforcingEmulator):
    """An emulator with the low concurrency quota of a new account."""

    def environment(self) -> dict[str, str]:
        return super().environment() | {"LAMBDA_ACCOUNT_CONCURRENCY": "10"}


def status_output(driver: Driver) -> str:
    """Return the output of `status`."""
    output = io.StringIO()
    status.show("local", {}, driver.pipeline, Console(file=output, width=500), as_json=False)
    return output.getvalue()


def test_status_says_what_to_do_about_a_low_concurrency_quota(tmp_path: Path) -> None:
    with running(NewAccount(tmp_path, free_port())) as emulator:
        output = status_output(Driver(emulator, create_pipeline(visibility_s=60)))
    assert "the account may run 10 invocations at a time" in output
    assert "compute:maximumConcurrency to 10 at most" in output
    assert '"Concurrent executions"' in output


def test_status_does_not_mention_a_normal_concurrency_quota(driver: Driver) -> None:
    assert "Concurrent executions" not in status_output(driver)
