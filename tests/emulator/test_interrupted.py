"""Commands that are killed at any line, and do their whole job when they run again."""

from collections.abc import Iterator

import boto3
import pytest

from tests.support import account, stress
from tests.support.checkout import Checkout
from tests.support.killed import at_random_lines
from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator.state import _wanted
from xfarm.paths import ROOT

COMMAND = ("-m", "tests.support.killed", "{number}")
BUCKET = "kept"
OWNER = "000000000000"


@pytest.fixture
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Yield a copy with an object in its emulator, which does not run."""
    root = tmp_path_factory.mktemp("folder") / "100% #1? %41 e\u0301"
    root.mkdir()
    checkout = Checkout(root)
    stress.finish(checkout, "emulator", "start")
    s3 = checkout.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"")
    stress.finish(checkout, "emulator", "stop")
    yield checkout
    checkout.emulator.stop()


@pytest.mark.parametrize("package", ["", "emulator"])
@pytest.mark.parametrize("action", ["start", "stop"])
def test_the_emulator_starts_and_stops_and_keeps_its_data(checkout: Checkout, action: str, package: str) -> None:
    other = "stop" if action == "start" else "start"
    stress.finish(checkout, "emulator", other)
    killed = 0
    for was_killed in at_random_lines(
        *COMMAND, package, "emulator", action, seed=action, cwd=checkout.root, environment=checkout.environment
    ):
        killed += was_killed
        stress.finish(checkout, "emulator", action)
        assert checkout.emulator.running() is (action == "start")
        stress.finish(checkout, "emulator", "start")
        assert checkout.client("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1
        assert not checkout.emulator.unsaved.exists()
        stress.finish(checkout, "emulator", other)
    print(f"emulator {action}: killed {killed} times")
    assert killed


def test_bootstrap_creates_the_whole_bucket(emulator: Emulator) -> None:
    environment = account.environment(AWS_ENDPOINT_URL=emulator.endpoint, **account.KEYS, **account.REGION_SETTING)
    s3 = boto3.client(
        "s3",
        endpoint_url=emulator.endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    killed = 0
    for was_killed in at_random_lines(
        *COMMAND, "", "bootstrap", "dev", seed="bootstrap", cwd=ROOT, environment=environment
    ):
        killed += was_killed
        done = account.xfarm("bootstrap", "dev", **environment)
        assert done.returncode == 0, done.stderr
        assert "lacks" not in done.stderr
        (bucket,) = s3.list_buckets()["Buckets"]
        for setting in _wanted(bucket["Name"], "aws"):
            assert setting.fulfils(setting.read(s3, bucket["Name"], OWNER)), setting.name
        s3.delete_bucket(Bucket=bucket["Name"])
    print(f"bootstrap: killed {killed} times")
    assert killed
