"""Which locks in a bucket are released: those of runs of a workflow that have ended, and those that a person names."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import account, github
from tests.support.github import REPOSITORY, TOKEN, GitHub
from tests.support.http_server import serving
from xfarm.emulator.server import REGION, Emulator
from xfarm.errors import UserError
from xfarm.orchestrator.locks import claim
from xfarm.paths import ROOT

URL = f"s3://state/team?region={REGION}"
LOCKS = "team/.pulumi/locks/organization/storage/dev/"
NAME = f"{LOCKS}1234.json"


@pytest.fixture
def api() -> Iterator[GitHub]:
    with serving(github.GitHub()) as api:
        yield api


def keys(s3: Any) -> list[str]:  # noqa: ANN401 - a client
    return [item["Key"] for item in s3.list_objects_v2(Bucket="state").get("Contents", [])]


def take(s3: Any, key: str = NAME, *, hours: int = 0) -> None:  # noqa: ANN401 - a client
    """Write a lock as Pulumi does, hours ago."""
    since = datetime.now(UTC) - timedelta(hours=hours)
    content = {"pid": 7, "username": "runner", "hostname": "runnervm", "timestamp": since.isoformat()}
    s3.put_object(Bucket="state", Key=key, Body=json.dumps(content))


def cut_off(s3: Any, monkeypatch: pytest.MonkeyPatch, runner: dict[str, str]) -> None:  # noqa: ANN401 - a client
    """Leave what a run leaves that is killed while its engine works."""
    for name, value in runner.items():
        monkeypatch.setenv(name, value)
    with claim(URL, "storage", "dev", print) as claimed:
        claimed.started(7, datetime.now(UTC))
        take(s3)
        claimed.locked()


def refusal() -> str:
    with pytest.raises(UserError) as error, claim(URL, "storage", "dev", print):
        pass
    return str(error.value)


def test_the_lock_of_a_run_that_has_ended_is_released(
    s3: Any,  # noqa: ANN401 - a client
    api: GitHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut_off(s3, monkeypatch, api.runner(41, attempt=2))
    assert keys(s3) == [NAME, "team/.xfarm/locks/storage/dev.json"]
    for name, value in api.runner(42).items():
        monkeypatch.setenv(name, value)

    said = refusal()
    assert "the stack is locked by runner@runnervm (process 7) since " in said
    assert f"run 41, attempt 2, of {REPOSITORY} still runs (in_progress). Wait for that update to end" in said
    assert NAME in keys(s3)

    api.end(41, attempt=2)
    with claim(URL, "storage", "dev", print) as claimed:
        assert [lock.path for lock in claimed.released] == [NAME.removeprefix("team/")]
    assert NAME not in keys(s3)
    assert set(api.requests) == {"GET actions/runs/41/attempts/2"}
    assert TOKEN not in said + capsys.readouterr().out + str(s3.get_object(Bucket="state", Key=keys(s3)[0]))


DOUBTS: dict[str, tuple[dict[str, str], str]] = {
    "another lock": ({}, "whether its owner still runs is not known"),
    "no record": ({}, "whether its owner still runs is not known"),
    "another repository": (
        {"GITHUB_REPOSITORY": "farm/other"},
        f"it is the lock of run 41, attempt 1, of {REPOSITORY}",
    ),
    "no token": ({"GITHUB_TOKEN": ""}, "without GITHUB_TOKEN, GitHub can't be asked whether that has ended"),
    "another token": ({"GITHUB_TOKEN": "stolen"}, "has ended (HTTP 401; the job needs the permission 'actions: read')"),
    "no such run": ({}, "has ended (HTTP 404; the job needs the permission 'actions: read')"),
    "GitHub's fault": ({}, f"does not say whether run 41, attempt 1, of {REPOSITORY} has ended (HTTP 503)"),
    "no network": ({"GITHUB_API_URL": "http://127.0.0.1:1"}, "GitHub can't be reached to ask whether run 41"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_lock_is_kept_if_there_is_any_doubt(
    s3: Any,  # noqa: ANN401 - a client
    api: GitHub,
    monkeypatch: pytest.MonkeyPatch,
    doubt: str,
) -> None:
    environment, reason = DOUBTS[doubt]
    cut_off(s3, monkeypatch, api.runner(41))
    api.end(41)
    if doubt == "another lock":
        s3.delete_object(Bucket="state", Key=NAME)
        take(s3, f"{LOCKS}5678.json")
    if doubt == "no record":
        s3.delete_object(Bucket="state", Key="team/.xfarm/locks/storage/dev.json")
    if doubt == "no such run":
        api.runs.clear()
    if doubt == "GitHub's fault":
        api.refusal = 503
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    before = keys(s3)
    said = refusal()
    assert reason in said
    assert said.endswith("if you are sure that it runs on no machine, run 'xfarm unlock dev'.")
    assert TOKEN not in said
    assert keys(s3) == before


@pytest.mark.parametrize("environment", [{"RUNNER_ENVIRONMENT": "self-hosted"}, {"RUNNER_ENVIRONMENT": ""}])
def test_only_runs_on_github_s_own_machines_leave_a_record(
    s3: Any,  # noqa: ANN401 - a client
    api: GitHub,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
) -> None:
    cut_off(s3, monkeypatch, api.runner(41) | environment)
    assert keys(s3) == [NAME]
    api.end(41)
    assert "whether its owner still runs is not known" in refusal()


def test_what_aws_refuses_is_a_sentence(s3: Any) -> None:  # noqa: ANN401 - a client
    assert s3
    with (
        pytest.raises(UserError, match=r"AWS refused ListObjectsV2: .*NoSuchBucket"),
        claim("s3://missing", "storage", "dev", print),
    ):
        pass


@pytest.fixture
def environment(emulator: Emulator, s3: Any, tmp_path: Path) -> dict[str, str]:  # noqa: ANN401 - a client
    """Return the environment of a person with this account, and with a Pulumi that is never asked anything."""
    assert s3
    (tmp_path / "pulumi").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "pulumi").chmod(0o755)
    keep = {"AWS_ENDPOINT_URL": emulator.endpoint, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return account.KEYS | account.REGION_SETTING | keep | {"PULUMI_BACKEND_URL": URL}


def test_unlock_shows_the_locks_and_releases_them(
    s3: Any,  # noqa: ANN401 - a client
    api: GitHub,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_off(s3, monkeypatch, api.runner(41))
    take(s3, hours=3)
    other = f"{LOCKS.replace('storage', 'compute')}5678.json"
    take(s3, other)

    asked = account.xfarm("unlock", "dev", **environment)
    assert asked.returncode == 2
    assert "error: unlock of 'dev' needs --yes if there is no terminal to confirm it at.\n" in asked.stderr
    assert {NAME, other} < set(keys(s3))

    done = account.xfarm("unlock", "dev", "--yes", **environment)
    assert done.returncode == 0, done.stderr
    storage, compute, last = done.stdout.splitlines()
    assert storage.startswith("storage is locked by runner@runnervm (process 7) since ")
    assert storage.endswith(f" (3 h 0 min ago); it is the lock of run 41, attempt 1, of {REPOSITORY}.")
    assert compute.startswith("compute is locked by runner@runnervm (process 7) since ")
    assert compute.endswith(" (0 h 0 min ago); whether its owner still runs is not known.")
    assert last == "Unlocked: run 'xfarm deploy dev' to continue."
    assert keys(s3) == ["team/.xfarm/locks/storage/dev.json"]

    again = account.xfarm("unlock", "dev", "--yes", **environment)
    assert again.stdout == "Nothing to unlock: no project of 'dev' is locked.\n"


@pytest.mark.parametrize(("answer", "unlocks"), [("dev", True), ("yes", False)])
def test_unlock_asks(s3: Any, environment: dict[str, str], answer: str, *, unlocks: bool) -> None:  # noqa: ANN401 - a client
    take(s3)
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "xfarm", "unlock", "dev"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.write(terminal, f"{answer}\n".encode())
    said = process.communicate()[0]
    os.close(terminal)
    os.close(theirs)
    assert "two at the same time can damage the state" in said
    assert "Type 'dev' if you are sure that no update of it runs on any machine:" in said
    assert ("that was not 'dev', so nothing was unlocked" in said) is not unlocks
    assert keys(s3) == ([] if unlocks else [NAME])


def test_unlock_says_what_to_do_where_it_can_t_read_the_locks(environment: dict[str, str]) -> None:
    done = account.xfarm("unlock", "dev", **environment | {"PULUMI_BACKEND_URL": "gs://state"})
    assert done.returncode == 1
    assert "run 'pulumi cancel dev' in the folder of the project that is locked" in done.stderr


def test_unlock_leaves_alone_what_a_living_command_has(environment: dict[str, str], tmp_path: Path) -> None:
    url = (tmp_path / "backend").as_uri()
    with claim(url, "messaging", "dev", print):
        done = account.xfarm("unlock", "dev", "--yes", **environment | {"PULUMI_BACKEND_URL": url})
    assert done.returncode == 1
    assert "error: messaging: the stack is locked, and nothing was changed: another xfarm command" in done.stderr
