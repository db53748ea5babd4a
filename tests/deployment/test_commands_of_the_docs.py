"""The README's commands do what it says, each as it stands there; its test command is what CI runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.deployment.test_deploy_workflow import SECRETS, STATE_BUCKET, Runner, runner
from tests.support.checkout import HANGS_S, Checkout
from xfarm.paths import ROOT

__all__ = ["runner"]

DEMO, TESTS, DEPLOY, BY_HAND, BY_HAND_DEV, OPERATE = re.findall(
    r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


def commands(block: str) -> list[str]:
    """Return the commands of a block, without what is said of them."""
    return [line.partition("  #")[0].strip() for line in block.strip().splitlines()]


def shell(checkout: Checkout, script: str, answer: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as at a terminal, where ``answer`` is typed, in a shell that knows the project's environment."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        path = f"{Path(sys.executable).parent}:{environment.pop('PATH', os.environ['PATH'])}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(".venv/bin/", f"{Path(sys.executable).parent}/")],
            cwd=checkout.root,
            env=checkout.environment | environment | {"PATH": path},
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANGS_S,
        )
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_commands_that_operate_and_the_demo(deployed: Checkout) -> None:
    for command in (*commands(OPERATE), commands(DEMO)[0].rpartition("&& ")[2]):
        if "watch" in command:
            # Serves until it is ended, as soon as it says that it does. (A background job would not hear Ctrl-C.)
            end = "grep -m 1 'shows it' && pkill --session 0 -TERM -f '[w]atch local'"
            command = f"set +o pipefail; {command} 2>&1 | {{ {end}; }}"  # noqa: PLW2901
        done = shell(deployed, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_commands_by_hand(deployed: Checkout) -> None:
    done = shell(deployed, BY_HAND)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout


def test_the_commands_that_deploy(runner: Runner) -> None:
    pulumi = runner.pulumi()
    environment = SECRETS | {name: pulumi[name] for name in ("PATH", "PULUMI_HOME", "AWS_ENDPOINT_URL")}
    for command in commands(DEPLOY):
        answer = {"nox -s deploy -- dev": "yes", "nox -s destroy -- dev": "dev"}.get(command, "")
        done = shell(runner.checkout, command, answer, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "outputs" in command:
            assert "xFarmLambdaFunction" in done.stdout
            place = BY_HAND_DEV.replace("xfarm-pipeline-state-ACCOUNT-REGION", STATE_BUCKET)
            script = f"{place}\ncd stacks/storage && pulumi preview --stack dev --expect-no-changes"
            by_hand = shell(runner.checkout, script, **environment)
            assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
    assert runner.checkout.client("lambda").list_functions()["Functions"] == []
