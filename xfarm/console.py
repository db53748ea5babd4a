"""The console of all commands."""

import os
import sys
from typing import Final

from rich.console import Console

WIDTH: Final = 10_000
"""The width of output that isn't shown at a terminal, in characters: it is cut nowhere, whatever COLUMNS says."""


def make_console(kind: type[Console] = Console, *, stderr: bool = False, record: bool = False) -> Console:
    """Return a console that shows progress, and fits lines into a width, only if the output is shown at a terminal.

    By default, rich does so as well if FORCE_COLOR is set, which asks for colours only (https://force-color.org).

    Args:
        kind: The class of the console.
        stderr: Whether it prints to standard error.
        record: Whether it records what it prints.
    """
    stream = sys.stderr if stderr else sys.stdout
    shown = stream is not None and stream.isatty()
    made = kind(
        soft_wrap=True,
        stderr=stderr,
        emoji=False,
        record=record,
        force_terminal=None if shown else False,
        color_system="standard" if os.environ.get("FORCE_COLOR") and not shown else "auto",
    )
    if not shown:
        made.width = WIDTH
    return made
