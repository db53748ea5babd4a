"""Attempts: a file is dead only after the function has begun it, and failed, as often as the settings say."""

import io
from pathlib import Path

import boto3
import pytest
from rich.console import Console

from tests.support.attempts import (
    SECOND_PER_MEGABYTE,
    SLOW,
    assert_that_only_the_poison_file_is_dead,
    attempts,
    dead,
    deployed,
    files,
    finish,
    receives,
    visibility,
)
from tests.support.checkout import free_port
from tests.support.driver import Driver
from tests.support.emulated_pipeline import EnforcingEmulator, create_pipeline, running
from xfarm.emulator.server import Emulator
from xfarm.operations import status

pytestmark = pytest.mark.waits


def test_none_of_300_good_files_is_dead_after_another_file_fails_five_times(emulator: Emulator) -> None:
    assert_that_only_the_poison_file_is_dead(emulator, throttled=False)


def test_files_that_take_a_quarter_of_the_timeout_each_all_have_results(emulator: Emulator) -> None:
    contents = files(60)
    with deployed(emulator, SLOW.format(seconds=2), timeout_s=8, visibility_s=visibility(8)) as driver:
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
