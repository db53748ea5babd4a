"""Where the stacks of an AWS account keep their state: a bucket of that account, unless told otherwise."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import yaml
from botocore.exceptions import ClientError

from xfarm.errors import UserError
from xfarm.orchestrator.aws_account import Account, explained
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import STACKS

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketLocationConstraintType

# The one region that is not named when a bucket is made ("CreateBucket", Amazon S3 API Reference).
UNNAMED_REGION: Final = "us-east-1"


def backend(account: Account) -> str:
    """Return the URL of the state's place.

    It is ``PULUMI_BACKEND_URL`` where that is set, else the ``backend`` of the projects' ``Pulumi.yaml``, else a
    bucket that is named after account and region, as such a name is taken once in the world.
    """
    if url := account.environment.get("PULUMI_BACKEND_URL"):
        return url
    for project in dependencies():
        settings = yaml.safe_load((STACKS / project / "Pulumi.yaml").read_text(encoding="utf-8"))
        if url := settings.get("backend", {}).get("url"):
            return str(url)
    return f"s3://xfarm-pipeline-state-{account.number}-{account.region}?region={account.region}"


def require(account: Account, stack: str) -> str:
    """Return the URL of the state's place, which exists.

    Raises:
        UserError: It is a bucket that is not there, or that is another account's.
    """
    url = backend(account)
    if (bucket := _bucket(url)) and _look(account, bucket) == "absent":
        raise UserError(f"the bucket '{bucket}' for the state is not there: run 'xfarm bootstrap {stack}' once.")
    return url


def bootstrap(account: Account, say: Callable[[str], None]) -> None:
    """Make the bucket for the state, or bring the one that is there up to the same settings.

    Raises:
        UserError: The name is taken by another account, or AWS refuses.
    """
    url = backend(account)
    bucket = _bucket(url)
    if bucket is None:
        say(f"The state is kept at {printable(url)}: there is nothing to prepare.")
        return
    absent = _look(account, bucket) == "absent"
    with explained():
        s3 = account.session.client("s3")
        if absent:
            _create(s3, bucket, account.region)
        _secure(s3, bucket, account.number)
    say(f"The state is kept in the bucket '{bucket}', which was {'made' if absent else 'there already'}.")


def printable(url: str) -> str:
    """Return ``url`` without the name and password that may be in it, as in ``postgres://anna:secret@host/state``."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _bucket(url: str) -> str | None:
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "s3" else None


def _look(account: Account, bucket: str) -> Literal["ours", "absent"]:
    with explained():
        try:
            account.session.client("s3").head_bucket(Bucket=bucket, ExpectedBucketOwner=account.number)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:  # noqa: PLR2004  HTTP's own number
                return "absent"
            if status == 403:  # noqa: PLR2004
                raise UserError(
                    f"the bucket '{bucket}' for the state belongs to another account than {account.number}, or you may "
                    "not use it: set PULUMI_BACKEND_URL to a bucket of yours, as s3://NAME."
                ) from error
            raise
    return "ours"


def _create(s3: "S3Client", bucket: str, region: str) -> None:
    if region == UNNAMED_REGION:
        s3.create_bucket(Bucket=bucket)
    else:
        location: BucketLocationConstraintType = region  # pyrefly: ignore[bad-assignment]
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": location})
    s3.get_waiter("bucket_exists").wait(Bucket=bucket)


def _secure(s3: "S3Client", bucket: str, owner: str) -> None:
    """Version, encrypt and close the bucket, in calls that fail where it is not ``owner``'s."""
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        },
        ExpectedBucketOwner=owner,
    )
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}, ExpectedBucketOwner=owner)
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
        ExpectedBucketOwner=owner,
    )
    arn = f"arn:aws:s3:::{bucket}"
    refuse_plain_http = {
        "Sid": "RefusePlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [refuse_plain_http]}),
        ExpectedBucketOwner=owner,
    )
