"""Fixtures for tests of every kind."""

import threading
from collections.abc import Iterator

import pytest

from tests.support.aws import Aws


@pytest.fixture
def aws() -> Iterator[Aws]:
    with Aws() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
