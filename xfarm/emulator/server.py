"""Starts and stops the AWS emulator, ministack, for one folder and isolated from the user's environment."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self, TextIO
from urllib.request import ProxyHandler, build_opener

from xfarm.errors import UserError
from xfarm.file_locks import acquire

_PROGRAM: Final = Path(__file__).with_name("patched_ministack.py")

REGION: Final = "eu-west-1"
DEFAULT_PORT: Final = 4566
"""The default port of ministack, and of LocalStack."""

_START_TIMEOUT_S: Final = 60
"""A start takes 1 to 3 s, and ten times as long on a very busy machine."""
_STOP_TIMEOUT_S: Final = 30
"""The emulator saves its state when it stops, which takes less than a second."""
_PORT_TIMEOUT_S: Final = 3
"""An emulator whose folder was deleted ends within a fraction of a second, and frees its port."""
_POLL_S: Final = 0.05
_LOG_TAIL_CHARS: Final = 2000
"""How much of the log is shown if the emulator dies."""
_DIRECT: Final = build_opener(ProxyHandler({}))
"""Opens URLs without a proxy."""


def _is_inherited(name: str) -> bool:
    """Return whether the emulator gets a variable of this process; its Lambda functions get all that it has."""
    return name in ("PATH", "LANG", "TZ", "SYSTEMROOT") or name.startswith("LC_")


@dataclass(frozen=True)
class Emulator:
    """An emulated AWS account: its files are in `directory`, and it listens on `port` of the loopback address."""

    directory: Path
    port: int
    enforces_iam: bool = False
    """Whether each request must be signed, and allowed by the policies of who signs it; "test" may do everything."""

    @property
    def endpoint(self) -> str:
        """The value for AWS_ENDPOINT_URL: an IP address, so that clients put bucket names into the path."""
        return f"http://127.0.0.1:{self.port}"

    def running(self) -> bool:
        """Return whether the emulator of this directory is running: its process holds a lock."""
        with self._lock() as lock:
            return not acquire(lock, shared=True)  # as those do who wait for its end

    @property
    def unsaved(self) -> Path:
        """The file that `start` creates if the last emulator of this directory ended without saving its data."""
        return self.directory / "unsaved"

    def current(self) -> Self | None:
        """Return the emulator of this directory with the port that it runs at, or None if it isn't running."""
        return replace(self, port=self._recorded()[1] or self.port) if self.running() else None

    def start(self) -> None:
        """Start the emulator, if it isn't running, and wait until it responds. It outlives this process.

        Raises:
            ModuleNotFoundError: It is not installed.
            UserError: The port is taken, or the emulator doesn't respond.
        """
        if find_spec("ministack") is None:
            raise ModuleNotFoundError(name="ministack")
        deadline = time.monotonic() + _START_TIMEOUT_S
        with self._lock() as lock:
            while not acquire(lock):
                if self._responds():
                    return
                if (running := self._recorded()[1]) not in (self.port, 0):
                    raise UserError(
                        f"this checkout's AWS emulator runs at port {running}, not at {self.port}: "
                        f"set GATEWAY_PORT={running}, or stop it with `xfarm emulator stop`."
                    )
                self._pause(deadline)
            last = (self.directory / "lock").read_text()
            if last and not last.endswith("saved"):
                self.unsaved.touch()
            self._forget(lock)  # `stop` would take the last process for this one
            freed_by = time.monotonic() + _PORT_TIMEOUT_S
            while _in_use(self.port):
                if time.monotonic() > freed_by:
                    raise UserError(
                        f"port {self.port} is taken by another program, so the AWS emulator can't start: "
                        f"stop that program, or set GATEWAY_PORT to a free port."
                    )
                time.sleep(_POLL_S)
            self._spawn(lock)
        while not self._responds():
            if not self.running():
                log = (self.directory / "log").read_text(errors="replace")[-_LOG_TAIL_CHARS:]
                raise UserError(f"the AWS emulator ended at once. The end of its log:\n{log}")
            self._pause(deadline)

    def stop(self) -> None:
        """Stop the emulator, if it is running, and wait until it has saved its state and all its processes are gone.

        Raises:
            UserError: It doesn't stop.
        """
        with self._lock() as lock:
            if acquire(lock):
                return
            pid = 0
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while not acquire(lock):
                if not pid and (pid := self._recorded()[0]):
                    with suppress(ProcessLookupError):  # it has just ended
                        os.kill(pid, signal.SIGTERM)
                if time.monotonic() > deadline:
                    raise UserError(f"the AWS emulator (process {pid}) doesn't stop: end it with `kill -9 {pid}`.")
                time.sleep(_POLL_S)
            self._forget(lock)
        if pid:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # the workers of Lambda functions

    def environment(self) -> dict[str, str]:
        """Return the environment of the emulator and its Lambda functions, without any secret of the user."""
        return {name: value for name, value in os.environ.items() if _is_inherited(name)} | {
            "HOME": str(self.directory),  # without ~/.aws
            "TMPDIR": str(self.directory / "tmp"),
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "PERSIST_STATE": "1",
            "STATE_DIR": "state",  # in the working directory, even after that was moved
            "S3_PERSIST": "1",
            "S3_DATA_DIR": "s3",
            # AWS's default quota ("Lambda quotas"); ministack's default depends on the machine's memory.
            "LAMBDA_ACCOUNT_CONCURRENCY": "1000",
            "AUTH": str(self.enforces_iam).lower(),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
        }

    def _lock(self) -> TextIO:
        self.directory.mkdir(parents=True, exist_ok=True)
        return (self.directory / "lock").open("a+")

    def _recorded(self) -> tuple[int, int]:
        """Return the id and port of the process that holds the lock; zeros until they are recorded."""
        pid, port, *_ = [*(self.directory / "lock").read_text().split(), 0, 0]
        return int(pid), int(port)

    @staticmethod
    def _forget(lock: TextIO) -> None:
        lock.truncate(0)

    def _spawn(self, lock: TextIO) -> None:
        (self.directory / "tmp").mkdir(exist_ok=True)
        with (self.directory / "log").open("w") as log:
            subprocess.Popen(
                # It records its own id, because this process may be killed as soon as it runs.
                ["/bin/sh", "-c", 'echo $$ "$GATEWAY_PORT" >lock && exec "$@"', "sh", sys.executable, "-P", _PROGRAM],
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )

    def _responds(self) -> bool:
        if self._recorded()[1] != self.port:
            return False
        try:
            with _DIRECT.open(f"{self.endpoint}/_ministack/health", timeout=_START_TIMEOUT_S):
                return True
        except OSError:
            return False

    def _pause(self, deadline: float) -> None:
        """Pause until the next check.

        Raises:
            UserError: The deadline has passed.
        """
        if time.monotonic() > deadline:
            raise UserError(f"the AWS emulator doesn't respond at {self.endpoint}: see {self.directory / 'log'}.")
        time.sleep(_POLL_S)


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
