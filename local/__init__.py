"""What exists only for machines without AWS or without downloads: an AWS emulator and a Pulumi toolchain.

    environment = local.enter(root, print)

makes both ready for the checkout at `root` and gives the environment variables to run everything in.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["enter"]


def enter(root: Path, say: Callable[[str], None], projects: Path | None = None) -> dict[str, str]:
    """See `local.environment.enter`, which this is.

    Raises:
        UserError: Also where the operating system is none of those that `local` runs on.
    """
    if os.name != "posix":
        raise UserError("`local` runs on Linux and macOS: on Windows, work in WSL.")
    from local.environment import enter as enter_posix  # noqa: PLC0415 - can't be imported on Windows

    return enter_posix(root, say, projects)
