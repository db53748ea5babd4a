"""Fixtures for all tests."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.aws import Aws

# The same examples in each run; `nox -s stress` tries others and more.
settings.register_profile("tests", derandomize=True, database=None, deadline=None)
settings.register_profile("stress", max_examples=1000, deadline=None)
settings.load_profile("tests")


@pytest.fixture
def aws() -> Iterator[Aws]:
    with Aws() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
