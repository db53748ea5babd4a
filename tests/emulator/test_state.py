"""The bucket in which an AWS account keeps the stacks' state."""

from pathlib import Path

import boto3

from tests.support.account import KEYS, PLACE, orchestrator
from tests.support.checkout import free_port
from xfarm.emulator.server import REGION, Emulator


def test_the_bucket_for_the_state_is_made_once_and_closed(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path, free_port())
    emulator.start()
    try:
        for made in ("was made", "was there already"):
            done = orchestrator("bootstrap", "dev", AWS_ENDPOINT_URL=emulator.endpoint, **KEYS, **PLACE)
            assert done.returncode == 0, done.stderr
            assert made in done.stderr
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
