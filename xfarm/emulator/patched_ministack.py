"""ministack with the fixes in `xfarm.emulator.patches`, as a server.

It ends when its folder, the working directory, is deleted or moved, and records in the file `lock` that it has saved
its data.

Usage: python xfarm/emulator/patched_ministack.py
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Final

from ministack import app

sys.path.insert(0, str(Path(__file__).parents[2]))  # this file's checkout, whichever is installed

from xfarm.emulator.patches import apply_all, patch

LOCK: Final = Path("lock")
"""The file in the emulator's folder that `xfarm.emulator.server` holds a lock on."""

_save_all = app.save_all
_POLL_S: Final = 0.2


@patch(app, "save_all")
def save_all(services: dict[str, Callable[[], Any]]) -> None:
    """Save the state of all services, and record that."""
    _save_all(services)
    with LOCK.open("a") as lock:
        lock.write(" saved")


def end_with_folder(inode: int) -> None:
    """End this process and the workers of Lambda functions when the file `lock` is no longer the one with `inode`.

    After `git clean -fdx`, no command could find this process, and it would occupy its port. After a move of the
    folder, functions could not find their code, so this process saves its data in the new place first.
    """
    with suppress(FileNotFoundError):
        folder = Path.cwd()
        while LOCK.stat().st_ino == inode:
            if Path.cwd() != folder:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(_POLL_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    apply_all()
    Thread(target=end_with_folder, args=(LOCK.stat().st_ino,), daemon=True).start()
    app.main()
