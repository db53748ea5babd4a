"""Says before a deployment what would stop it: permissions, too little concurrency, a bucket's name that is taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

import yaml
from botocore.exceptions import ClientError

from shared import names
from xfarm.orchestrator import aws_account, state
from xfarm.orchestrator.aws_account import Account, aws_errors_as_user_errors
from xfarm.paths import ROOT, STACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

POLICY: Final = ROOT / "policies" / "deploy.json"
"""What the role that deploys must be allowed."""

_NOT_ALLOWED: Final = ("AccessDenied", "AccessDeniedException")


@dataclass(frozen=True)
class Finding:
    """What is known of one requirement.

    Attributes:
        outcome: "ok", "missing" if a deployment would fail, or "unknown" if AWS can't be asked.
        text: What is fulfilled, or what is wrong and what to do.
    """

    outcome: Literal["ok", "missing", "unknown"]
    text: str


def check(stack: str, notify: Callable[[str], None]) -> Iterator[Finding]:
    """Yield what is known of each requirement of a stack in an AWS account.

    Args:
        stack: The name of the stacks.
        notify: Called with each message for the user.

    Raises:
        UserError: There are no usable credentials, or AWS refuses.
    """
    account = aws_account.identify(notify)
    notify(f"Account {account.number}, region {account.region}, as {account.identity}.")
    with aws_errors_as_user_errors():
        yield from _permissions(account, stack)
        yield _concurrency(account, _setting(stack, "compute", "maximumConcurrency"))
        yield _bucket_name(account, stack, _setting(stack, "storage", "bucketName"))


def _setting(stack: str, project: str, key: str) -> Any:  # noqa: ANN401 - each setting has its own type
    def read(name: str) -> dict[str, Any]:
        return yaml.safe_load((STACKS / project / name).read_text(encoding="utf-8")).get("config") or {}

    return read(f"Pulumi.{stack}.yaml").get(f"{project}:{key}", read("Pulumi.yaml")[key]["default"])


def resources(account: Account, stack: str) -> dict[str, list[str]]:
    """Return the ARNs of what a stack consists of, by the `Sid` of the statement in `POLICY` that is for them."""
    partition = account.identity.split(":")[1]
    place = f"{account.region}:{account.number}"
    bucket = f"arn:{partition}:s3:::{_setting(stack, 'storage', 'bucketName')}"
    backend = urlsplit(state.backend(account))
    states = [f"arn:{partition}:s3:::{backend.netloc}"] if backend.scheme == "s3" else []
    role = [f"arn:{partition}:iam::{account.number}:role/{names.FUNCTION_ROLE}"]
    return {
        "StateBucket": states,
        "State": [f"{arn}/.pulumi/meta.yaml" for arn in states],
        "Bucket": [bucket],
        "EmptyBucket": [f"{bucket}/key"],
        "Queues": [f"arn:{partition}:sqs:{place}:{name}" for name in (names.MAIN_QUEUE, names.DEAD_LETTER_QUEUE)],
        "AlarmTopic": [f"arn:{partition}:sns:{place}:{names.ALARM_TOPIC}"],
        "Alarms": [f"arn:{partition}:cloudwatch:{place}:alarm:error-alarm-0000000"],
        "FunctionRole": role,
        "FunctionRolePolicies": role,
        "PassFunctionRole": role,
        "LogGroup": [f"arn:{partition}:logs:{place}:log-group:/aws/lambda/{names.FUNCTION}"],
        "Function": [_function(account)],
        "EventSourceMapping": ["*"],
        "ReadEventSourceMapping": [f"arn:{partition}:lambda:{place}:event-source-mapping:uuid"],
        "Find": ["*"],
        "Check": ["*"],
    }


def _function(account: Account) -> str:
    partition = account.identity.split(":")[1]
    return f"arn:{partition}:lambda:{account.region}:{account.number}:function:{names.FUNCTION}"


def _permissions(account: Account, stack: str) -> Iterator[Finding]:
    """Yield whether the caller has the permissions of each statement in `POLICY`.

    Simulations know the caller's policies and permissions boundary, but neither session policies nor those of resources
    ("SimulatePrincipalPolicy", IAM API Reference).
    """
    if account.identity.endswith(":root"):
        yield Finding("ok", "permissions: the root user may do everything.")
        return
    principal = _principal(account)
    partition = account.identity.split(":")[1]
    document = json.loads(POLICY.read_text(encoding="utf-8").replace("arn:aws:", f"arn:{partition}:"))
    arns = resources(account, stack)
    for statement in document["Statement"]:
        try:
            denied = {
                arn: actions
                for arn in arns[statement["Sid"]]
                if (actions := _denied(account, principal, statement, arn))
            }
        except ClientError as error:
            if error.response["Error"]["Code"] not in {*_NOT_ALLOWED, "NoSuchEntity"}:
                raise
            yield Finding(
                "unknown",
                f"permissions: AWS does not tell those of {principal}, because iam:SimulatePrincipalPolicy is not "
                "allowed, or iam:GetRole for a role with a path: see docs/permissions.md.",
            )
            return
        for arn, actions in denied.items():
            yield Finding(
                "missing", f"permissions: {', '.join(actions)} on {arn}, see {statement['Sid']} in docs/permissions.md."
            )
        if not denied:
            yield Finding("ok", f"permissions: {statement['Sid']}")


def _principal(account: Account) -> str:
    """Return the ARN of the user, or of the role whose session it is: only `GetRole` has the role's path."""
    before, assumed, session = account.identity.partition(":assumed-role/")
    if not assumed:
        return account.identity
    role = session.partition("/")[0]
    try:
        return account.session.client("iam").get_role(RoleName=role)["Role"]["Arn"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_ALLOWED:
            raise
        return f"{before.replace(':sts:', ':iam:')}:role/{role}"


def _denied(account: Account, principal: str, statement: dict[str, Any], arn: str) -> list[str]:
    """Return the actions of a statement that the principal may not do with a resource."""
    pages = account.session.client("iam").get_paginator("simulate_principal_policy")
    denied: dict[str, None] = {}
    for context in _contexts(account, statement):
        for page in pages.paginate(
            PolicySourceArn=principal,
            ActionNames=statement["Action"],
            ResourceArns=[arn],
            ContextEntries=context,
        ):
            results = page["EvaluationResults"]
            denied |= {each["EvalActionName"]: None for each in results if each["EvalDecision"] != "allowed"}
    return list(denied)


def _contexts(account: Account, statement: dict[str, Any]) -> list[list[ContextEntryTypeDef]]:
    """Return the values of the statement's condition key, each as the context of a simulation."""
    conditions = [item for keys in statement.get("Condition", {}).values() for item in keys.items()]
    if not conditions:
        return [[]]
    ((key, values),) = conditions
    listed = [_function(account)] if key == "lambda:FunctionArn" else [values] if isinstance(values, str) else values
    return [[{"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}] for value in listed]


def _concurrency(account: Account, maximum: int) -> Finding:
    """Return whether as many files can be processed at the same time as the setting says.

    The function has no reserved concurrency, so it has what other functions have not reserved ("Understanding Lambda
    function scaling").
    """
    try:
        limits = account.session.client("lambda").get_account_settings()["AccountLimit"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_ALLOWED:
            raise
        return Finding(
            "unknown", "concurrency: AWS does not tell it, because lambda:GetAccountSettings is not allowed."
        )
    free = limits["UnreservedConcurrentExecutions"]
    if free >= maximum:
        return Finding("ok", f"concurrency: {free} in this region, and compute:maximumConcurrency is {maximum}.")
    return Finding(
        "missing",
        f"concurrency: {free} in this region, but compute:maximumConcurrency is {maximum}: lower it, or request a "
        "higher quota 'Concurrent executions' in Service Quotas.",
    )


def _bucket_name(account: Account, stack: str, bucket: str) -> Finding:
    """Return whether the bucket's name is free in all accounts, or the bucket is the stack's."""
    s3, tags = account.session.client("s3"), dict[str, str]()
    place = f"storage:bucketName in stacks/storage/Pulumi.{stack}.yaml"
    try:
        s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account.number)
        tags = {tag["Key"]: tag["Value"] for tag in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]}
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.NOT_FOUND:
            if error.operation_name == "HeadBucket":
                return Finding("ok", f"names: the bucket name '{bucket}' is free.")
        elif error.response["Error"]["Code"] in {"403", "301", "AccessDenied"}:
            return Finding(
                "missing",
                f"names: the bucket '{bucket}' exists in another account or region, or you have no permission for it: "
                f"set {place} to another name.",
            )
        else:
            raise
    if (tags.get("Application"), tags.get("PulumiStack")) == ("xfarm-pipeline", stack):
        return Finding("ok", f"names: the bucket '{bucket}' is this stack's.")
    return Finding(
        "missing", f"names: the account has a bucket '{bucket}' that is not this stack's: set {place} to another name."
    )
