"""Says what a command waits for, where no progress bar does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

import click

SILENCE_S: Final = 10
"""The longest time without a word about what a command waits for, in seconds."""


@contextmanager
def announced(text: Callable[[], str], *, unless: bool = False) -> Iterator[None]:
    """Print to standard error what the command waits for, every `SILENCE_S` if that has changed.

    Args:
        text: Returns what it waits for, or an empty string if it waits for nothing.
        unless: Whether a progress bar shows it.
    """
    ended = Event()

    def announce() -> None:
        last = ""
        while not ended.wait(SILENCE_S):
            if (now := text()) not in {last, ""}:
                click.echo(now, err=True)
            last = now

    if unless:
        yield
        return
    thread = Thread(target=announce, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
