"""What exists only for machines without AWS or without downloads: an AWS emulator and a Pulumi toolchain.

    environment = local.enter(root, print)

makes both ready for the checkout at `root` and gives the environment variables to run everything in.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["enter", "own_folder"]


def enter(root: Path, say: Callable[[str], None], projects: Path | None = None) -> dict[str, str]:
    """See `local.environment.enter`, which this is.

    Raises:
        UserError: Also where the operating system is none of those that `local` runs on.
    """
    if os.name != "posix":
        raise UserError("`local` runs on Linux and macOS: on Windows, work in WSL.")
    from local.environment import enter as enter_posix  # noqa: PLC0415 - can't be imported on Windows

    with own_folder(root):
        return enter_posix(root, say, projects)


@contextlib.contextmanager
def own_folder(root: Path) -> Iterator[None]:
    """Say in a sentence what is wrong with the `.local` of the checkout at `root`, such as that `sudo` has made it.

    Raises:
        UserError: Something in it can't be read or written.
    """
    folder = root / ".local"
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename))
        if folder not in (path, *path.parents):
            raise
        remedy = (
            f"give it to yourself with `sudo chown -R $(id -u) {shlex.quote(str(folder))}`"
            if isinstance(error, PermissionError)
            else f"{folder} has to be a folder that you can write"
        )
        raise UserError(f"{path} can't be used ({error.strerror}): {remedy}.") from error
