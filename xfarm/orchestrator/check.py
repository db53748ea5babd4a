"""Says before a deployment what would stop it: permissions, too little concurrency, and names that are taken."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from shared import names
from shared.tags import APPLICATION
from xfarm.errors import UserError
from xfarm.orchestrator import existing, settings, state
from xfarm.orchestrator.aws_account import aws_errors_as_user_errors
from xfarm.paths import ROOT, STACKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_iam.type_defs import ContextEntryTypeDef

    from xfarm.orchestrator.aws_account import Account

POLICY: Final = ROOT / "policies" / "deploy.json"
"""What the role that deploys must be allowed."""

_NOT_ALLOWED: Final = {"AccessDenied", "AccessDeniedException", "AuthorizationError"}
"""AWS's error codes for a permission that is missing; the last is that of SNS."""


@dataclass(frozen=True)
class Finding:
    """What is known of one requirement.

    Attributes:
        outcome: "ok", "failed" if a deployment would fail, or "unknown" if AWS can't be asked.
        text: What is fulfilled, or what is wrong and what to do.
    """

    outcome: Literal["ok", "failed", "unknown"]
    text: str


def check(account: Account, stack: str) -> Iterator[Finding]:
    """Yield what is known of each requirement of a stack.

    Args:
        account: The account, whose credentials are those of this process too.
        stack: The name of the stacks.

    Raises:
        UserError: AWS refuses.
    """
    with aws_errors_as_user_errors():
        yield from _permissions(account, stack)
        yield _concurrency(account, int(_setting(stack, "compute", "maximumConcurrency")))
        try:
            deployed = state.has_states(account)
        except UserError:  # the permissions above say what is missing
            deployed = True
        for project, kind, name in _names(stack):
            yield _name(stack, project, kind, name, deployed=deployed)


def _setting(stack: str, project: str, key: str) -> str:
    """Return a setting as text. In a stack's file, its name may lack the project."""

    def read(name: str) -> dict[str, Any]:
        return settings.read(STACKS / project / name).get("config") or {}

    written = read(f"Pulumi.{stack}.yaml")
    return str(written.get(f"{project}:{key}", written.get(key, read("Pulumi.yaml")[key]["default"])))


def _names(stack: str) -> list[tuple[str, str, str]]:
    """Return the project, type and name of each resource that no other may have the same name as."""
    function = names.of_stack(names.FUNCTION, stack)
    return [
        ("storage", existing.BUCKET, _setting(stack, "storage", "bucketName")),
        ("messaging", "aws:sqs/queue:Queue", names.of_stack(names.MAIN_QUEUE, stack)),
        ("messaging", "aws:sqs/queue:Queue", names.of_stack(names.DEAD_LETTER_QUEUE, stack)),
        ("messaging", "aws:sns/topic:Topic", names.of_stack(names.ALARM_TOPIC, stack)),
        ("compute", "aws:iam/role:Role", names.of_stack(names.FUNCTION_ROLE, stack)),
        ("compute", existing.LOG_GROUP, f"/aws/lambda/{function}"),
        ("compute", "aws:lambda/function:Function", function),
    ]


def resources(account: Account, stack: str) -> dict[str, list[str]]:
    """Return the ARNs of what a stack consists of, by the `Sid` of the statement in `POLICY` that is for them."""

    def arn(service: str, resource: str, name: str) -> str:
        return f"arn:{account.partition}:{service}:{account.region}:{account.number}:{resource}{name}"

    bucket, main_queue, dead_letter_queue, topic, role, log_group, function = [name for _, _, name in _names(stack)]
    files = f"arn:{account.partition}:s3:::{bucket}"
    backend = urlsplit(state.backend(account))
    states = [f"arn:{account.partition}:s3:::{backend.netloc}"] if backend.scheme == "s3" else []
    roles = [f"arn:{account.partition}:iam::{account.number}:role/{role}"]
    return {
        "StateBucket": states,
        "State": [f"{each}/.pulumi/meta.yaml" for each in states],
        "Bucket": [files],
        "EmptyBucket": [f"{files}/key"],
        "Queues": [arn("sqs", "", main_queue), arn("sqs", "", dead_letter_queue)],
        "AlarmTopic": [arn("sns", "", topic)],
        "Alarms": [arn("cloudwatch", "alarm:", f"{names.of_stack('error-alarm', stack)}-0000000")],
        "FunctionRole": roles,
        "FunctionRolePolicies": roles,
        "PassFunctionRole": roles,
        "LogGroup": [arn("logs", "log-group:", log_group)],
        "Function": [arn("lambda", "function:", function)],
        "EventSourceMapping": ["*"],
        "ReadEventSourceMapping": [arn("lambda", "event-source-mapping:", "uuid")],
        "Find": ["*"],
    }


