"""The emulator that the tests of a module share; some folders and modules have one with other settings."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.support import account
from tests.support.checkout import free_port
from xfarm.emulator.server import REGION, Emulator


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    emulator = Emulator(tmp_path_factory.mktemp("emulator"), free_port())
    emulator.start()
    yield emulator
    emulator.stop()


@pytest.fixture
def s3(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a client of an account with an empty bucket `state`; it is the account of the environment."""
    account.use(emulator, monkeypatch)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="state", CreateBucketConfiguration={"LocationConstraint": REGION})
    yield s3
    for item in s3.list_objects_v2(Bucket="state").get("Contents", []):
        s3.delete_object(Bucket="state", Key=item["Key"])
    s3.delete_bucket(Bucket="state")
