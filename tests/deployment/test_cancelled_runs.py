"""What the deploy workflow's step leaves when GitHub cancels its run, and what the next run does about it."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import github, small_stacks, stress
from tests.support.checkout import Checkout
from tests.support.faulty_aws import FaultyAws, redirect
from tests.support.github import TOKEN, GitHub
from tests.support.http_server import serving
from tests.support.waiting import eventually
from xfarm.emulator.server import REGION
from xfarm.paths import ROOT

DEPLOYED = {
    "buckets": ["alpha-bucket", "state"],
    "topics": [f"arn:aws:sns:{REGION}:000000000000:alpha-topic"],
    "alarms": ["alarm"],
    "groups": ["/aws/lambda/alpha-function", "alpha-log-group"],
    "functions": ["alpha-function"],
    "roles": ["alpha-role"],
    "policies": ["policy"],
    "attached": ["arn:aws:iam::aws:policy/AmazonS3FullAccess"],
}


class Account:
    """A stack `dev` of the two small projects, with its state in a bucket, as runs of the workflow deploy it."""

    def __init__(self, checkout: Checkout, proxy: FaultyAws, api: GitHub) -> None:
        self.checkout = checkout
        self.proxy = proxy
        self.api = api
        self.s3 = checkout.client("s3")
        self.s3.create_bucket(Bucket="state", CreateBucketConfiguration={"LocationConstraint": REGION})
        for project in ("alpha", "beta"):
            folder = checkout.root / "stacks" / project
            # Pulumi writes the file again, with strings, when it creates the stack.
            settings = small_stacks.SETTINGS.replace("true", '"true"')
            (folder / "Pulumi.dev.yaml").write_text(settings, encoding="utf-8")
        redirect(checkout, "dev", ("alpha", "beta"), proxy.url)
        self.environment = checkout.pulumi() | {
            "AWS_ENDPOINT_URL": checkout.emulator.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "PULUMI_BACKEND_URL": f"s3://state?region={REGION}",
            "STACK": "dev",
        }

    def run(self, step: str, number: int) -> subprocess.Popen[str]:
        """Start a step of the workflow as the runner does, in a run with this ID."""
        workflow = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text(encoding="utf-8"))
        (script,) = [each["run"] for each in workflow["jobs"]["deploy"]["steps"] if each.get("name") == step]
        return subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.checkout.root,
            env=self.checkout.environment | self.environment | self.api.runner(number),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, step: str, number: int) -> tuple[int, str]:
        """Run a step, and return its exit code and its output."""
        process = self.run(step, number)
        said = process.communicate()[0]
        assert TOKEN not in said
        return process.returncode, said

    def locks(self) -> list[str]:
        """Return the keys of all locks."""
        listed = self.s3.list_objects_v2(Bucket="state", Prefix=".pulumi/locks/")
        return [item["Key"] for item in listed.get("Contents", [])]

    def run_until(self, request: str, step: str, number: int) -> tuple[subprocess.Popen[str], threading.Event]:
        """Start a step, return it once AWS has done what a request wants, and what lets AWS answer that request."""
        asked, answer = threading.Event(), threading.Event()

        def hold(action: str) -> None:
            if action == request:
                asked.set()
                answer.wait(300)

        self.proxy.delay = hold
        process = self.run(step, number)
        eventually(lambda: asked.is_set() or process.poll() is not None)
        assert asked.is_set(), process.communicate()[0]
        return process, answer


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    checkout = small_stacks.install(Checkout(tmp_path_factory.mktemp("cancelled")))
    checkout.emulator.start()
    with serving(FaultyAws(checkout.port)) as proxy, serving(github.GitHub()) as api:
        yield Account(checkout, proxy, api)
    checkout.emulator.stop()


def end(account: Account, process: subprocess.Popen[str], answer: threading.Event) -> None:
    """Kill what is left of a run's processes, as the runner does last."""
    for pid in stress.session(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    answer.set()
    account.proxy.reset()


def made(account: Account) -> dict[str, Any]:
    return {kind: names for kind, names in stress.contents(account.checkout).items() if names}


def test_a_run_that_was_killed_is_completed_by_the_next_once_github_says_that_it_has_ended(account: Account) -> None:
    process, answer = account.run_until("POST /2015-03-31/functions", "Deploy", 1)
    eventually(lambda: account.s3.list_objects_v2(Bucket="state", Prefix=".xfarm/")["KeyCount"])
    end(account, process, answer)
    (lock,) = account.locks()

    # The host has the same name, and no process of the lock's ID, and still the run may be going on.
    code, said = account.finish("Deploy", 2)
    assert code == 1
    assert "run 1, attempt 1, of farm/pipeline still runs (in_progress)" in said
    assert account.locks() == [lock]

    account.api.end(1)
    code, said = account.finish("Deploy", 3)
    assert code == 0, said
    assert "alpha: released the lock of " in said
    assert re.search(r"alpha: the last update was interrupted. Looking for what it did to .*\bfunction\b", said), said
    assert made(account) == DEPLOYED
    assert account.locks() == []


def interrupted(process: subprocess.Popen[str]) -> bool:
    """Return whether SIGINT is pending in any process of a session ("proc(5)", ShdPnd)."""
    pending = 0
    for pid in stress.session(process.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/status").read_text()
            pending |= int(re.findall(r"ShdPnd:\s*(\w+)", status)[0], 16)
    return bool(pending & 1 << signal.SIGINT - 1)


def test_a_cancelled_run_leaves_no_lock_and_the_next_completes_it(account: Account) -> None:
    process, answer = account.run_until("DELETE /2015-03-31/functions/alpha-function", "Destroy", 11)
    assert account.locks()
    # GitHub signals the step's first process alone: SIGINT, then SIGTERM.
    process.send_signal(signal.SIGINT)
    stress.read_until(process, "Stopping once the operations in progress are done")
    eventually(lambda: not interrupted(process))  # the same signal twice, as long as it is pending, is one
    process.send_signal(signal.SIGTERM)
    eventually(lambda: process.poll() is not None)
    end(account, process, answer)
    assert process.returncode == 1
    assert account.locks() == []

    asked = len(account.api.requests)
    code, said = account.finish("Destroy", 12)
    assert code == 0, said
    assert made(account) == {"buckets": ["state"]}
    assert len(account.api.requests) == asked
