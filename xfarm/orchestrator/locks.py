"""Finds out whether the owner of one of Pulumi's locks has ended, and releases that lock if this is certain.

A self-managed backend keeps a lock as a file with a name of its own, in which are a user, a host, a process ID and a
time (`lockContent` in pulumi/pkg/backend/diy/lock.go). These don't tell machines or containers apart: two may have the
same host name, and process IDs of one mean nothing in the other. So a command records which lock it takes, where
Pulumi does not look for locks, and the record is what a later command goes by:

- In a folder, the record is a file that the command and its engines keep locked (`flock`). The operating system
  releases that when the last of them has ended, however it ends, and in whichever container it ran.
- In an S3 bucket, only a run on a GitHub-hosted runner leaves a record, and GitHub is asked whether that run has ended.

All other locks are released by `xfarm unlock` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from xfarm.errors import UserError
from xfarm.file_locks import acquire
from xfarm.orchestrator.stores import Folder, Store, store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

Json = dict[str, Any]

_STARTUP: Final = timedelta(seconds=60)
"""How long after its start an engine takes its lock at the latest; otherwise, whose lock it is remains unknown."""

_TIMEOUT_S: Final = 30

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
"""Tells on Linux one start of the kernel from others: `flock` says nothing about other kernels ("random(4)")."""


@dataclass(frozen=True)
class Lock:
    """One of Pulumi's locks.

    Attributes:
        path: Its path in the backend.
        user: Who took it.
        host: On which machine.
        pid: The ID of the process.
        since: When, as Pulumi wrote it.
    """

    path: str
    user: str = "unknown"
    host: str = "unknown"
    pid: int = 0
    since: str = ""

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.path.rpartition("/")[2]

    @property
    def stack(self) -> str:
        """The name of the stack that is locked."""
        return self.path.split("/")[-2]

    @property
    def taken(self) -> datetime | None:
        """When it was taken; None if the file does not say."""
        try:
            return datetime.fromisoformat(self.since)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (process {self.pid}) since {self.since or 'an unknown time'}"


def held(place: Store, project: str, stack: str) -> list[Lock]:
    """Return the locks of a project's stack."""
    found = []
    for path in place.names(f".pulumi/locks/organization/{project}/{stack}"):
        content = _json(place.read(path) or "")
        fields = {"user": "username", "host": "hostname", "since": "timestamp"}
        known = {name: str(content[field]) for name, field in fields.items() if content.get(field)}
        pid = content.get("pid")
        found.append(Lock(path, pid=pid if isinstance(pid, int) else 0, **known))
    return found


class Claim:
    """A command's claim to a project's stack, under which it may run engines that write its state.

    Attributes:
        released: The locks that dead owners had left, and which are released.
        inherited: The file descriptors that engines inherit.

    Args:
        place: The backend, if its locks can be read.
        project: The project.
        stack: The stack's name.
        found: What was found out about the stack's locks.
        say: Called with each message for the user.
    """

    def __init__(self, place: Store | None, project: str, stack: str, found: Found, say: Callable[[str], None]) -> None:
        self.released = found.ended
        self.inherited = (found.file.fileno(),) if found.file else ()
        self._place = place
        self._project = project
        self._stack = stack
        self._say = say
        self._record: Json = {}

    def started(self, pid: int, began: datetime) -> None:
        """Record that an engine was started, whose lock has no name yet.

        Args:
            pid: Its process ID.
            began: A time before its start.
        """
        self._record = {"pid": pid, "started": began.isoformat(), **_here()}
        if self.inherited:
            self._write()

    def locked(self) -> None:
        """Record the lock of the engine that was started last, which has it by now: no other lock can be there."""
        run = _run()
        if self._place is None or "lock" in self._record or not (self.inherited or run):
            return
        try:
            locks = held(self._place, self._project, self._stack)
            if len(locks) == 1:  # another engine's lock is there for an instant, until it finds ours
                self._record |= {"lock": locks[0].name} | ({"run": run} if run else {})
                self._write()
        except UserError as error:
            self._record["lock"] = ""
            remedy = f"so only 'xfarm unlock {self._stack}' can release it"
            self._say(f"{self._project}: can't record the lock, {remedy}: {error}")

    def ended(self, *, failed: bool) -> None:
        """Record that the engine has ended, and delete the lock that it left behind if it was killed.

        Args:
            failed: Whether its exit code was not 0.
        """
        if failed and self._place:
            with contextlib.suppress(UserError):  # AWS refuses; the next command tries it again, and says why
                for lock in held(self._place, self._project, self._stack):
                    if (self.inherited or "lock" in self._record) and _was_ours(lock, self._record):
                        self._place.delete(lock.path)
        self._record = {}
        if self.inherited:
            self._write()

    def _write(self) -> None:
        if self._place:
            self._place.write(_record_path(self._project, self._stack), json.dumps(self._record))


