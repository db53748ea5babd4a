"""The bucket for the state of the stacks in an AWS account."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.account import KEYS, REGION_SETTING, xfarm
from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator.state import _wanted

BUCKET = f"xfarm-pipeline-state-000000000000-{REGION}"
OWNER = "000000000000"
PARTS = ["a block of public access", "encryption", "versioning", "a lifecycle rule", "a policy that denies plain HTTP"]


@pytest.fixture
def s3(emulator: Emulator) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=emulator.endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield client
    for bucket in client.list_buckets()["Buckets"]:
        for item in client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", []):
            client.delete_object(Bucket=bucket["Name"], Key=item["Key"])
        client.delete_bucket(Bucket=bucket["Name"])


@pytest.fixture
def bootstrap(emulator: Emulator) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        done = xfarm("bootstrap", "dev", AWS_ENDPOINT_URL=emulator.endpoint, **KEYS, **REGION_SETTING, **environment)
        assert done.returncode == 0, done.stderr
        return done

    return run


def create(s3: Any, bucket: str) -> None:  # noqa: ANN401 - boto3's client
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})


def settings(s3: Any, bucket: str) -> dict[str, Any]:  # noqa: ANN401 - boto3's client
    """Return the settings of a bucket."""
    return {each.name: each.read(s3, bucket, OWNER) for each in _wanted(bucket, "aws")}


def test_the_state_bucket_is_created_once_and_secured(
    s3: Any,  # noqa: ANN401 - boto3's client
    bootstrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for outcome in ("was created", "existed already"):
        done = bootstrap()
        assert outcome in done.stderr
        assert "lacks" not in done.stderr
    (bucket,) = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert bucket == BUCKET
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == REGION
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    assert '"aws:SecureTransport": "false"' in s3.get_bucket_policy(Bucket=bucket)["Policy"]
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["Status"] == "Enabled"
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    assert rule["Expiration"] == {"ExpiredObjectDeleteMarker": True}


@pytest.mark.parametrize("done_before", range(len(PARTS)))
def test_bootstrap_completes_what_it_was_interrupted_in(
    s3: Any,  # noqa: ANN401 - boto3's client
    bootstrap: Callable[..., subprocess.CompletedProcess[str]],
    done_before: int,
) -> None:
    create(s3, BUCKET)
    for setting in _wanted(BUCKET, "aws")[:done_before]:
        setting.put(s3, BUCKET, OWNER)
    assert "lacks" not in bootstrap().stderr
    completed = settings(s3, BUCKET)
    assert all(each.fulfils(completed[each.name]) for each in _wanted(BUCKET, "aws"))


OWN = "theirs"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}],
}


@pytest.mark.parametrize("bucket", [BUCKET, OWN])
@pytest.mark.parametrize("sign", ["policy", "object", "suspended versioning"])
def test_a_bucket_that_bootstrap_did_not_create_is_checked_and_left_alone(
    s3: Any,  # noqa: ANN401 - boto3's client
    bootstrap: Callable[..., subprocess.CompletedProcess[str]],
    bucket: str,
    sign: str,
) -> None:
    create(s3, bucket)
    if sign == "policy":
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(POLICY))
    elif sign == "object":
        s3.put_object(Bucket=bucket, Key="theirs")
    else:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    before = settings(s3, bucket)
    done = bootstrap(**({"PULUMI_BACKEND_URL": f"s3://{bucket}"} if bucket == OWN else {}))
    assert settings(s3, bucket) == before
    # S3 encrypts every object ("Setting default server-side encryption behavior for Amazon S3 buckets").
    for part in PARTS:
        assert (part in done.stderr) is (part != "encryption")


def test_an_empty_bucket_under_another_name_is_left_alone(
    s3: Any,  # noqa: ANN401 - boto3's client
    bootstrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    create(s3, OWN)
    before = settings(s3, OWN)
    done = bootstrap(PULUMI_BACKEND_URL=f"s3://{OWN}")
    assert settings(s3, OWN) == before
    assert "bootstrap changes only buckets that it creates, and this one lacks" in done.stderr


def test_a_bucket_with_stricter_settings_lacks_nothing(
    s3: Any,  # noqa: ANN401 - boto3's client
    bootstrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    create(s3, OWN)
    for setting in _wanted(OWN, "aws"):
        setting.put(s3, OWN, OWNER)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "key"}}
    s3.put_bucket_encryption(Bucket=OWN, ServerSideEncryptionConfiguration={"Rules": [rule]})
    statement = POLICY["Statement"][0] | {"Condition": {"Bool": {"aws:securetransport": ["false"]}}}
    s3.put_bucket_policy(Bucket=OWN, Policy=json.dumps(POLICY | {"Statement": statement}))
    before = settings(s3, OWN)
    assert "lacks" not in bootstrap(PULUMI_BACKEND_URL=f"s3://{OWN}").stderr
    assert settings(s3, OWN) == before


def test_a_setting_that_may_not_be_read_is_not_taken_for_one_that_is_missing(
    s3: Any,  # noqa: ANN401 - boto3's client
) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        _wanted("missing", "aws")[-1].read(s3, "missing", OWNER)


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_the_policy_names_the_bucket_in_its_partition(partition: str) -> None:
    (statement,) = json.loads(_wanted("b", partition)[-1].value["Policy"])["Statement"]
    assert statement["Resource"] == [f"arn:{partition}:s3:::b", f"arn:{partition}:s3:::b/*"]
