"""Previews that fail or are interrupted: what can be planned is shown, and each cause is one sentence."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import stress
from tests.support.checkout import Checkout
from tests.support.faulty_aws import FaultyAws
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.small_stacks",)


def break_program(checkout: Checkout, project: str) -> Path:
    """Let a project's program fail, after all that it declares; return its file."""
    program = checkout.root / "stacks" / project / "__main__.py"
    program.write_text(program.read_text(encoding="utf-8") + '\nraise pulumi.RunError("no such farm")\n', "utf-8")
    return program


@pytest.fixture
def deployed(small: Checkout) -> Checkout:
    """Return the two projects, deployed; the log group of each would change."""
    stress.finish(small, "deploy")
    return small


@pytest.mark.parametrize(("broken", "outcomes"), [("alpha", ["failed", "left out"]), ("beta", ["done", "failed"])])
def test_the_rest_of_the_plan_is_shown_if_a_stack_fails(deployed: Checkout, broken: str, outcomes: list[str]) -> None:
    program = break_program(deployed, broken)
    before = program.read_text(encoding="utf-8")
    deployed.configure("alpha", "local", days=14)
    try:
        failed = deployed.run("preview", "--json")
    finally:
        deployed.configure("alpha", "local", days=7)
        program.write_text(before.rpartition("\nraise ")[0], encoding="utf-8")
    assert failed.returncode == 1
    assert [report["outcome"] for report in json.loads(failed.stdout)] == outcomes
    lines = failed.stderr.splitlines()
    assert [line for line in lines if "no such farm" in line] == [f"  {broken} no such farm"]
    assert "~ alpha      log-group aws:cloudwatch/logGroup:LogGroup" in lines
    assert f"{broken} failed: see the errors above." in lines
    assert "Traceback" not in failed.stderr


@pytest.fixture
def held(deployed: Checkout, faulty: FaultyAws) -> Iterator[tuple[subprocess.Popen[str], threading.Event]]:
    """Yield a preview that waits for AWS, and the event that lets AWS respond."""
    asked, released = threading.Event(), threading.Event()

    def hold(_action: str) -> None:
        asked.set()
        released.wait(300)

    faulty.delay = hold
    process = stress.start(deployed, "preview", "--refresh")
    assert asked.wait(300)
    yield process, released
    released.set()


def test_ctrl_c_ends_a_preview_without_an_error(
    deployed: Checkout, held: tuple[subprocess.Popen[str], threading.Event]
) -> None:
    process, released = held
    os.killpg(process.pid, signal.SIGINT)
    stress.read_until(process, "press Ctrl-C again to stop at once.")
    released.set()  # the engines have their signal
    output = process.communicate()[0]
    assert process.returncode == 1
    rows = [line.split()[:2] for line in output.splitlines() if line]
    assert rows == [["stack", "outcome"], ["alpha", "stopped"], ["beta", "stopped"]]
    eventually(lambda: not stress.session(process.pid) and not stress.programs(deployed), seconds=60)


def test_a_preview_during_which_the_emulator_is_stopped_says_so(
    deployed: Checkout, held: tuple[subprocess.Popen[str], threading.Event]
) -> None:
    process, released = held
    assert deployed.run("emulator", "stop").returncode == 0
    released.set()
    output = process.communicate()[0]
    assert process.returncode == 1
    assert "The AWS emulator ended meanwhile: run the same command again, which starts it." in output, output
    assert deployed.run("preview").returncode == 0
