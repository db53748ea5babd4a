"""Waits for what nobody reports: neither S3 nor SQS offers anything to wait on."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], seconds: float = 120) -> T:
    """Return what ``look`` finds, once it finds anything."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not seen within {seconds} s, but {found!r}"
        time.sleep(0.2)
    return found
