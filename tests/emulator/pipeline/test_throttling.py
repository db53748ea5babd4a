"""Throttling: a call that Lambda throttles is no attempt."""

import boto3
import pytest

from tests.support.attempts import (
    SLOW,
    assert_that_only_the_poison_file_is_dead,
    attempts,
    dead,
    deployed,
    files,
    finish,
    reserve,
    throttles,
)
from tests.support.driver import EMPTY
from tests.support.emulated_pipeline import declared
from tests.support.waiting import eventually
from xfarm.emulator.server import Emulator
from xfarm.operations import dead_letters
from xfarm.operations.pipeline import Counts, counts

pytestmark = pytest.mark.waits


def test_none_of_300_good_files_is_dead_while_every_second_call_is_throttled(emulator: Emulator) -> None:
    assert_that_only_the_poison_file_is_dead(emulator, throttled=True)


def test_a_throttled_message_uses_up_no_receive_while_it_is_invisible(emulator: Emulator) -> None:
    with deployed(emulator, timeout_s=10, visibility_s=60, receives=1) as driver:
        driver.assert_started()
        reserve(driver, 0)
        driver.upload({"a.bin": b"good"})
        eventually(lambda: throttles(driver) > 2)
        assert counts(driver.pipeline.main_queue_url) == Counts(waiting=0, in_flight=1)
        boto3.client("lambda").delete_function_concurrency(FunctionName=driver.pipeline.function_name)
        driver.assert_complete({"a.bin": b"good"})


def test_a_message_throttled_for_its_whole_visibility_timeout_uses_up_a_receive(
    emulator: Emulator,
) -> None:
    with deployed(emulator, timeout_s=10, visibility_s=60, receives=2) as driver:
        driver.shorten_visibility_timeout(2)
        reserve(driver, 0)
        driver.upload({"a.bin": b"good"})
        finish(driver)
        assert dead(driver) == {"a.bin": dead_letters.NO_ERROR}
        assert attempts(driver, "a.bin") == 0


def test_throttled_messages_are_processed_before_new_ones(emulator: Emulator) -> None:
    contents = files(60)
    process = SLOW.format(seconds=0.2)
    with deployed(emulator, process, timeout_s=10, visibility_s=12, receives=1) as driver:
        driver.assert_started()
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
