"""Locks of the operating system on files, which it releases when their last owner has ended."""

import fcntl
from typing import TextIO


def acquire(file: TextIO) -> bool:
    """Lock a file for this process and those that inherit it; return False if another process has it locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
