"""Which locks in a folder are released: those whose owners have certainly ended."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.killed import at_each_line
from xfarm.errors import UserError
from xfarm.orchestrator import locks, unlock
from xfarm.orchestrator.locks import claim, conflict
from xfarm.orchestrator.stores import Folder, store

LOCKS = ".pulumi/locks/organization/storage/dev"
RECORD = ".xfarm/locks/storage/dev.json"
AT_WORK = "another xfarm command on this machine, or Pulumi that a killed one has started, is still working on it"

OWNER = """
import subprocess, sys
from datetime import UTC, datetime
from xfarm.orchestrator.locks import claim
url, does = sys.argv[1:]
with claim(url, "storage", "dev", print) as claimed:
    began = datetime.now(UTC)
    engine = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, pass_fds=claimed.inherited)
    if does != "nothing":
        claimed.started(engine.pid, began)
    print(engine.pid, flush=True)
    input()
    if does == "lock":
        claimed.locked()
    print("ready", flush=True)
    input()
"""
"""A command with an engine."""


class Owner:
    """A command that has claimed the stack, and whose engine has taken its lock."""

    def __init__(self, root: Path, does: str = "lock", **lock: Any) -> None:  # noqa: ANN401 - of `take`
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, root.as_uri(), does], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.root = root
        self.engine = int(self._line())
        self.lock = take(root, **dict[str, Any](pid=self.engine) | lock)
        self.go_on()
        assert self._line() == "ready\n"

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def go_on(self) -> None:
        """Let it do what comes next."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self, *, engine: bool = True) -> None:
        """Kill the command, and wait for its end and that of its engine."""
        self.process.kill()
        self.process.wait()
        if engine:
            with suppress(ProcessLookupError):
                os.kill(self.engine, signal.SIGKILL)
            with (self.root / RECORD).open("a") as record:
                fcntl.flock(record, fcntl.LOCK_EX)


def take(root: Path, name: str = "lock", *, ago: timedelta = timedelta(), **content: object) -> Path:
    """Write a lock as Pulumi does."""
    lock = root / LOCKS / f"{name}.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    since = (datetime.now(UTC) - ago).isoformat().replace("+00:00", "123Z")  # Go gives nanoseconds
    known = {"pid": 7, "username": "anna", "hostname": socket.gethostname(), "timestamp": since}
    lock.write_text(json.dumps(known | content), encoding="utf-8")
    return lock


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Yield what makes owners, none of which outlives the test."""
    made: list[Owner] = []

    def make(**arguments: Any) -> Owner:  # noqa: ANN401 - those of `Owner`
        made.append(Owner(tmp_path, **arguments))
        return made[-1]

    yield make
    for owner in made:
        owner.kill()


def refusal(root: Path) -> str:
    """Return why the stack can't be claimed."""
    with pytest.raises(UserError) as error, claim(root.as_uri(), "storage", "dev", print):
        pass
    return str(error.value)


def released(root: Path) -> list[str]:
    """Claim the stack, and return the names of the locks that this releases."""
    with claim(root.as_uri(), "storage", "dev", print) as claimed:
        assert not list((root / LOCKS).glob("*.json"))
        return [lock.name for lock in claimed.released]


@pytest.mark.parametrize("does", ["lock", "start"])
def test_the_lock_of_a_command_that_was_killed_is_released(
    tmp_path: Path, owners: Callable[..., Owner], does: str
) -> None:
    owner = owners(does=does)
    owner.kill()
    assert released(tmp_path) == ["lock.json"]
    assert released(tmp_path) == []


def test_a_living_command_s_lock_is_kept_though_its_process_is_unknown_here(
    tmp_path: Path, owners: Callable[..., Owner]
) -> None:
    # As if the command ran in another container: there is no process of this number.
    owner = owners(pid=2**22 + 1)
    said = refusal(tmp_path)
    assert f"the stack is locked by anna@{socket.gethostname()} (process {2**22 + 1}) since " in said
    assert f"and nothing was changed: {AT_WORK}. Wait for" in said
    assert "unlock" not in said
    assert owner.lock.exists()


def test_between_two_engines_of_a_command_no_other_command_begins(tmp_path: Path, owners: Callable[..., Owner]) -> None:
    owners().lock.unlink()
    assert AT_WORK in refusal(tmp_path)


def test_an_engine_that_outlives_its_command_keeps_the_lock(tmp_path: Path, owners: Callable[..., Owner]) -> None:
    owner = owners()
    owner.kill(engine=False)
    assert "is still working on it" in refusal(tmp_path)
    assert owner.lock.exists()


@pytest.mark.parametrize(
    ("does", "lock"),
    [
        ("nothing", {}),
        ("start", {"pid": 8}),
        ("start", {"hostname": "elsewhere"}),
        ("start", {"timestamp": "2026-11-24T12:00:00Z"}),
        ("start", {"timestamp": "yesterday"}),
        ("start", {"ago": timedelta(minutes=-2)}),
        ("start", {"ago": timedelta(minutes=2)}),
    ],
)
def test_a_lock_that_may_be_of_pulumi_itself_is_kept(
    tmp_path: Path, owners: Callable[..., Owner], does: str, lock: dict[str, Any]
) -> None:
    owner = owners(does=does, **lock)
    owner.kill()
    said = refusal(tmp_path)
    assert "it is not known as a lock of xfarm on this machine. Wait for that update to end" in said
    assert said.endswith("if you are sure that it runs on no machine, run 'xfarm unlock dev'.")
    assert owner.lock.exists()