@contextlib.contextmanager
def claim(url: str, project: str, stack: str, say: Callable[[str], None]) -> Iterator[Claim]:
    """Claim a project's stack, and release the locks that dead owners left.

    Args:
        url: The URL of the backend.
        project: The project.
        stack: The stack's name.
        say: Called with each message for the user.

    Yields:
        The claim.

    Raises:
        UserError: The stack is locked, and its owner runs, or may still run.
    """
    place = store(url)
    with examined(place, project, stack) as found:
        if not found.alone:
            raise UserError(f"{refusal(next(iter(found.unproven), None), RUNS)}.")
        if found.unproven:
            lock, reason = next(iter(found.unproven.items()))
            raise UserError(f"{refusal(lock, reason)}.")
        for lock in found.ended:
            cast("Store", place).delete(lock.path)
        yield Claim(place, project, stack, found, say)


@dataclass(frozen=True)
class Found:
    """What was found out about the locks of a project's stack.

    Attributes:
        file: The file with the record of the owner, if the backend is a folder; this process has it locked.
        alone: Whether no other `xfarm` command on this machine works on the stack, as far as that can be seen.
        ended: The locks whose owners have ended.
        unproven: The other locks, with what is known about the owner.
    """

    file: TextIO | None
    alone: bool
    ended: list[Lock]
    unproven: dict[Lock, str]


@contextlib.contextmanager
def examined(place: Store | None, project: str, stack: str) -> Iterator[Found]:
    """Find out about the locks of a project's stack, and keep other commands on this machine from it meanwhile.

    Args:
        place: The backend, or None if its locks can't be read.
        project: The project.
        stack: The stack's name.

    Yields:
        What was found out.

    Raises:
        UserError: AWS refuses to list the locks.
    """
    path = _record_path(project, stack)
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(_open(place.root / path)) if isinstance(place, Folder) else None
        alone = file is None or acquire(file)
        locks = held(place, project, stack) if place else []
        record = _json(place.read(path) or "") if place and locks else {}
        known = {lock: _may_run(lock, record, folder=file is not None) if alone else RUNS for lock in locks}
        unproven = {lock: reason for lock, reason in known.items() if reason}
        yield Found(file, alone, [lock for lock in locks if lock not in unproven], unproven)


RUNS: Final = "another xfarm command on this machine, or Pulumi that a killed one has started, is still working on it"


def refusal(lock: Lock | None, reason: str) -> str:
    """Return why a stack that is locked is left alone, and what to do, without full stop.

    Args:
        lock: The lock, if it can be read.
        reason: What is known about its owner.
    """
    holder = f" by {lock}" if lock else ""
    command = f"xfarm unlock {lock.stack}" if lock else "pulumi cancel"
    unlock = "" if reason == RUNS else f", or, if you are sure that it runs on no machine, run '{command}'"
    return f"the stack is locked{holder}, and nothing was changed: {reason}. Wait for that update to end{unlock}"


