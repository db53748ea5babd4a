"""The command line of `local`: see `python -m local --help`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import local
from shared.errors import UserError

_ROOT = Path(__file__).resolve().parent.parent
_COMMANDS = {
    "env": "print shell commands that make this shell use `local`, starting what is needed",
    "start": "start the AWS emulator",
    "stop": "stop the AWS emulator; what is in it is kept",
    "status": "say whether the AWS emulator runs",
}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def shell_commands(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The shell commands that turn the environment `before` into `after`."""
    unset = [f"unset {name}" for name in sorted(before.keys() - after.keys())]
    changed = sorted(name for name, value in after.items() if before.get(name) != value)
    return unset + [f"export {name}={shlex.quote(after[name])}" for name in changed]


def main() -> int:
    """Run one command; the exit code is 1 for what the user can mend, or for `status` where nothing runs."""
    parser = argparse.ArgumentParser(prog="python -m local", description="The AWS account that lives on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        commands.add_parser(name, help=text, description=text)
    command = parser.parse_args().command
    try:
        with local.own_folder(_ROOT):
            return _run(command)
    except UserError as error:
        _say(f"error: {error}")
        return 1


def _run(command: str) -> int:
    if command == "env":
        commands = shell_commands(dict(os.environ), local.enter(_ROOT, _say))
        sys.stdout.buffer.write(os.fsencode("\n".join(commands) + "\n"))
        return 0
    from local.environment import emulator  # noqa: PLC0415 - can't be imported on Windows

    account = emulator(_ROOT)
    if command == "start":
        account.start()
    if command == "stop":
        account.stop()
    running = account.running()
    _say(f"The AWS emulator {f'runs at {account.endpoint}' if running else 'is not running'}.")
    return 0 if running or command == "stop" else 1


if __name__ == "__main__":
    sys.exit(main())