def test_a_lock_taken_after_a_command_was_killed_is_kept_and_so_is_every_other(
    tmp_path: Path, owners: Callable[..., Owner]
) -> None:
    owner = owners()
    owner.kill()
    by_hand = take(tmp_path, "z by hand", pid=owner.engine)
    assert "it is not known as a lock of xfarm on this machine" in refusal(tmp_path)
    assert owner.lock.exists()
    assert by_hand.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"lock": "lock.json"}', '{"lock": "lock.js', '{"boot": "another"}'])
def test_a_record_of_another_machine_or_a_broken_one_proves_nothing(
    tmp_path: Path, owners: Callable[..., Owner], text: str
) -> None:
    owner = owners()
    owner.kill()
    record = tmp_path / RECORD
    if "boot" in text:
        text = json.dumps(json.loads(record.read_text(encoding="utf-8")) | json.loads(text))
    record.write_text(text, encoding="utf-8")
    assert "it is not known as a lock of xfarm on this machine" in refusal(tmp_path)
    assert owner.lock.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "?"}'])
def test_a_lock_that_can_t_be_read_is_kept(tmp_path: Path, content: str) -> None:
    lock = take(tmp_path)
    lock.write_text(content, encoding="utf-8")
    assert "locked by unknown@unknown (process 0) since an unknown time, and nothing was changed" in refusal(tmp_path)
    assert lock.exists()


@pytest.mark.parametrize("name", ["100 % sure", "a#b", "why?", "%41", "ü"])
def test_the_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    owner = Owner(root)
    owner.kill()
    assert released(root) == ["lock.json"]


def test_a_command_that_has_ended_leaves_a_record_that_proves_nothing(tmp_path: Path) -> None:
    with claim(tmp_path.as_uri(), "storage", "dev", print) as claimed:
        claimed.started(7, datetime.now(UTC))
        claimed.ended(failed=False)
    take(tmp_path, pid=7)
    assert "it is not known as a lock of xfarm on this machine" in refusal(tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_a_command_releases_the_lock_of_its_engine_that_was_killed_and_no_other(tmp_path: Path, *, named: bool) -> None:
    with claim(tmp_path.as_uri(), "storage", "dev", print) as claimed:
        claimed.started(7, datetime.now(UTC))
        lock = take(tmp_path, pid=7)
        if named:
            claimed.locked()
        other = take(tmp_path, "by hand", pid=8)
        claimed.ended(failed=True)
        assert not lock.exists()
        assert other.exists()


@pytest.mark.parametrize("url", ["", "gs://state", "azblob://state", "https://api.pulumi.com", "file://./here"])
def test_the_locks_of_other_backends_are_left_to_pulumi(url: str) -> None:
    assert store(url) is None
    with claim(url, "storage", "dev", print) as claimed:
        claimed.started(7, datetime.now(UTC))
        claimed.locked()
        claimed.ended(failed=False)
        assert not claimed.inherited


def test_the_folder_of_pulumi_s_own_login_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store("file://~/state?no_tmp_dir=true") == Folder(tmp_path / "state")


def test_a_folder_that_can_t_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".xfarm").write_text("a file", encoding="utf-8")
    assert refusal(tmp_path).endswith("make it a file that you can write to.")


def test_pulumi_s_refusal_becomes_a_sentence_that_says_what_to_do() -> None:
    said = conflict(
        "stderr: error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end\n"
        "  gs://state/.pulumi/locks/organization/storage/dev/1.json: created by anna@host (pid 7) at 2026-11-24T12:00Z"
    )
    assert said == (
        "the stack is locked by anna@host (process 7) since 2026-11-24T12:00Z, and nothing was changed: another update "
        "is in progress. Wait for that update to end, or, if you are sure that it runs on no machine, "
        "run 'xfarm unlock dev'"
    )
    assert conflict("[409] Conflict").endswith("run 'pulumi cancel'")
    assert locks.RUNS not in said


def test_unlock_deletes_all_locks_after_one_that_was_killed_at_any_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlock.targets, "activate", print)
    monkeypatch.setenv("PULUMI_BACKEND_URL", tmp_path.as_uri())
    names, left = ("first", "second"), set[int]()

    def take_both() -> list[Path]:
        return [take(tmp_path, name, hostname="another") for name in names]

    taken = take_both()
    for _line in at_each_line(lambda: unlock.unlock("dev", yes=True)):
        left.add(sum(lock.exists() for lock in taken))
        unlock.unlock("dev", yes=True)
        assert not any(lock.exists() for lock in taken)
        take_both()
    assert left == {0, 1, 2}