_CONFLICT: Final = re.compile(
    r"(?P<path>\S+): created by (?P<user>.+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<since>\S+)"
)
"""What Pulumi says of a lock (`checkForLock` in pulumi/pkg/backend/diy/lock.go); Pulumi Cloud says less."""


def conflict(text: str) -> str:
    """Return a sentence, without its full stop, about the lock that Pulumi's message names."""
    found = _CONFLICT.search(text)
    lock = Lock(found["path"], found["user"], found["host"], int(found["pid"]), found["since"]) if found else None
    return refusal(lock, "another update is in progress")


def _record_path(project: str, stack: str) -> str:
    return f".xfarm/locks/{project}/{stack}.json"


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be used ({error.strerror}): make it a file that you can write to.") from error


def _here() -> Json:
    return {"host": socket.gethostname(), "boot": _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else ""}


def _json(text: str) -> Json:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _may_run(lock: Lock, record: Json, *, folder: bool) -> str | None:
    """Return why the owner of a lock may still run and what to do, or None if it certainly does not."""
    if folder:
        return None if _was_ours(lock, record) else "it is not known as a lock of xfarm on this machine"
    if record.get("lock") != lock.name or not (run := record.get("run")):
        return "whether its owner still runs is not known"
    return None if (state := run_state(run)) == _ENDED else state


def _was_ours(lock: Lock, record: Json) -> bool:
    """Return whether a command took the lock whose record nobody keeps locked any more."""
    if any(record.get(name) != value for name, value in _here().items()):
        return False
    if "lock" in record:
        return record["lock"] == lock.name
    if record.get("pid") != lock.pid or lock.host != record["host"] or not lock.taken:
        return False
    return timedelta() <= lock.taken - datetime.fromisoformat(record["started"]) <= _STARTUP


_ENDED: Final = "that run has ended"


def _run() -> Json | None:
    """Return what identifies this run of a workflow, or None if this is not a GitHub-hosted runner.

    The machine of such a runner is gone after the run, with all processes ("Variables reference", GitHub Actions).
    """
    if os.environ.get("RUNNER_ENVIRONMENT") != "github-hosted":
        return None
    names = {"repository": "GITHUB_REPOSITORY", "id": "GITHUB_RUN_ID", "attempt": "GITHUB_RUN_ATTEMPT"}
    run = {name: os.environ.get(variable, "") for name, variable in names.items()}
    return run if all(run.values()) else None


def run_state(run: Json) -> str:
    """Ask GitHub whether a run of a workflow has ended ("Get a workflow run attempt", GitHub REST API).

    Returns:
        `_ENDED` if it has, or else a clause that says what is known.
    """
    repository, number, attempt = (str(run.get(name)) for name in ("repository", "id", "attempt"))
    it = f"run {number}, attempt {attempt}, of {repository}"
    api, token = os.environ.get("GITHUB_API_URL", ""), os.environ.get("GITHUB_TOKEN", "")
    if repository != os.environ.get("GITHUB_REPOSITORY") or not (number + attempt).isdecimal():
        return f"it is the lock of {it}"
    if not (api and token):
        return f"it is the lock of {it}, and without GITHUB_TOKEN, GitHub can't be asked whether that has ended"
    request = Request(  # noqa: S310 - the URL is GitHub's, from the runner
        f"{api}/repos/{repository}/actions/runs/{number}/attempts/{attempt}",
        headers={"Accept": "application/vnd.github+json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - see above
            status = _json(answer.read().decode()).get("status")
    except HTTPError as error:
        permission = "; the job needs the permission 'actions: read'" if error.code in _DENIED else ""
        return f"GitHub does not say whether {it} has ended (HTTP {error.code}{permission})"
    except (OSError, ValueError):
        return f"GitHub can't be reached to ask whether {it} has ended"
    return _ENDED if status == "completed" else f"{it} still runs ({status})"


_DENIED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
