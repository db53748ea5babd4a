"""Runs the commands that need no engine of Pulumi, for `local` and for `dev`, in one process, against one emulator.

As a program, it does so for the environment that it has: `every_command.py SETUP`, where `SETUP` is JSON.
"""

import gc
import io
import json
import os
import pwd
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import boto3

from xfarm import cli, credentials
from xfarm.orchestrator import local_environment
from xfarm.toolchain.resolve import Toolchain

LOCAL = [
    ["env"],
    ["emulator", "status"],
    ["bootstrap"],
    ["check"],
    ["outputs"],
    ["status"],
    ["send", "FILE", "--no-wait"],
    ["dead-letters"],
    ["redrive"],
    ["audit"],
    ["reprocess", "--dry-run"],
    ["logs"],
]
DEV = [
    ["bootstrap", "dev"],
    ["outputs", "dev", "--json"],
    ["status", "dev", "--json"],
    ["send", "dev", "FILE", "--no-wait"],
    ["audit", "dev", "--json"],
]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the commands run against.

    Attributes:
        root: The checkout, in which `.local/emulator` is the emulator.
        file: The file to send.
        nameless: Whether the user has no name and no home folder in the system's list of users.
    """

    root: str
    file: str
    nameless: bool = False


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command did: its exit code, or -1 if it raised an error, and what it printed."""

    command: str
    code: int
    out: str
    err: str


def run(setup: Setup, arguments: list[str]) -> Done:
    """Run one command in this process, whose environment it leaves as it is."""
    out, err = io.BytesIO(), io.BytesIO()
    before = dict(os.environ)
    streams = [io.TextIOWrapper(into, stream.encoding) for into, stream in ((out, sys.stdout), (err, sys.stderr))]
    tempfile.tempdir = None
    with patch.object(boto3, "DEFAULT_SESSION", None), patch.multiple(sys, stdout=streams[0], stderr=streams[1]):
        try:
            cli.xfarm([setup.file if each == "FILE" else each for each in arguments])
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        except BaseException as error:  # noqa: BLE001 - as Python does
            sys.excepthook(type(error), error, error.__traceback__)
            code = -1
        finally:
            os.environ.clear()
            os.environ.update(before)
            credentials.release_output()
    printed = [into.getvalue().decode(errors="replace") for into in (out, err)]
    return Done(command=" ".join(arguments), code=code, out=printed[0], err=printed[1])


def run_all(setup: Setup) -> list[Done]:
    """Run all commands, with a toolchain that is never used."""
    toolchain = Toolchain("Toolchain: none.", [], {}, [], "")
    no_user = patch.object(pwd, "getpwuid", side_effect=KeyError("no such uid"))
    with (
        patch.object(local_environment, "resolve", return_value=toolchain),
        patch("xfarm.operations.dead_letters.WAIT_S", 0),  # the queue is empty, so each look would take a second
        patch.object(cli, "ROOT", Path(setup.root)),
        patch("xfarm.orchestrator.targets.ROOT", Path(setup.root)),
    ):
        if setup.nameless:
            no_user.start()
        gc.disable()  # which would take a third of the time, for boto3's descriptions of services
        try:
            return [run(setup, arguments) for arguments in LOCAL + DEV]
        finally:
            gc.enable()
            if setup.nameless:
                no_user.stop()


if __name__ == "__main__":
    done = run_all(Setup(**json.loads(sys.argv[1])))
    Path(sys.argv[2]).write_text(json.dumps([asdict(each) for each in done]), encoding="utf-8")
