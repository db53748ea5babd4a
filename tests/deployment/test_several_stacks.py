"""Several stacks in one account: each on its own, none in the way of another, and nothing changed by a preview."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import HOST, PLUGIN, Checkout
from tests.support.stress import left
from xfarm.emulator.server import REGION
from xfarm.orchestrator.graph import dependencies

STATE_BUCKET = f"xfarm-pipeline-state-000000000000-{REGION}"
SECOND_REGION = "us-east-1"


class Account:
    """An account on the emulator, with a stack `prod` that `xfarm new-stack` has made beside `dev`."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        for project in dependencies():
            # Where the emulator differs from AWS: a bucket's name is no host's name there.
            checkout.configure(project, "dev", **{"aws:s3UsePathStyle": True})
        checkout.emulator.start()
        self._environment = checkout.pulumi(HOST, PLUGIN) | {
            "AWS_ENDPOINT_URL": checkout.emulator.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the credentials of the account."""
        return self.checkout.run(*arguments, **self._environment | environment)

    def finish(self, *arguments: str, **environment: str) -> str:
        """Run a command, assert that it succeeds, and return its output."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def deploy(self, stack: str) -> str:
        """Deploy a stack, and return the output."""
        return self.finish("deploy", stack, "--yes")

    def refused(self, *arguments: str, **environment: str) -> str:
        """Run a command, assert that it fails and changes nothing in the account, and return its output."""
        before = left(self.checkout)
        done = self.run(*arguments, **environment)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert left(self.checkout) == before
        return done.stdout + done.stderr

    def bucket(self, stack: str) -> str:
        """Return the name of a stack's bucket, by its settings."""
        path = self.checkout.root / "stacks" / "storage" / f"Pulumi.{stack}.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8"))["config"].get("storage:bucketName", "xfarm-bucket-01")

    def keys(self, stack: str) -> list[str]:
        """Return the keys in a stack's bucket."""
        listed = self.checkout.client("s3").list_objects_v2(Bucket=self.bucket(stack))
        return [item["Key"] for item in listed.get("Contents", [])]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    account = Account(Checkout(tmp_path_factory.mktemp("several")))
    yield account
    account.checkout.emulator.stop()


def test_a_preview_changes_nothing_whether_or_not_there_is_a_state_bucket(account: Account) -> None:
    printed = account.finish("preview", "dev")
    assert "There is no state yet, so everything would be created." in printed
    assert "+ compute    function" in printed
    assert left(account.checkout) == {}
    deploy = account.refused("deploy", "dev", "--yes")
    assert f"the state bucket '{STATE_BUCKET}' does not exist: run 'xfarm bootstrap dev' once." in deploy

    account.finish("bootstrap", "dev")
    assert "+ compute    function" in account.finish("preview", "dev")
    assert left(account.checkout) == {"buckets": [STATE_BUCKET]}
    assert account.checkout.client("s3").list_object_versions(Bucket=STATE_BUCKET).get("Versions", []) == []


def test_a_queue_that_is_nobody_s_is_not_adopted(account: Account) -> None:
    account.finish("new-stack", "stage")
    sqs = account.checkout.client("sqs")
    # As the stack would create it, so AWS would return it.
    day = 24 * 60 * 60
    attributes = {"MessageRetentionPeriod": str(14 * day), "SqsManagedSseEnabled": "true"}
    url = sqs.create_queue(QueueName="xFarmDeadLetterSqs-stage", Attributes=attributes)["QueueUrl"]
    printed = account.refused("deploy", "stage", "--yes")
    assert "the queue 'xFarmDeadLetterSqs-stage' exists already and has none of this project's tags" in printed
    assert "so nothing was deployed" in printed
    assert sqs.list_queue_tags(QueueUrl=url).get("Tags", {}) == {}
    sqs.delete_queue(QueueUrl=url)


def test_two_stacks_process_their_own_files_and_one_outlives_the_other(account: Account, tmp_path: Path) -> None:
    account.finish("new-stack", "prod")
    with ThreadPoolExecutor() as pool:
        list(pool.map(account.deploy, ("dev", "prod")))
    assert {kind: len(names) for kind, names in left(account.checkout).items()} == {
        "buckets": 3,  # with the one for the state
        "queues": 4,
        "topics": 2,
        "alarms": 10,
        "groups": 2,
        "functions": 2,
        "mappings": 2,
        "roles": 2,
        "policies": 4,
        "attached": 4,
    }

    for stack in ("dev", "prod"):
        file = tmp_path / f"{stack}.csv"
        file.write_text("a,b\n1,2\n", encoding="utf-8")
        assert "-> outputs/" in account.finish("send", stack, str(file))
    assert account.keys("dev") == ["inputs/dev.csv", "outputs/dev.csv.json"]
    assert account.keys("prod") == ["inputs/prod.csv", "outputs/prod.csv.json"]

    in_the_way_elsewhere(account)

    both = left(account.checkout)
    account.finish("destroy", "prod", "--yes")
    rest = left(account.checkout)
    # Both roles have policies of the same names.
    assert rest == {kind: sorted({name for name in names if "prod" not in name}) for kind, names in both.items()}
    assert "no change" in account.finish("drift", "dev")
    account.finish("send", "dev", str(tmp_path / "prod.csv"))
    assert "outputs/prod.csv.json" in account.keys("dev")


def in_the_way_elsewhere(account: Account) -> None:
    """Check that a second region of a stack, and a stack of the same names, are refused and change nothing."""
    account.finish("bootstrap", "prod", AWS_REGION=SECOND_REGION)
    printed = account.refused("deploy", "prod", "--yes", AWS_REGION=SECOND_REGION)
    assert "the role 'xFarmLambdaRole-prod' exists already and belongs to the stack 'prod' of" in printed
    assert f"perhaps in {REGION}, where this account has a state bucket" in printed
    shared = f"s3://{STATE_BUCKET}?region={REGION}"
    printed = account.refused("deploy", "prod", "--yes", AWS_REGION=SECOND_REGION, PULUMI_BACKEND_URL=shared)
    assert f"'prod' is deployed in {REGION}, and AWS_REGION is {SECOND_REGION}: set AWS_REGION" in printed

    # On the emulator, `local` has the names of `dev`, and a state of its own.
    printed = account.refused("deploy", "local")
    for what in ("queue 'xFarmMainQueue'", "role 'xFarmLambdaRole'", "topic 'xFarmAlarms'"):
        assert f"the {what} exists already and belongs to the stack 'dev' of the project" in printed
