"""Deployments that are interrupted, killed, or in each other's way, and what the same command makes of it later."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support import stress
from tests.support.checkout import Checkout
from tests.support.faulty_aws import FaultyAws
from tests.support.waiting import eventually, is_free

pytest_plugins = ("tests.support.small_stacks",)

PATIENCE_S = 300
"""How long to wait for what happens in seconds on an idle machine: half of `IDLE_S`, after which servers end anyway."""

FUNCTION = "POST /2015-03-31/functions"


def deployed(checkout: Checkout) -> bool:
    """Whether there is nothing left to deploy, and nothing is there twice."""
    planned = json.loads(stress.finish(checkout, "preview", "--json"))
    return all(set(stack["changes"]) == {"same"} for stack in planned) and stress.contents(checkout) == {
        "buckets": ["alpha-bucket"],
        "queues": [],
        "topics": ["arn:aws:sns:eu-west-1:000000000000:alpha-topic"],
        "alarms": ["alarm"],
        "groups": ["/aws/lambda/alpha-function", "alpha-log-group"],
        "functions": ["alpha-function"],
        "mappings": [],
        "roles": ["alpha-role"],
        "policies": ["policy"],
        "attached": ["arn:aws:iam::aws:policy/AmazonS3FullAccess"],
    }


def test_ctrl_c_lets_what_was_begun_be_done_and_a_second_deployment_finds_it_so(
    small: Checkout, faulty: FaultyAws
) -> None:
    process, released = deploy_until_the_function_is_made(small, faulty)
    other = small.run("deploy")
    eventually(lambda: all(stress.contents(small)[kind] for kind in ("policies", "attached", "alarms")))
    # A terminal sends the signal to all of its foreground's process group.
    os.killpg(process.pid, signal.SIGINT)
    said = stress.read_until(process, "Stopping once")
    released.set()
    said += process.communicate()[0]

    assert other.returncode == 1
    assert "the stack is locked by " in other.stdout
    assert "(process " in other.stdout
    assert "released" not in other.stdout

    assert process.returncode == 1
    assert "Stopping once the operations in progress are done" in said
    assert "+ alpha      function" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.rpartition("seconds\n")[2].splitlines()}
    assert rows["alpha"][:2] == ["stopped", "8"]
    assert rows["beta"][:2] == ["left", "out"]
    assert "Traceback" not in said
    eventually(lambda: not stress.session(process.pid) and not stress.programs(small), seconds=PATIENCE_S)

    # Pulumi would not write them atomically, see `local_environment.prepare`.
    assert not list((small.root / ".local" / "state").rglob("*.attrs"))
    again = stress.finish(small, "deploy")
    assert "interrupted" not in again
    assert "lock" not in again
    assert deployed(small)


@pytest.mark.parametrize("command", ["deploy", "destroy"])
@pytest.mark.parametrize(
    "creations",
    [
        {"PUT /alpha-bucket", "CreateLogGroup", "CreateRole", "CreateTopic"},
        {"PutRolePolicy", "PutMetricAlarm", "AttachRolePolicy", FUNCTION},
    ],
)
def test_what_was_created_but_not_noted_is_found_again_and_not_made_twice(
    small: Checkout, faulty: FaultyAws, creations: set[str], command: str
) -> None:
    held: set[str] = set()
    killed = threading.Event()

    def hold(action: str) -> None:
        if action in creations:
            held.add(action)
            killed.wait(PATIENCE_S)

    faulty.delay = hold
    process = stress.start(small, "deploy")
    eventually(lambda: held == creations, seconds=PATIENCE_S)
    stress.kill(process)
    killed.set()
    faulty.reset()
    said = stress.finish(small, command)
    assert "alpha: released the lock of " in said
    assert ", as its owner has ended." in said
    assert "Looking for what it did to" in said
    assert deployed(small) if command == "deploy" else not stress.left(small)


def deploy_until_the_function_is_made(
    checkout: Checkout, faulty: FaultyAws, *command: str
) -> tuple[subprocess.Popen[str], threading.Event]:
    """Start a deployment; return it once AWS has made the function, and what lets that be told."""
    asked, released = threading.Event(), threading.Event()

    def hold(action: str) -> None:
        if action == FUNCTION:
            asked.set()
            released.wait(PATIENCE_S)

    faulty.delay = hold
    process = stress.start(checkout, "deploy", under=command)
    assert asked.wait(PATIENCE_S)
    return process, released


def test_no_process_outlives_an_engine_that_is_killed(small: Checkout, faulty: FaultyAws) -> None:
    process, released = deploy_until_the_function_is_made(small, faulty)
    names = {pid: _name(pid) for pid in stress.session(process.pid)}
    (engine,) = [pid for pid, name in names.items() if name == "pulumi"]
    assert stress.programs(small)
    os.kill(engine, signal.SIGKILL)
    process.communicate()
    eventually(lambda: not stress.session(process.pid) and not stress.programs(small), seconds=PATIENCE_S)
    released.set()
    assert process.returncode == 1


def test_plugin_and_language_host_serve_later_commands_and_end_with_the_emulator(small: Checkout) -> None:
    stress.finish(small, "preview")
    running = servers(small)
    stress.finish(small, "preview")
    assert len(running) == 2
    assert servers(small) == running
    small.emulator.stop()
    eventually(lambda: not servers(small), seconds=PATIENCE_S)
    assert small.run("emulator", "start").returncode == 0


def servers(checkout: Checkout) -> set[Path]:
    """Return the records of the servers that run."""
    return {path for path in (checkout.root / ".local" / "servers").glob("*/server") if not is_free(path)}


def test_what_an_engine_has_begun_is_finished_even_if_the_orchestrator_alone_is_killed(
    small: Checkout, faulty: FaultyAws
) -> None:
    process, released = deploy_until_the_function_is_made(small, faulty)
    process.kill()
    process.communicate()
    assert any(_name(pid) == "pulumi" for pid in stress.session(process.pid))
    released.set()
    eventually(lambda: not stress.session(process.pid), seconds=PATIENCE_S)
    assert "function" in {each["urn"].rpartition("::")[2] for each in small.resources("alpha")}
    stress.finish(small, "deploy")
    assert deployed(small)


def _name(pid: int) -> str:
    told = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return Path(told.strip()).name


def test_the_lock_of_another_host_is_never_broken(small: Checkout) -> None:
    stress.finish(small, "deploy", "--only", "alpha")
    lock = small.root / ".local/state/.pulumi/locks/organization/alpha/local/1234.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner = {"pid": 2**22 + 1, "username": "anna", "hostname": "elsewhere", "timestamp": "2026-11-24T12:00:00Z"}
    lock.write_text(json.dumps(owner), encoding="utf-8")
    refused = small.run("deploy")
    assert refused.returncode == 1
    assert ".." not in refused.stdout  # the sentence has its full stop already
    assert f"the stack is locked by anna@elsewhere (process {owner['pid']})" in refused.stdout
    assert "run 'xfarm unlock local'" in refused.stdout
    assert lock.exists()
    assert small.run("unlock", "--yes").returncode == 0
    assert not lock.exists()


IN_ANOTHER_CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
"""Runs a command where it has the host's name, but process IDs of its own ("unshare(1)")."""


@pytest.mark.skipif(
    subprocess.run([*IN_ANOTHER_CONTAINER, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs Linux's user namespaces",
)
def test_a_living_lock_is_kept_though_its_process_is_in_another_container(small: Checkout, faulty: FaultyAws) -> None:
    process, released = deploy_until_the_function_is_made(small, faulty, *IN_ANOTHER_CONTAINER)
    other = small.run("deploy")
    released.set()
    said = process.communicate()[0]
    assert other.returncode == 1
    assert (
        "another xfarm command on this machine, or Pulumi that a killed one has started, is still working on it"
        in other.stdout
    )
    assert "released" not in other.stdout
    assert process.returncode == 0, said
    assert deployed(small)


@pytest.fixture(scope="module")
def undisturbed(emulated: Checkout) -> tuple[dict[str, list[str]], dict[str, float]]:
    return stress.measure(emulated)


@pytest.mark.parametrize("seed", range(3))
def test_whenever_it_is_killed_the_same_command_comes_to_the_same_end(
    small: Checkout, seed: int, undisturbed: tuple[dict[str, list[str]], dict[str, float]]
) -> None:
    stress.kill_and_finish(small, seed, *undisturbed)
