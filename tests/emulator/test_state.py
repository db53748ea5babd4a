"""The bucket for the state of the stacks in an AWS account."""

from pathlib import Path

import boto3

from tests.support.account import KEYS, REGION_SETTING, xfarm
from tests.support.checkout import free_port
from xfarm.emulator.server import REGION, Emulator


def test_the_state_bucket_is_created_once_and_secured(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path, free_port())
    emulator.start()
    try:
        for outcome in ("was created", "existed already"):
            done = xfarm("bootstrap", "dev", AWS_ENDPOINT_URL=emulator.endpoint, **KEYS, **REGION_SETTING)
            assert done.returncode == 0, done.stderr
            assert outcome in done.stderr
        s3 = boto3.client(
            "s3",
            endpoint_url=emulator.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        (bucket,) = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
        assert bucket == f"xfarm-pipeline-state-000000000000-{REGION}"
        assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == REGION
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
        assert '"aws:SecureTransport": "false"' in s3.get_bucket_policy(Bucket=bucket)["Policy"]
    finally:
        emulator.stop()
