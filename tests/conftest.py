"""Fixtures for all tests."""

from collections.abc import Iterator
from functools import cache

import botocore.session
import pytest
from botocore.loaders import create_loader
from hypothesis import settings

from tests.support.aws import Aws
from tests.support.http_server import serving

# The same examples in each run; `nox -s stress` tries others and more.
settings.register_profile("tests", derandomize=True, database=None, deadline=None)
settings.register_profile("stress", max_examples=1000, deadline=None)
settings.load_profile("tests")

# botocore's descriptions of AWS's services are read once, not in each of the many sessions of the tests.
botocore.session.create_loader = cache(create_loader)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that mostly wait first, beside those that compute."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with serving(Aws()) as server:
        yield server
