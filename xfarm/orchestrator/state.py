"""The backend for Pulumi's state of the stacks in an AWS account: by default a bucket in that account."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import yaml
from botocore.exceptions import ClientError

from xfarm.errors import UserError
from xfarm.orchestrator.aws_account import Account, aws_errors_as_user_errors
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import STACKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketLocationConstraintType

DEFAULT_REGION: Final = "us-east-1"
"""The region that must not be a LocationConstraint ("CreateBucket", Amazon S3 API Reference)."""


def backend(account: Account) -> str:
    """Return the URL of the backend.

    It is `PULUMI_BACKEND_URL` if that is set, else the `backend` in the projects' `Pulumi.yaml`, else a bucket with
    account and region in its name, because bucket names are globally unique.
    """
    if url := account.environment.get("PULUMI_BACKEND_URL"):
        return url
    for project in dependencies():
        settings = yaml.safe_load((STACKS / project / "Pulumi.yaml").read_text(encoding="utf-8"))
        if url := settings.get("backend", {}).get("url"):
            return str(url)
    return f"s3://xfarm-pipeline-state-{account.number}-{account.region}?region={account.region}"


def existing_backend(account: Account, stack: str) -> str:
    """Return the URL of the backend, after a check that its bucket exists.

    Raises:
        UserError: The bucket does not exist, or belongs to another account.
    """
    url = backend(account)
    if (bucket := _bucket(url)) and not _exists(account, bucket):
        raise UserError(f"the state bucket '{bucket}' does not exist: run 'xfarm bootstrap {stack}' once.")
    return url


def bootstrap(account: Account, notify: Callable[[str], None]) -> None:
    """Create the bucket for the state, or apply the same settings to an existing one.

    Raises:
        UserError: The name is taken by another account, or AWS refuses.
    """
    url = backend(account)
    bucket = _bucket(url)
    if bucket is None:
        notify(f"The state is in {without_password(url)}, so there is nothing to create.")
        return
    exists = _exists(account, bucket)
    with aws_errors_as_user_errors():
        s3 = account.session.client("s3")
        if not exists:
            _create(s3, bucket, account.region)
        _secure(s3, bucket, account.number)
    notify(f"The state is in the bucket '{bucket}', which {'existed already' if exists else 'was created'}.")


def without_password(url: str) -> str:
    """Return `url` without user name and password: `postgres://host/state` for `postgres://anna:secret@host/state`."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _bucket(url: str) -> str | None:
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "s3" else None


def _exists(account: Account, bucket: str) -> bool:
    """Return whether the account has the bucket.

    Raises:
        UserError: The bucket belongs to another account, or the user has no permission for it.
    """
    with aws_errors_as_user_errors():
        try:
            account.session.client("s3").head_bucket(Bucket=bucket, ExpectedBucketOwner=account.number)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == HTTPStatus.NOT_FOUND:
                return False
            if status == HTTPStatus.FORBIDDEN:
                raise UserError(
                    f"the state bucket '{bucket}' belongs to another account than {account.number}, or you have no "
                    "permission for it: set PULUMI_BACKEND_URL to a bucket of yours, as s3://NAME."
                ) from error
            raise
    return True


def _create(s3: S3Client, bucket: str, region: str) -> None:
    if region == DEFAULT_REGION:
        s3.create_bucket(Bucket=bucket)
    else:
        location: BucketLocationConstraintType = region  # pyrefly: ignore[bad-assignment]
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": location})
    s3.get_waiter("bucket_exists").wait(Bucket=bucket)


def _secure(s3: S3Client, bucket: str, owner: str) -> None:
    """Turn on versioning and encryption, and forbid public access and plain HTTP.

    Each call fails if the bucket does not belong to `owner`.
    """
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
    deny_plain_http = {
        "Sid": "RefusePlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny_plain_http]}),
        ExpectedBucketOwner=owner,
    )
