"""The backend for Pulumi's state of the stacks in an AWS account: by default a bucket in that account."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from xfarm.errors import UserError
from xfarm.orchestrator import settings
from xfarm.orchestrator.aws_account import Account, aws_errors_as_user_errors
from xfarm.orchestrator.graph import dependencies
from xfarm.orchestrator.stores import DEFAULT_PREFIX, key_prefix
from xfarm.paths import STACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketLocationConstraintType

DEFAULT_REGION: Final = "us-east-1"
"""The region that must not be a LocationConstraint ("CreateBucket", Amazon S3 API Reference)."""

OLD_VERSIONS_DAYS: Final = 90
"""How long a bucket that `bootstrap` creates keeps old versions of a state."""


def backend(account: Account) -> str:
    """Return the URL of the backend.

    It is `PULUMI_BACKEND_URL` if that is set, else the `backend` in the projects' `Pulumi.yaml`, else a bucket with
    account and region in its name, because bucket names are globally unique.

    Raises:
        UserError: The projects' `Pulumi.yaml` differ, or it is not a URL.
    """
    if url := account.environment.get("PULUMI_BACKEND_URL"):
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if not parts.scheme or (parts.scheme == "s3" and not parts.netloc):
            raise UserError(
                "PULUMI_BACKEND_URL is not a URL such as s3://BUCKET or file:///FOLDER: correct it, or unset it."
            )
        return url
    declared = _declared()
    if len(set(declared.values())) > 1:
        each = ", ".join(f"{project}: {without_password(url) if url else 'none'}" for project, url in declared.items())
        raise UserError(
            f"the projects have different backends in their Pulumi.yaml ({each}), but share one: "
            "give all of them the same, or remove them and set PULUMI_BACKEND_URL."
        )
    return next(iter(declared.values())) or default(account)


def default(account: Account) -> str:
    """Return the URL of the bucket that `bootstrap` creates by default."""
    return f"s3://{DEFAULT_PREFIX}{account.number}-{account.region}?region={account.region}"


def _declared() -> dict[str, str]:
    """Return the URL of the `backend` in each project's `Pulumi.yaml`, or an empty string where it has none.

    Raises:
        UserError: One is not YAML, or its backend has no URL.
    """
    declared = {project: settings.read(STACKS / project / "Pulumi.yaml").get("backend") for project in dependencies()}
    for project, backend in declared.items():
        if backend and not (isinstance(backend, dict) and isinstance(backend.get("url"), str)):
            raise UserError(
                f"the backend in stacks/{project}/Pulumi.yaml has no URL: write 'backend:', and in the next line "
                "'  url: s3://BUCKET'."
            )
    return {project: backend["url"] if backend else "" for project, backend in declared.items()}


def existing_backend(account: Account, stack: str) -> str:
    """Return the URL of the backend, after a check that its bucket exists.

    Raises:
        UserError: The bucket does not exist, or belongs to another account.
    """
    url = backend(account)
    if (bucket := _bucket(url)) and not _exists(account, bucket):
        raise UserError(f"the state bucket '{bucket}' does not exist: run 'xfarm bootstrap {stack}' once.")
    return url


def has_states(account: Account) -> bool:
    """Return whether the backend can have states: Pulumi writes into an empty bucket even if it only looks for one.

    Raises:
        UserError: The bucket belongs to another account, or AWS refuses.
    """
    url = backend(account)
    if not (bucket := _bucket(url)):
        return True
    if not _exists(account, bucket):
        return False
    prefix = f"{key_prefix(url)}.pulumi/"
    with aws_errors_as_user_errors():
        s3 = account.session.client("s3")
        return s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"] > 0


def bootstrap(account: Account, notify: Callable[[str], None]) -> None:
    """Create the bucket for the state, or check an existing one and leave it as it is.

    A bucket with the default name that has neither objects nor settings but those of `bootstrap` is one whose creation
    was interrupted, so it gets the settings that it lacks.

    Raises:
        UserError: The name is taken by another account, AWS refuses, or the `backend` of a project would be ignored.
    """
    url = backend(account)
    if ignored := [f"stacks/{project}/Pulumi.yaml" for project, other in _declared().items() if other not in {"", url}]:
        raise UserError(
            f"PULUMI_BACKEND_URL is set, so the backend in {', '.join(ignored)} would be ignored: "
            "unset PULUMI_BACKEND_URL, or remove the backend there."
        )
    bucket = _bucket(url)
    if bucket is None:
        notify(f"The state is in {without_password(url)}, so there is nothing to create.")
        return
    exists = _exists(account, bucket)
    with aws_errors_as_user_errors():
        s3 = account.session.client("s3")
        if not exists:
            _create(s3, bucket, account.region)
        wanted = _wanted(bucket, account.partition)
        found = {each: each.read(s3, bucket, account.number) for each in wanted}
        lacking = [each for each, value in found.items() if not each.fulfils(value)]
        untouched = wanted[-1] in lacking and not any(found[each] for each in lacking)
        ours = url == default(account) and untouched and not s3.list_objects_v2(Bucket=bucket, MaxKeys=1)["KeyCount"]
        configure = ours or not exists
        for each in lacking if configure else ():
            each.put(s3, bucket, account.number)
    notify(f"The state is in the bucket '{bucket}', which {'existed already' if exists else 'was created'}.")
    if lacking and not configure:
        notify(
            f"bootstrap changes only buckets that it creates, and this one lacks {', '.join(e.what for e in lacking)}: "
            "see docs/state-and-secrets.md."
        )


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


@dataclass(frozen=True, eq=False)
class _Setting:
    """A setting of the state bucket.

    Attributes:
        what: What a bucket without it lacks.
        name: Its name in the methods of boto3's client, such as `bucket_policy` in `get_bucket_policy`.
        field: The name of its value, in the response.
        fulfils: Returns whether a value, or None where it is not set, is at least as strict as this setting.
        value: The argument of the method that sets it.
    """

    what: str
    name: str
    field: str
    fulfils: Callable[[Any], bool]
    value: Mapping[str, Any]

    def read(self, s3: S3Client, bucket: str, owner: str) -> Any:  # noqa: ANN401 - each has another type
        """Return the value in a bucket of `owner`, or None if it is not set."""
        try:
            return getattr(s3, f"get_{self.name}")(Bucket=bucket, ExpectedBucketOwner=owner).get(self.field)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _NOT_SET:
                raise
            return None

    def put(self, s3: S3Client, bucket: str, owner: str) -> None:
        """Set it in a bucket of `owner`."""
        getattr(s3, f"put_{self.name}")(Bucket=bucket, ExpectedBucketOwner=owner, **self.value)


_NOT_SET: Final = {
    "NoSuchBucketPolicy",
    "NoSuchLifecycleConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "ServerSideEncryptionConfigurationNotFoundError",
}
"""S3's error codes for a setting that a bucket doesn't have."""


def _wanted(bucket: str, partition: str) -> list[_Setting]:
    """Return the settings of a bucket that `bootstrap` creates; the last shows that none is missing."""
    arn = f"arn:{partition}:s3:::{bucket}"
    deny_plain_http = {
        "Sid": "RefusePlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    private = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)
    encrypted = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    # Pulumi deletes a lock after each update, which leaves a delete marker.
    expiring = {
        "ID": "old-versions",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": OLD_VERSIONS_DAYS},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }
    return [
        _Setting(
            "a block of public access",
            "public_access_block",
            "PublicAccessBlockConfiguration",
            lambda found: found is not None and all(found.values()),
            {"PublicAccessBlockConfiguration": private},
        ),
        _Setting(
            "encryption",
            "bucket_encryption",
            "ServerSideEncryptionConfiguration",
            bool,
            {"ServerSideEncryptionConfiguration": encrypted},
        ),
        _Setting(
            "versioning",
            "bucket_versioning",
            "Status",
            lambda found: found == "Enabled",
            {"VersioningConfiguration": {"Status": "Enabled"}},
        ),
        _Setting(
            "a lifecycle rule that deletes old versions",
            "bucket_lifecycle_configuration",
            "Rules",
            lambda found: any("NoncurrentVersionExpiration" in rule for rule in found or ()),
            {"LifecycleConfiguration": {"Rules": [expiring]}},
        ),
        _Setting(
            "a policy that denies plain HTTP",
            "bucket_policy",
            "Policy",
            lambda found: found is not None and _denies_plain_http(json.loads(found)["Statement"]),
            {"Policy": json.dumps({"Version": "2012-10-17", "Statement": [deny_plain_http]})},
        ),
    ]


def _denies_plain_http(statements: list[dict[str, Any]] | dict[str, Any]) -> bool:
    each = [statements] if isinstance(statements, dict) else statements
    # Condition keys are case-insensitive ("IAM JSON policy elements: Condition").
    conditions = (json.dumps(one.get("Condition")).lower() for one in each if one["Effect"] == "Deny")
    return any("aws:securetransport" in condition for condition in conditions)
