"""The emulator that the tests of a module share; some folders and modules have one with other settings."""

from collections.abc import Iterator

import pytest

from tests.support.checkout import free_port
from xfarm.emulator.server import Emulator


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    emulator = Emulator(tmp_path_factory.mktemp("emulator"), free_port())
    emulator.start()
    yield emulator
    emulator.stop()
