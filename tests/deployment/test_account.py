"""The stack `dev` in an account that enforces IAM, in which credentials of a role end after a few seconds.

All tests share one deployment. It, like every long command, outlasts the credentials that it began with. The workflows
that read the account run with credentials of the same role, narrowed by their session policy.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.checkout import HOST, Checkout, free_port
from tests.support.faulty_aws import FaultyAws
from tests.support.github import REPOSITORY, TOKEN, GitHub, Runner, pull_request, python_path
from tests.support.http_server import serving
from tests.support.waiting import eventually
from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT

ACCOUNT = "000000000000"
STATE_BUCKET = f"xfarm-pipeline-state-{ACCOUNT}-{REGION}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/deployer"
ROLE_S = 10
"""Long enough for a request to arrive on a busy machine, and much less than a deployment takes."""


@dataclass
class Account:
    """A copy of the project, and the emulated account that it is deployed to."""

    checkout: Checkout
    proxy: FaultyAws
    keys: dict[str, str]
    """The access key of a user who may assume the role, as environment variables."""
    tools: dict[str, str]
    """The variables with which Pulumi is found, as after its official installation."""

    @property
    def endpoint(self) -> str:
        """The value for AWS_ENDPOINT_URL."""
        return self.proxy.url

    @property
    def bucket(self) -> str:
        """The bucket for files."""
        buckets = self.checkout.client("s3").list_buckets()["Buckets"]
        (name,) = [each["Name"] for each in buckets if each["Name"] != STATE_BUCKET]
        return str(name)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a user who deploys, with credentials that end soon."""
        variables = {"AWS_ASSUME_ROLE": ROLE, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": self.endpoint}
        return self.keys | self.tools | variables

    def xfarm(self, *arguments: str) -> str:
        """Run a command, and return what it prints."""
        done = self.checkout.run(*arguments, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def outlast(self, action: str) -> threading.Event:
        """Hold the response to the first request of an action until the credentials of that moment have ended.

        Args:
            action: A regular expression for the action.

        Returns:
            An event that is set as soon as they have.
        """
        ended = threading.Event()
        holding = threading.Lock()

        def delay(name: str) -> None:
            if not re.fullmatch(action, name):
                return
            with holding:
                if not ended.is_set():
                    end = max(self.proxy.ends.values())
                    eventually(lambda: time.time() > end)
                    ended.set()

        self.proxy.delay = delay
        return ended


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    checkout = Checkout(tmp_path_factory.mktemp("account"))
    for project in dependencies():
        # Where the emulator differs from AWS: a bucket's name is no host's name there.
        checkout.configure(project, "dev", **{"aws:s3UsePathStyle": True})
    emulator = Emulator(checkout.emulator.directory, checkout.port, enforces_iam=True)
    emulator.start()
    with serving(FaultyAws(checkout.port)) as proxy:
        proxy.role_s = ROLE_S
        account = Account(checkout, proxy, access_key(checkout), checkout.pulumi(HOST))
        try:
            account.xfarm("bootstrap", "dev")
            account.xfarm("deploy", "dev", "--yes")
            yield account
        finally:
            emulator.stop()


def access_key(checkout: Checkout) -> dict[str, str]:
    """Create the role and a user who may do nothing but assume it, and return the user's access key."""
    iam = checkout.client("iam")
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}]}
    iam.create_role(RoleName="deployer", AssumeRolePolicyDocument=json.dumps(trust))
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="deployer", PolicyName="all", PolicyDocument=json.dumps(everything))
    iam.create_user(UserName="ci")
    assume = {"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ROLE}]}
    iam.put_user_policy(UserName="ci", PolicyName="assume", PolicyDocument=json.dumps(assume))
    key = iam.create_access_key(UserName="ci")["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


# Commands that take longer than credentials are valid


def test_send_outlasts_its_credentials(account: Account, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    ended = account.outlast("PUT /[^/]+/inputs/a.csv")
    assert "a.csv -> outputs/a.csv.json" in account.xfarm("send", "dev", "--timeout", "60", str(tmp_path / "a.csv"))
    assert ended.is_set()


def test_watch_outlasts_its_credentials(account: Account) -> None:
    ended = account.outlast("GetQueueAttributes")
    # Child processes inherit an ignored signal, and pytest in the background ignores this one.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "xfarm", "watch", "dev", "--port", str(free_port())],
            cwd=account.checkout.root,
            env=account.checkout.environment | account.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as serving_page:
            try:
                line = serving_page.stdout.readline() if serving_page.stdout else ""
                (url,) = re.findall(r"http://\S+", line)
                assert ended.is_set()
                with urlopen(f"{url}state") as state:  # noqa: S310 - on the loopback
                    assert json.load(state)["health"]["event_source_mapping"] == "Enabled"
            finally:
                serving_page.send_signal(signal.SIGINT)
        assert serving_page.returncode == 0
    finally:
        signal.signal(signal.SIGINT, previous)


# Workflows


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    with serving(GitHub()) as github:
        yield github


class Sessions:
    """The credentials that the workflows get."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.latest: dict[str, Any] = {}

    def use(self, action: str, inputs: dict[str, str]) -> dict[str, str]:
        """Do what an action does, and return the variables that it sets."""
        if action == "pulumi/actions":
            return self.account.tools
        if action != "aws-actions/configure-aws-credentials":
            return {}
        sts = boto3.client(
            "sts",
            endpoint_url=self.account.endpoint,
            region_name=inputs["aws-region"],
            aws_access_key_id=inputs["aws-access-key-id"],
            aws_secret_access_key=inputs["aws-secret-access-key"],
        )
        answer = sts.assume_role(
            RoleArn=inputs["role-to-assume"],
            RoleSessionName="GitHubActions",
            Policy=inputs["inline-session-policy"],
        )["Credentials"]
        self.latest = {
            "aws_access_key_id": answer["AccessKeyId"],
            "aws_secret_access_key": answer["SecretAccessKey"],
            "aws_session_token": answer["SessionToken"],
        }
        return {name.upper(): value for name, value in self.latest.items()} | {"AWS_REGION": inputs["aws-region"]}

    def client(self, service: Any) -> Any:  # noqa: ANN401 - each service has its own type of client
        """Return a client with the credentials of the latest workflow."""
        return boto3.client(service, endpoint_url=self.account.endpoint, region_name=REGION, **self.latest)


@pytest.fixture(scope="module")
def sessions(account: Account) -> Sessions:
    return Sessions(account)


@pytest.fixture
def runner(account: Account, github: GitHub, sessions: Sessions, tmp_path: Path) -> Runner:
    account.proxy.reset()
    root = account.checkout.root
    tools = root / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "report.py").write_bytes((ROOT / "tools" / "report.py").read_bytes())
    environment = {
        "PATH": python_path(),
        "HOME": str(root),
        "PYTHONPATH": str(root),  # where the step "Install" would install it from
        "USER": "runner",
        "AWS_ENDPOINT_URL": account.endpoint,
    }
    return Runner(root, environment | github.environment, sessions.use, tmp_path)


def secrets(account: Account) -> dict[str, str]:
    """Return the context with the four secrets, and with both workflows switched on."""
    found = account.keys | {"AWS_REGION": REGION, "AWS_ASSUME_ROLE": ROLE}
    context = {"github.repository": REPOSITORY, "github.token": TOKEN, "vars.LOOK_FOR_DRIFT": "true"}
    return context | {f"secrets.{name}": value for name, value in found.items()}


def test_a_pull_request_shows_its_plan(account: Account, github: GitHub, runner: Runner) -> None:
    number = github.open(title="A pull request")
    context = secrets(account) | pull_request(number)

    results = runner.run("plan.yml", context)
    assert results == {"plan": "success", "comment": "success", "no-plan": "skipped"}, runner.printed
    assert runner.refs["comment"] == "ba5e"
    (comment,) = github.comments.values()
    assert "Deploying 4ead changes nothing in `dev`." in comment["body"]

    account.checkout.configure("messaging", "dev", maxReceiveCount=7)
    results = runner.run("plan.yml", context)
    assert results["comment"] == "success", runner.printed
    assert list(github.comments.values()) == [comment]
    assert "Deploying 4ead changes resources or outputs in `dev`." in comment["body"]
    assert "maxReceiveCount: 5 -> 7" in comment["body"]
    assert ROLE not in comment["body"]

    account.checkout.configure("messaging", "dev", maxReceiveCount=-7)
    results = runner.run("plan.yml", context)
    account.checkout.configure("messaging", "dev", maxReceiveCount=5)
    assert results == {"plan": "success", "comment": "failure", "no-plan": "skipped"}, runner.printed
    assert "Deploying 4ead can't be previewed in `dev`." in comment["body"]
    assert "messaging:maxReceiveCount" in comment["body"]


def test_the_session_of_a_workflow_can_t_write_or_read_files(account: Account, sessions: Sessions) -> None:
    s3, bucket = sessions.client("s3"), account.bucket
    account.checkout.client("s3").put_object(Bucket=bucket, Key="outputs/secret", Body=b"secret")
    for refused in (
        lambda: s3.get_object(Bucket=bucket, Key="outputs/secret"),
        lambda: s3.put_object(Bucket=bucket, Key="outputs/other", Body=b""),
        lambda: s3.delete_object(Bucket=bucket, Key="outputs/secret"),
        lambda: s3.put_object(Bucket=STATE_BUCKET, Key=".pulumi/other", Body=b""),
        lambda: sessions.client("sqs").create_queue(QueueName="other"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()


def test_a_fork_is_told_why_it_sees_no_plan(github: GitHub, runner: Runner) -> None:
    before = len(github.requests)
    fork = {"github.event.pull_request.head.repo.full_name": "eve/pipeline"}
    results = runner.run("plan.yml", pull_request(7) | fork)
    assert results == {"plan": "skipped", "comment": "skipped", "no-plan": "success"}
    assert "get no AWS credentials" in (runner.artifacts / "summary.md").read_text(encoding="utf-8")
    assert len(github.requests) == before


def test_drift_opens_an_issue_and_its_end_closes_it(account: Account, github: GitHub, runner: Runner) -> None:
    sqs = account.checkout.client("sqs")
    queue = sqs.get_queue_url(QueueName="xFarmMainQueue")["QueueUrl"]
    declared = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["VisibilityTimeout"])["Attributes"]
    before = set(github.issues)

    assert runner.run("drift.yml", secrets(account)) == {"drift": "success"}, runner.printed
    assert set(github.issues) == before

    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "77"})
    assert runner.run("drift.yml", secrets(account)) == {"drift": "success"}, runner.printed
    (number,) = set(github.issues) - before
    assert "main-queue" in github.issues[number]["body"]
    assert github.issues[number]["title"] == "Drift in dev"

    sqs.set_queue_attributes(QueueUrl=queue, Attributes=declared)
    assert runner.run("drift.yml", secrets(account)) == {"drift": "success"}, runner.printed
    assert github.issues[number]["state"] == "closed"


# The end


def test_destroying_a_full_bucket_outlasts_its_credentials(account: Account) -> None:
    account.proxy.role_s = ROLE_S
    s3 = account.checkout.client("s3")
    bucket = account.bucket
    for number in range(20):
        s3.put_object(Bucket=bucket, Key=f"archive/{number}", Body=b"")
    ended = account.outlast(f"POST /{bucket}")  # DeleteObjects
    account.xfarm("destroy", "dev", "--yes")
    assert ended.is_set()
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == [STATE_BUCKET]
