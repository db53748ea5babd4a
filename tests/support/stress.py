"""Kills deployments and destructions, all of their processes, and lets the same command again finish what they began.

    python -m tests.stress [SEEDS]

does so with the pipeline itself, at moments that depend on the seed, for as many seeds as are asked for (default: 20).
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.checkout import Checkout

START = 2.0
"""Seconds before which nothing has happened yet: Python, the CLI and the plugin are starting."""


def session(leader: int) -> list[int]:
    """Return the processes that a process has started, directly or not, and that made no session of their own."""
    listed = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True).stdout.split()
    found = []
    for pid in map(int, listed):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def start(checkout: Checkout, *arguments: str) -> subprocess.Popen[str]:
    """Start the orchestrator in a session of its own, which no signal of ours leaves."""
    return subprocess.Popen(
        [sys.executable, "-m", "xfarm", *arguments],
        cwd=checkout.root,
        env=checkout.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> str:
    """Kill all that the orchestrator has started, and itself; return what it had said."""
    for pid in session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.communicate()[0]


def finish(checkout: Checkout, *arguments: str) -> str:
    """Run a command to its end, which has to be a good one, and return what it says."""
    done = checkout.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def left(checkout: Checkout) -> dict[str, list[str]]:
    """Return the names of what is in the copy's account, by kind; nothing where nothing at all is."""
    return {kind: names for kind, names in contents(checkout).items() if names}


def contents(checkout: Checkout) -> dict[str, list[str]]:
    """Return the names of all that is in the copy's account, without the random part that Pulumi gives to some."""
    sqs, iam, lambdas = checkout.client("sqs"), checkout.client("iam"), checkout.client("lambda")
    roles = [role["RoleName"] for role in iam.list_roles()["Roles"] if "/aws-service-role/" not in role["Path"]]

    def each(call: Any, key: str, name: str) -> list[str]:  # noqa: ANN401  a method of a client
        return [item[name] for item in call().get(key, [])]

    listed = {
        "buckets": each(checkout.client("s3").list_buckets, "Buckets", "Name"),
        "queues": sqs.list_queues().get("QueueUrls", []),
        "topics": each(checkout.client("sns").list_topics, "Topics", "TopicArn"),
        "alarms": each(checkout.client("cloudwatch").describe_alarms, "MetricAlarms", "AlarmName"),
        "groups": each(checkout.client("logs").describe_log_groups, "logGroups", "logGroupName"),
        "functions": each(lambdas.list_functions, "Functions", "FunctionName"),
        "mappings": each(lambdas.list_event_source_mappings, "EventSourceMappings", "EventSourceArn"),
        "roles": roles,
        "policies": [name for role in roles for name in iam.list_role_policies(RoleName=role)["PolicyNames"]],
        "attached": [
            policy["PolicyArn"]
            for role in roles
            for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        ],
    }
    return {kind: sorted(re.sub(r"-[0-9a-f]{7}$", "", name) for name in names) for kind, names in listed.items()}


def survive(checkout: Checkout, seed: int, expected: dict[str, list[str]], seconds: dict[str, float]) -> str:
    """Kill a deployment and a destruction at moments that ``seed`` decides; return what the commands said after it.

    Args:
        checkout: Has nothing deployed, before as after.
        seed: Decides the moments.
        expected: What is there after a deployment that nobody kills.
        seconds: How long "deploy" and "destroy" take.
    """
    chance = random.Random(seed)  # noqa: S311  nobody is to be surprised
    said = ""
    for command in ("deploy", "destroy"):
        process = start(checkout, command)
        time.sleep(chance.uniform(START, seconds[command]))
        kill(process)
        said += finish(checkout, command)
        if command == "destroy":
            assert not left(checkout), f"seed {seed}: {left(checkout)}"
        else:
            assert contents(checkout) == expected, f"seed {seed}: {contents(checkout)}"
            planned = json.loads(finish(checkout, "preview", "--json"))
            assert all(set(stack["changes"]) == {"same"} for stack in planned), f"seed {seed}: {planned}"
    return said


def measure(checkout: Checkout) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Deploy and destroy without disturbance; return what is there in between, and how long each took."""
    seconds = {}
    there: dict[str, list[str]] = {}
    for command in ("deploy", "destroy"):
        begun = time.monotonic()
        finish(checkout, command)
        seconds[command] = time.monotonic() - begun
        there = there or contents(checkout)
    return there, seconds


def main() -> None:
    """Try one seed after the other, on the pipeline itself."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder))
        try:
            expected, seconds = measure(checkout)
            print(
                f"Undisturbed: {seconds['deploy']:.0f} s to deploy, {seconds['destroy']:.0f} s to destroy.", flush=True
            )
            for seed in range(seeds):
                begun = time.monotonic()
                said = survive(checkout, seed, expected, seconds)
                notes = [
                    line for line in said.splitlines() if "cut off" in line or "lock of" in line or "may have" in line
                ]
                print(f"Seed {seed}: {time.monotonic() - begun:.0f} s. {' '.join(notes)}", flush=True)
        finally:
            checkout.emulator.stop()


if __name__ == "__main__":
    main()
