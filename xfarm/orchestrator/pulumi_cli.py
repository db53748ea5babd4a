"""Runs the Pulumi CLI so that an engine is stopped by a signal to `xfarm` alone, and keeps the claim to its stack."""

import copy
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import IO, Final, Self

from pulumi.automation import CommandResult, PulumiCommand
from pulumi.automation._cmd import OnOutput
from pulumi.automation.errors import InvalidVersionError, create_command_error
from semver import VersionInfo

from xfarm.errors import UserError
from xfarm.orchestrator.locks import Claim
from xfarm.versions import MINIMUM_CLI

_engines: Final[set[subprocess.Popen[str]]] = set()
"""The engines that run."""


def stop_engines() -> None:
    """Send each engine the signal of Ctrl-C: at the first, it finishes what is in progress; at the second, it ends.

    They have process groups of their own, so that a terminal's Ctrl-C does not reach them a second time.
    """
    for engine in list(_engines):
        engine.send_signal(signal.SIGINT)


_MINIMUM: Final = VersionInfo(*MINIMUM_CLI)


def require_supported_cli() -> None:
    """Check that the Pulumi CLI on PATH runs, and is not too old.

    Raises:
        UserError: It does not run, or is too old.
    """
    try:
        PulumiCommand(version=_MINIMUM)
    except InvalidVersionError as error:
        raise UserError(f"the Pulumi CLI on your PATH can't be used. {error}") from error
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("the Pulumi CLI on your PATH can't be used: run 'pulumi version' to see why.") from error


class PulumiCli(PulumiCommand):
    """The Pulumi CLI on PATH, which is not asked for its version: that takes as long as a start of the engine."""

    _claim: Claim | None = None

    def __init__(self) -> None:
        self.command = "pulumi"
        self.version = _MINIMUM  # what the Automation API may rely on

    def under(self, claim: Claim) -> Self:
        """Return a CLI that runs engines under a claim."""
        other = copy.copy(self)
        other._claim = claim  # noqa: SLF001 - of the same class
        return other

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: OnOutput | None = None,  # noqa: ARG002 - as in the base class
        on_error: OnOutput | None = None,  # noqa: ARG002 - as in the base class
    ) -> CommandResult:
        """Run a command in a process group of its own, and return its output.

        Raises:
            CommandError: It failed.
        """
        began = datetime.now(UTC)
        is_engine = args[0] != "stack"
        with ExitStack() as opened:
            # An engine writes to files: a pipe that this process has left would end it in the middle of its work.
            files = [opened.enter_context(TemporaryFile()) for _ in range(2)] if is_engine else []
            stdout, stderr = files or (subprocess.PIPE, subprocess.PIPE)
            process = subprocess.Popen(
                [self.command, "--non-interactive", *args],
                cwd=cwd,
                env={**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                encoding="utf-8",
                process_group=0,
                pass_fds=self._claim.inherited if self._claim else (),
            )
            if self._claim:
                self._claim.started(process.pid, began)
            if is_engine:
                _engines.add(process)
            try:
                printed = process.communicate()
            finally:
                _engines.discard(process)
                if self._claim and process.returncode is not None:
                    self._claim.ended(failed=process.returncode != 0)
            output, errors = map(_text, files) if files else printed
        result = CommandResult(output, errors, process.returncode)
        if process.returncode:
            raise create_command_error(result)
        return result


def _text(file: IO[bytes]) -> str:
    """Return what a file holds, at whatever position those write who have it open."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
