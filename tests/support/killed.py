"""Kills commands at any line of this project's code.

`python -m tests.support.killed NUMBER PACKAGE ARGUMENTS` runs `xfarm ARGUMENTS`, which kills itself at the NUMBER-th
line that it runs in `xfarm/PACKAGE`. If it runs fewer, it ends as usual and prints their number last.
"""

import os
import random
import runpy
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from hypothesis import settings

from xfarm.paths import ROOT

KILLED: Final = -signal.SIGKILL
VISITS: Final = 2
EXAMPLES: Final = 50
"""How many examples of a property test take as long as one kill."""


def kill_at(number: int, package: str = "") -> Counter[tuple[str, int]]:
    """Kill this process at its `number`-th line in a package of `xfarm`, or in all, outside of imports.

    Return the lines so far.

    Only the first `VISITS` visits of a line count, so that waiting doesn't.
    """
    import xfarm  # noqa: PLC0415 - of the copy whose command is run

    folder = f"{Path(str(xfarm.__file__)).parent / package}{os.sep}"
    seen: Counter[tuple[str, int]] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:  # noqa: ANN401 - as `sys.settrace` has it
        code = frame.f_code
        if not code.co_filename.startswith(folder) or code.co_name == "<module>":
            return None
        if event == "line" and seen[place := (code.co_filename, frame.f_lineno)] < VISITS:
            seen[place] += 1
            if seen.total() == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    return seen


def at_each_line(do: Callable[[], object]) -> Iterator[int]:
    """Do something in a fork of this process that is killed at its first line, then at its second, and so on.

    Yield the number of the line each time, until it is done without being killed.
    """
    number, ended = 0, KILLED
    while ended == KILLED:
        number += 1
        if not (fork := os.fork()):
            os.close(2)  # no report of pytest's
            try:
                kill_at(number)
                do()
                os._exit(0)
            finally:
                os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        assert ended in {KILLED, 0}
        yield number


def at_random_lines(*program: str, seed: str, cwd: Path, environment: Mapping[str, str]) -> Iterator[bool]:
    """Run a program as it is, then kill it at some of its lines; more in the stress profile.

    Args:
        program: The arguments of Python, with `{number}` for the argument of `kill_at`. It prints the number of all
            lines last.
        seed: The seed for the choice of lines.
        cwd: The folder in which to run it.
        environment: Its environment.

    Yields:
        After each, whether it was killed.
    """

    def run(number: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *(each.replace("{number}", str(number)) for each in program)],
            cwd=cwd,
            env={**environment, "PYTHONPATH": f"{cwd}{os.pathsep}{ROOT}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    whole = run(0)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    yield False
    number = int(whole.stderr.splitlines()[-1])
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    for _ in range(settings().max_examples // EXAMPLES):
        ended = run(chance.randint(1, number))
        assert ended.returncode in {KILLED, 0}, ended.stdout + ended.stderr
        yield ended.returncode == KILLED


def main() -> None:
    """Run a command, and kill it."""
    number, package, *sys.argv[1:] = sys.argv[1:]
    seen = kill_at(int(number), package)
    try:
        runpy.run_module("xfarm", run_name="__main__")
    except SystemExit as end:
        sys.settrace(None)
        print(seen.total(), file=sys.stderr)
        sys.exit(end.code)


if __name__ == "__main__":
    main()
