"""Waits for conditions in S3 and SQS, which have no means to wait for them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from xfarm.file_locks import acquire

T = TypeVar("T")


PATIENCE_S: Final = 900
"""Longer than anything takes on a slow and busy machine."""


def eventually(condition: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises:
        AssertionError: It is still not true after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {seconds} s"
        time.sleep(0.2)
    return result


def is_free(path: Path) -> bool:
    """Return whether no process has a file locked."""
    with path.open() as lock:
        return acquire(lock)
