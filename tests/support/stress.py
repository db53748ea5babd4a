"""Kills deployments with all their processes, and checks that the same command completes them.

`python -m tests.support.stress [SEEDS]` does so with the pipeline, at random points, once for each seed (default: 20).
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
from typing import Any, Final

from tests.support.checkout import Checkout

STARTUP_S: Final = 2.0
"""The time that Python, the CLI and the plugin take to start, in seconds."""


def session(leader: int) -> list[int]:
    """Return the processes in the session of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True).stdout.split()
    found = []
    for pid in map(int, listed):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def programs(checkout: Checkout) -> list[str]:
    """Return the processes that run the programs of a copy's projects; the language host is in no command's session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            folder, command = (process / "cwd").readlink(), (process / "comm").read_text().strip()
            if folder.parent == checkout.root / "stacks" and command != "pulumi":
                found.append(process.name)
    return found


def start(checkout: Checkout, *arguments: str, under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start an `xfarm` command, under another one if given, in its own session: no other process gets its signals."""
    return subprocess.Popen(
        [*under, sys.executable, "-m", "xfarm", *arguments],
        cwd=checkout.root,
        env=checkout.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what a command prints up to the line with a text, and assert that it does not end before."""
    assert process.stdout
    printed = ""
    while text not in printed:
        assert process.poll() is None, printed
        printed += process.stdout.readline()
    return printed


def kill(process: subprocess.Popen[str]) -> str:
    """Kill a command and all its child processes, and return its output."""
    for pid in session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.communicate()[0]


def finish(checkout: Checkout, *arguments: str) -> str:
    """Run a command, assert that it succeeds, and return its output."""
    done = checkout.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def left(checkout: Checkout) -> dict[str, list[str]]:
    """Return the names of what is in the copy's account, by kind, without empty kinds."""
    return {kind: names for kind, names in contents(checkout).items() if names}


def contents(checkout: Checkout) -> dict[str, list[str]]:
    """Return the names of all resources in the copy's account, by kind and without Pulumi's random suffixes."""
    sqs, iam, lambdas = checkout.client("sqs"), checkout.client("iam"), checkout.client("lambda")
    roles = [role["RoleName"] for role in iam.list_roles()["Roles"] if "/aws-service-role/" not in role["Path"]]

    def each(call: Any, key: str, name: str) -> list[str]:  # noqa: ANN401 - a method of a client
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


def kill_and_finish(checkout: Checkout, seed: int, expected: dict[str, list[str]], seconds: dict[str, float]) -> str:
    """Kill a deployment, finish it, do the same with its destruction, and return the output of the commands.

    Args:
        checkout: A copy with nothing deployed.
        seed: The seed for the times at which the commands are killed.
        expected: The contents of the account after a deployment.
        seconds: How long "deploy" and "destroy" take.
    """
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    output = ""
    for command in ("deploy", "destroy"):
        process = start(checkout, command)
        time.sleep(chance.uniform(STARTUP_S, seconds[command]))
        kill(process)
        output += finish(checkout, command)
        if command == "destroy":
            assert not left(checkout), f"seed {seed}: {left(checkout)}"
        else:
            assert contents(checkout) == expected, f"seed {seed}: {contents(checkout)}"
            planned = json.loads(finish(checkout, "preview", "--json"))
            assert all(set(stack["changes"]) == {"same"} for stack in planned), f"seed {seed}: {planned}"
    return output


def measure(checkout: Checkout) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Deploy and destroy without killing, and return the account's contents in between, and the time of each."""
    seconds = {}
    deployed: dict[str, list[str]] = {}
    for command in ("deploy", "destroy"):
        started = time.monotonic()
        finish(checkout, command)
        seconds[command] = time.monotonic() - started
        deployed = deployed or contents(checkout)
    return deployed, seconds


def main() -> None:
    """Kill and finish deployments of the pipeline, one for each seed."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder))
        try:
            expected, seconds = measure(checkout)
            print(
                f"Not killed: {seconds['deploy']:.0f} s to deploy, {seconds['destroy']:.0f} s to destroy.", flush=True
            )
            for seed in range(seeds):
                started = time.monotonic()
                output = kill_and_finish(checkout, seed, expected, seconds)
                notes = [
                    line
                    for line in output.splitlines()
                    if "interrupted" in line or "lock of" in line or "may have" in line
                ]
                print(f"Seed {seed}: {time.monotonic() - started:.0f} s. {' '.join(notes)}", flush=True)
        finally:
            checkout.emulator.stop()


if __name__ == "__main__":
    main()
