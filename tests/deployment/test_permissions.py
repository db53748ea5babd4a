"""The whole life of a deployment, with nothing but the permissions of the shipped policies."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml

from tests.support import docs, roles, stress
from tests.support.checkout import HOST, Checkout, free_port
from tests.support.faulty_aws import FaultyAws
from tests.support.http_server import serving
from tests.support.waiting import eventually
from xfarm.emulator.server import REGION
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import STACKS

CHANGES: dict[str, dict[str, Any]] = {
    "storage": {"inputPrefix": "drop/", "outputPrefix": "results/"},
    "messaging": {
        "maxReceiveCount": 2,
        "consumerTimeoutSeconds": 5,
        "deadLetterAlarmCount": 2,
        "deadLetterAgeAlarmSeconds": 3600,
        "oldestMessageAlarmSeconds": 600,
        "alarmEmail": "anna@example.com",
    },
    "compute": {
        "memorySize": 512,
        "batchSize": 2,
        "maximumConcurrency": 5,
        "s3Access": "scoped",
        "kmsKeyArns": ["arn:aws:kms:eu-west-1:000000000000:key/1234"],
        "logRetentionDays": 7,
        "errorAlarmCount": 2,
        "throttleAlarmCount": 2,
    },
}
"""Another value for every setting."""
NOT_CHANGED = {"storage": {"bucketName"}}
"""The settings that a deployment can't change."""


@dataclass
class Life:
    """The commands of a life."""

    account: roles.Account
    pulumi: dict[str, str]

    @property
    def checkout(self) -> Checkout:
        """The copy of the project that is deployed."""
        return self.account.checkout

    def environment(self, role: str) -> dict[str, str]:
        """Return the variables of a command that works as a role."""
        return self.account.environment(role) | self.pulumi

    def run(self, role: str, *arguments: str) -> str:
        """Run a command as a role, assert that it succeeds, and return its output."""
        done = self.checkout.run(*arguments, **self.environment(role))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, role: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command as a role, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "xfarm", *arguments],
            cwd=self.checkout.root,
            env=self.checkout.environment | self.environment(role) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill_while_the_bucket_is_created(self) -> None:
        """Kill a deployment before AWS responds to the bucket's creation, and delete its lock, as only a person may."""
        created, killed = threading.Event(), threading.Event()

        def hold(action: str) -> None:
            if action == "PUT /xfarm-bucket-01":
                created.set()
                killed.wait(300)

        with serving(FaultyAws(self.checkout.port)) as proxy:
            proxy.delay = hold
            process = self.start("deploy", "deploy", "dev", "--only", "storage", "--yes", AWS_ENDPOINT_URL=proxy.url)
            assert created.wait(300)
            stress.kill(process)
            killed.set()
        s3, states = self.checkout.client("s3"), f"xfarm-pipeline-state-{roles.ACCOUNT}-{REGION}"
        for lock in s3.list_objects_v2(Bucket=states, Prefix=".pulumi/locks/").get("Contents", []):
            s3.delete_object(Bucket=states, Key=lock["Key"])

    def change_everything(self) -> None:
        """Change every setting, the function's code, and the tags of all resources."""
        for project, settings in CHANGES.items():
            self.checkout.configure(project, "dev", **settings)
        self.edit("lambda_code/process.py", "The work on one file.", "The work on each file.")
        self.edit("shared/tags.py", '"Team"', '"Owner"')

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text in a file of the copy."""
        path = self.checkout.root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def fail_a_file(self) -> None:
        """Put a message that can't be processed into the main queue, and wait until it is in the dead-letter queue."""
        sqs = self.checkout.client("sqs")
        main, dead = (
            sqs.get_queue_url(QueueName=name)["QueueUrl"] for name in ("xFarmMainQueue", "xFarmDeadLetterSqs")
        )
        sqs.set_queue_attributes(QueueUrl=main, Attributes={"VisibilityTimeout": "1"})
        sqs.send_message(QueueUrl=main, MessageBody="no event")
        name = "ApproximateNumberOfMessages"
        eventually(lambda: sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=[name])["Attributes"][name] == "1")

    def watch(self) -> None:
        """Serve the page as the operating role, and load what it shows once."""
        process = self.start("operate", "watch", "dev", "--port", str(free_port()))
        try:
            served = next(found for line in process.stdout or () if (found := re.search(r"http://127\S+/", line)))
            with build_opener(ProxyHandler({})).open(f"{served[0]}state") as answer:
                assert json.load(answer)["inputs"]["objects"] == len(list((self.checkout.root / "examples").iterdir()))
        finally:
            stress.kill(process)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Yield a copy of the project, with the roles in its account, and Pulumi as after its installation."""
    checkout = Checkout(tmp_path_factory.mktemp("life"))
    for project in dependencies():
        # Where the emulator differs from AWS: a bucket's name is no host's name there.
        checkout.configure(project, "dev", **{"aws:s3UsePathStyle": True})
    account = roles.Account(checkout)
    yield Life(account, checkout.pulumi(HOST))
    account.stop()


def test_every_setting_is_changed() -> None:
    for project, settings in CHANGES.items():
        declared = yaml.safe_load((STACKS / project / "Pulumi.yaml").read_text(encoding="utf-8"))["config"]
        assert settings.keys() == declared.keys() - NOT_CHANGED.get(project, set())


def test_the_policies_allow_a_whole_life(life: Life) -> None:
    life.edit("shared/tags.py", '"Application"', '"Team": "farm",\n        "Application"')
    assert "failed" not in life.run("deploy", "check", "dev")
    life.run("deploy", "bootstrap", "dev")
    life.kill_while_the_bucket_is_created()
    assert "Looking for what it did to bucket" in life.run("deploy", "deploy", "dev", "--yes")
    life.change_everything()
    life.run("deploy", "deploy", "dev", "--refresh", "--yes")

    assert "readings.csv -> results/readings.csv.json (" in life.run("operate", "send", "dev", "examples")
    life.fail_a_file()
    assert "xFarmMainQueue" in life.run("operate", "status", "dev")
    assert "not about a file" in life.run("operate", "dead-letters", "dev")
    assert "1 moved from xFarmDeadLetterSqs" in life.run("operate", "redrive", "dev")
    assert " 0 lost." in life.run("operate", "audit", "dev")
    assert "sent to xFarmMainQueue" in life.run("operate", "reprocess", "dev")
    assert "processed drop/readings.csv (attempt 1 of 2" in life.run("operate", "logs", "dev")
    assert "Equal to the stored result." in life.run("operate", "reproduce", "dev", "drop/readings.csv")
    life.watch()

    life.run("deploy", "destroy", "dev", "--yes")
    assert not [request for request in life.account.requests() if request.decision == "denied"]


def test_every_action_of_the_policies_was_requested_or_has_a_source(life: Life) -> None:
    sources = {
        action: source
        for cell, source in docs.table(roles.PAGE, "action", "source")
        for action in re.findall(r"`([^`]+)`", cell)
    }
    for role in ("deploy", "operate"):
        requested = {
            each.action for each in life.account.requests() if f":assumed-role/xfarm-{role}/" in each.principal
        }
        unexplained = roles.actions(role) - requested - sources.keys()
        assert not unexplained, f"{role}.json allows what nothing asked for: {sorted(unexplained)}"
    assert sources.keys() <= roles.actions("deploy") | roles.actions("operate")
