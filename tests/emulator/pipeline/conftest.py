"""One emulator for the tests in this folder, with an account for each of them."""

import io
from collections.abc import Iterator

import boto3
import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.emulated_pipeline import ACCOUNTS, create_pipeline, private_emulator, running
from xfarm.emulator.server import Emulator

VISIBILITY_S = 60
"""Longer than any batch takes, however busy the machine; see `Driver.shorten_visibility_timeout`."""


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with running(private_emulator(tmp_path_factory.mktemp("emulator"))) as emulator:
        yield emulator


@pytest.fixture
def driver(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Create the pipeline in a new account, and start its function."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    # The emulator takes an access key of twelve digits for the root user of that account.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", str(next(ACCOUNTS)))
    driver = Driver(emulator, create_pipeline(visibility_s=VISIBILITY_S))
    driver.assert_started()
    yield driver
    driver.remove()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO())