def _permissions(account: Account, stack: str) -> Iterator[Finding]:
    """Yield whether the caller has the permissions of each statement in `POLICY`.

    Simulations know the caller's policies and permissions boundary, but neither session policies nor those of resources
    ("SimulatePrincipalPolicy", IAM API Reference).
    """
    if account.identity.endswith(":root"):
        yield Finding("ok", "permissions: the root user may do everything.")
        return
    principal = _principal(account)
    policy = POLICY.read_text(encoding="utf-8")
    document = json.loads(re.sub("arn:aws[a-z-]*:", f"arn:{account.partition}:", policy))
    arns = resources(account, stack)
    (function,) = arns["Function"]
    for statement in document["Statement"]:
        if statement["Sid"] == "Check":
            continue  # a deployment doesn't need it
        contexts = _contexts(statement, function)
        try:
            denied = {
                arn: actions
                for arn in arns[statement["Sid"]]
                if (actions := _denied(account, principal, statement["Action"], arn, contexts))
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
                "failed", f"permissions: {', '.join(actions)} on {arn}, see {statement['Sid']} in docs/permissions.md."
            )
        if arns[statement["Sid"]] and not denied:
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


def _denied(
    account: Account, principal: str, actions: list[str], arn: str, contexts: list[list[ContextEntryTypeDef]]
) -> list[str]:
    """Return the actions that the principal may not do with a resource, in one of the contexts."""
    simulations = account.session.client("iam").get_paginator("simulate_principal_policy")
    denied: dict[str, None] = {}
    for context in contexts:
        for page in simulations.paginate(
            PolicySourceArn=principal, ActionNames=actions, ResourceArns=[arn], ContextEntries=context
        ):
            results = page["EvaluationResults"]
            denied |= {each["EvalActionName"]: None for each in results if each["EvalDecision"] != "allowed"}
    return list(denied)


def _contexts(statement: dict[str, Any], function: str) -> list[list[ContextEntryTypeDef]]:
    """Return the values of the statement's condition key, each as the context of a simulation."""
    conditions = [item for keys in statement.get("Condition", {}).values() for item in keys.items()]
    if not conditions:
        return [[]]
    ((key, values),) = conditions
    listed = [function] if key == "lambda:FunctionArn" else [values] if isinstance(values, str) else values
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
        "failed",
        f"concurrency: {free} in this region, but compute:maximumConcurrency is {maximum}: lower it, or request a "
        "higher quota 'Concurrent executions' in Service Quotas.",
    )


def _name(stack: str, project: str, kind: str, name: str, *, deployed: bool) -> Finding:
    """Return whether a resource's name is free, or the resource is the stack's.

    A log group without tags is taken over by a deployment (`refusals.take_over`).

    Args:
        stack: The stack's name.
        project: The project of the resource.
        kind: The resource's type.
        name: The resource's name.
        deployed: Whether the state of anything is in the backend; without, the resource is in a state elsewhere.
    """
    what = f"names: the {existing.KINDS[kind]} '{name}'"
    ours = existing.owner({"Application": APPLICATION, "PulumiProject": project, "PulumiStack": stack})
    try:
        found = existing.look_up(kind, {"bucket" if kind == existing.BUCKET else "name": name})
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_ALLOWED:
            raise
        return Finding(
            "unknown", f"{what}: AWS does not tell whether it exists, {error.operation_name} is not allowed."
        )
    if found is None:
        return Finding("ok", f"{what} does not exist yet.")
    if existing.owner(found.tags) == ours and deployed:
        return Finding("ok", f"{what} is this stack's.")
    if kind == existing.LOG_GROUP and not any(existing.owner(found.tags).values()):
        return Finding("ok", f"{what} belongs to no stack, and is taken over.")
    return Finding("failed", f"names: {existing.sentence(kind, name, found, ours)}.")
