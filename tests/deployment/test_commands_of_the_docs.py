"""The commands in README, CONTRIBUTING and docs do what the pages say, exactly as written there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.deployment.test_deploy_workflow import SECRETS, STATE_BUCKET, Runner, runner
from tests.support import docs
from tests.support.checkout import COMMAND_TIMEOUT_S, HOST, PLUGIN, Checkout, free_port
from xfarm.paths import ROOT

__all__ = ["runner"]

BLOCKS = {
    f"{page.relative_to(ROOT)}: {heading}": block for page in docs.PAGES for heading, block in docs.blocks(page).items()
}
DEMO = BLOCKS.pop("README.md: Try it")
DEPLOY = BLOCKS.pop("README.md: Deploy to an AWS account")
OPERATE = BLOCKS.pop("README.md: Operate")
BY_HAND = BLOCKS.pop("docs/deploying.md: One project with pulumi")
BY_HAND_DEV = BLOCKS.pop("docs/deploying.md: One project with pulumi 2")
NEW_STACK = BLOCKS.pop("docs/deploying.md: Another stack")
COMPLETION = BLOCKS.pop("docs/commands.md: Shell completion")

NOT_RUN = {
    "README.md: Try it 2": "CI runs this command: tests/unit/test_workflows.py compares the two",
    "CONTRIBUTING.md: Tests": "the same, without the installation",
    "docs/permissions.md: Create the roles": "there is no AWS CLI; tests/support/roles.py makes the same requests",
    "docs/permissions.md: Check before you deploy": "tests/emulator/test_check.py runs it, with the roles of that page",
    "docs/deploying.md: Another bucket name": "tests/deployment/test_orchestrator_changes.py runs it",
    "docs/deploying.md: Another bucket name 2": "the same",
    "docs/deploying.md: Interrupted deployments": "tests/emulator/test_orchestrator_locks.py runs it",
    "CONTRIBUTING.md: Dependencies": "asks the package index for the newest versions, so its result changes every day",
}

EXPECTED = {
    "xfarm send local examples": "readings.csv -> outputs/readings.csv.json (",
    "xfarm status local": "xFarmMainQueue",
    "xfarm dead-letters local": "xFarmDeadLetterSqs",
    "xfarm redrive local": "xFarmDeadLetterSqs",
    "xfarm audit local": " 0 lost.",
    "xfarm logs local": "processed inputs/readings.csv (attempt 1 of 5",
    "xfarm drift local": "no change",
    "xfarm new-stack prod": "Wrote stacks/storage/Pulumi.prod.yaml.",
    "xfarm preview dev": "Account 000000000000",
    "xfarm outputs dev": "xFarmLambdaFunction",
    ".venv/bin/nox -s demo": "readings.csv -> outputs/readings.csv.json (",
}
"""A part of the output of each command whose exit code alone does not show that it worked."""


def shell(checkout: Checkout, script: str, answer: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell with the project's environment activated, at a terminal where somebody types `answer`."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(".venv/bin/", f"{Path(sys.executable).parent}/")],
            cwd=checkout.root,
            env=activated(checkout, **environment),
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    finally:
        os.close(ours)
        os.close(theirs)


def activated(checkout: Checkout, **environment: str) -> dict[str, str]:
    """Return the variables of a shell with the project's environment activated."""
    path = f"{Path(sys.executable).parent}:{environment.pop('PATH', os.environ['PATH'])}"
    return checkout.environment | environment | {"PATH": path}


def expect(done: subprocess.CompletedProcess[str], command: str) -> None:
    """Check that a command succeeded and has the expected output."""
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert EXPECTED.get(command, "") in done.stdout + done.stderr, f"{command}\n{done.stdout}{done.stderr}"


def test_every_block_of_commands_is_run_or_has_a_reason_why_not() -> None:
    assert BLOCKS.keys() == NOT_RUN.keys()


def test_the_commands_for_operating_and_the_demo(deployed: Checkout) -> None:
    for command in (*OPERATE, DEMO[0].rpartition("&& ")[2]):
        if command == "xfarm watch local":
            watch(deployed, command)
        else:
            expect(shell(deployed, command), command)


def watch(checkout: Checkout, command: str) -> None:
    """Run a command that serves until Ctrl-C, at a free port, and press Ctrl-C as soon as it does."""
    # Child processes inherit an ignored signal, and pytest in the background ignores this one.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(
            [*command.split(), "--port", str(free_port())],
            cwd=checkout.root,
            env=activated(checkout),
            stdout=subprocess.PIPE,
            text=True,
        ) as serving:
            for line in serving.stdout or ():
                if line.startswith("Serving"):
                    serving.send_signal(signal.SIGINT)
        assert serving.returncode == 0
    finally:
        signal.signal(signal.SIGINT, previous)


def test_the_pulumi_commands_by_hand(deployed: Checkout) -> None:
    done = shell(deployed, "\n".join(BY_HAND))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout


def test_the_command_for_another_stack(deployed: Checkout) -> None:
    for command in NEW_STACK:
        expect(shell(deployed, command), command)


def test_the_commands_for_deploying(runner: Runner) -> None:
    alone = SECRETS | runner.checkout.pulumi() | {"AWS_ENDPOINT_URL": runner.checkout.emulator.endpoint}
    environment = alone | runner.checkout.pulumi(HOST, PLUGIN)
    for command in DEPLOY:
        answer = {"xfarm deploy dev": "yes", "xfarm destroy dev": "dev"}.get(command, "")
        expect(shell(runner.checkout, command, answer, **environment), command)
        if command == "xfarm outputs dev":
            (location,) = BY_HAND_DEV
            location = location.replace("xfarm-pipeline-state-ACCOUNT-REGION", STATE_BUCKET)
            script = f"{location}\ncd stacks/storage && pulumi preview --stack dev --expect-no-changes"
            by_hand = shell(runner.checkout, script, **alone)
            assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
    assert runner.checkout.client("lambda").list_functions()["Functions"] == []


def test_the_shell_completes_commands_and_stacks(tmp_path: Path) -> None:
    tail = (
        'complete -p xfarm; COMP_WORDS=(xfarm deploy d); COMP_CWORD=2; _xfarm_completion xfarm; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", "\n".join((*COMPLETION, tail))],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("dev\n"), done.stdout + done.stderr
