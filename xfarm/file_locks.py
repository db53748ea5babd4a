"""Locks of the operating system on files, which it releases when their last owner has ended."""

import fcntl
from pathlib import Path
from typing import TextIO


def acquire(file: TextIO, *, shared: bool = False) -> bool:
    """Lock a file for this process and those that inherit it; return False if another process has it locked.

    Args:
        file: The file.
        shared: Whether to share the lock, so that only a process that does not share it is in the way.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share(file: TextIO) -> None:
    """Wait until no process has a file locked, and lock it together with all others that share the lock."""
    fcntl.flock(file, fcntl.LOCK_SH)


def wait_for(file: TextIO) -> None:
    """Wait until no other process has locked or shares a file, and lock it."""
    fcntl.flock(file, fcntl.LOCK_EX)


def wait_until_free(path: Path) -> None:
    """Wait until no process has a file locked."""
    with path.open() as file:
        share(file)
