"""The AWS account that lives on this machine: ministack, run for one folder and kept apart from everything else."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.request import ProxyHandler, build_opener

from xfarm.errors import UserError

_PROGRAM = Path(__file__).with_name("patched_ministack.py")

REGION = "eu-west-1"
DEFAULT_PORT = 4566
"""ministack's own, and LocalStack's before it."""

_START_SECONDS = 60
"""A start takes 1 to 3 s; a machine under full load has been seen to take ten times that."""
_STOP_SECONDS = 30
"""On being stopped it writes its whole state, which takes well under a second."""
_POLL_SECONDS = 0.05
_LOG_TAIL = 2000
"""Characters of the log that are shown when it dies."""
_DIRECT = build_opener(ProxyHandler({}))
"""Opens URLs of this machine, whatever proxy the environment names."""


def _passed_on(name: str) -> bool:
    """Whether a variable of ours goes to the emulator: it hands all it has to the Lambda functions that it runs."""
    return name in ("PATH", "LANG", "TZ", "SYSTEMROOT") or name.startswith("LC_")


@dataclass(frozen=True)
class Emulator:
    """An emulated AWS account: the files in `directory`, served at `port` of this machine only."""

    directory: Path
    port: int

    @property
    def endpoint(self) -> str:
        """The URL to use as AWS_ENDPOINT_URL: by address, as clients then put bucket names into the path."""
        return f"http://127.0.0.1:{self.port}"

    def running(self) -> bool:
        """Whether this very emulator is running: its process holds a lock for as long as it lives."""
        with self._lock() as lock:
            return not _acquire(lock)

    def start(self) -> None:
        """Start it, if it isn't running, and wait until it answers. It outlives this process.

        Raises:
            UserError: Something else has the port, or the emulator doesn't come up.
        """
        deadline = time.monotonic() + _START_SECONDS
        with self._lock() as lock:
            while not _acquire(lock):
                if self._answers():
                    return
                if (running := self._recorded()[1]) not in (self.port, 0):
                    raise UserError(
                        f"This checkout's AWS emulator runs at port {running}, not at {self.port}: "
                        f"set GATEWAY_PORT={running}, or stop it with `xfarm emulator stop`."
                    )
                self._wait(deadline)
            if _in_use(self.port):
                raise UserError(
                    f"Port {self.port} is taken by another program, so the AWS emulator can't start: "
                    f"stop that program, or set GATEWAY_PORT to a free port."
                )
            self._spawn(lock)
        while not self._answers():
            if not self.running():
                log = (self.directory / "log").read_text(errors="replace")[-_LOG_TAIL:]
                raise UserError(f"The AWS emulator ended at once. The end of its log:\n{log}")
            self._wait(deadline)

    def stop(self) -> None:
        """Stop it, if it is running, and wait until it has saved its state and nothing of it is left.

        Raises:
            UserError: It doesn't end.
        """
        with self._lock() as lock:
            if _acquire(lock):
                return
            pid, _ = self._recorded()
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while not _acquire(lock):
                if time.monotonic() > deadline:
                    raise UserError(f"The AWS emulator (process {pid}) doesn't stop: end it with `kill -9 {pid}`.")
                time.sleep(_POLL_SECONDS)
            self._record(lock, "")
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # the workers of Lambda functions

    def environment(self) -> dict[str, str]:
        """The environment of its process, and so of the functions that it runs: nothing in it is a secret of ours."""
        return {name: value for name, value in os.environ.items() if _passed_on(name)} | {
            "HOME": str(self.directory),  # no ~/.aws
            "TMPDIR": str(self.directory / "tmp"),
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.directory / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.directory / "s3"),
            # The quota on AWS ("Lambda quotas"); ministack's own default depends on the machine's memory.
            "LAMBDA_ACCOUNT_CONCURRENCY": "1000",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
        }

    def _lock(self) -> TextIO:
        self.directory.mkdir(parents=True, exist_ok=True)
        return (self.directory / "lock").open("a+")

    def _recorded(self) -> tuple[int, int]:
        """The process that holds the lock and its port; zeros while it is about to write them."""
        pid, _, port = (self.directory / "lock").read_text().partition(" ")
        return int(pid or 0), int(port or 0)

    @staticmethod
    def _record(lock: TextIO, text: str) -> None:
        lock.truncate(0)
        lock.write(text)
        lock.flush()

    def _spawn(self, lock: TextIO) -> None:
        (self.directory / "tmp").mkdir(exist_ok=True)
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", _PROGRAM],
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        self._record(lock, f"{process.pid} {self.port}")

    def _answers(self) -> bool:
        if self._recorded()[1] != self.port:
            return False
        try:
            with _DIRECT.open(f"{self.endpoint}/_ministack/health", timeout=_START_SECONDS):
                return True
        except OSError:
            return False

    def _wait(self, deadline: float) -> None:
        """A moment, until the next look at something that nobody reports.

        Raises:
            UserError: The deadline has passed.
        """
        if time.monotonic() > deadline:
            raise UserError(f"The AWS emulator doesn't answer at {self.endpoint}: see {self.directory / 'log'}.")
        time.sleep(_POLL_SECONDS)


def _acquire(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
