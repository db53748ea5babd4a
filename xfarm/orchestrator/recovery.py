"""Finds out after a killed update which resources it created: their creation may or may not have succeeded.

Pulumi leaves that to the user ("Interrupted updates" in its documentation). Its command does not help here:
`pulumi refresh --import-pending-creates` of version 3.259.0 drops the resource from the state instead of importing it,
so it stays in the account for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Inputs = dict[str, Any]


def resolve_pending_creates(deployment: dict[str, Any], *, destroying: bool) -> list[str]:
    """Turn each pending creation into a resource that a refresh looks for, and keeps only if it exists.

    The resource is added to the state with its ID and its inputs. A resource whose creation can be repeated is dropped,
    unless the stack is about to be destroyed.

    Args:
        deployment: The state from `pulumi stack export`; modified in place.
        destroying: Whether the stack is about to be destroyed.

    Returns:
        The names of the resources to look for.
    """
    resources = deployment.setdefault("resources", [])
    names = []
    for operation in deployment.pop("pending_operations", None) or []:
        resource = operation["resource"]
        kind = INTERRUPTED.get(resource["type"], _REPEATED)
        identify = kind.identify if destroying or not kind.only_destroying else None
        if operation["type"] != "creating" or identify is None or not (found := identify(resource["inputs"])):
            continue
        same = [other for other in resources if other["urn"] == resource["urn"]]
        # It takes the position of the resource that it replaces, because its dependents must come later.
        index = resources.index(same[0]) if same else len(resources)
        for predecessor in same:
            if predecessor.get("pendingReplacement"):
                resources.remove(predecessor)  # was deleted before the creation
            else:
                predecessor["delete"] = True  # would have been deleted after the creation
        resources.insert(index, resource | {"id": found, "outputs": {}})
        names.append(resource["urn"].rpartition("::")[2])
    return names


def _name(inputs: Inputs) -> str:
    return inputs["name"]


def _role_policy(inputs: Inputs) -> str:
    return f"{inputs['role']}:{inputs['name']}"


def _attachment(inputs: Inputs) -> str:
    return f"{inputs['role']}/{inputs['policyArn']}"


def _notification(inputs: Inputs) -> str:
    return inputs["bucket"]


def topic_arn(inputs: Inputs) -> str | None:
    """Return the ARN of the topic with the name that `inputs` have, or None if there is none."""
    pages = client("sns").get_paginator("list_topics").paginate()
    arns = (topic["TopicArn"] for page in pages for topic in page["Topics"])
    return next((arn for arn in arns if arn.rpartition(":")[2] == inputs["name"]), None)


def _bucket(inputs: Inputs) -> str | None:
    """Return the bucket if the account has it and it is empty: a bucket with objects is older than the creation."""
    name = inputs["bucket"]
    s3 = client("s3")
    exists = any(bucket["Name"] == name for bucket in s3.list_buckets()["Buckets"])
    return name if exists and s3.list_objects_v2(Bucket=name, MaxKeys=1)["KeyCount"] == 0 else None


def _queue(inputs: Inputs) -> str | None:
    sqs = client("sqs")
    try:
        return sqs.get_queue_url(QueueName=inputs["name"])["QueueUrl"]
    except sqs.exceptions.QueueDoesNotExist:
        return None


def _event_source_mapping(inputs: Inputs) -> str | None:
    lambdas = client("lambda")
    try:
        listed = lambdas.list_event_source_mappings(
            EventSourceArn=inputs["eventSourceArn"], FunctionName=inputs["functionName"]
        )
    except lambdas.exceptions.ResourceNotFoundException:
        return None
    return next((mapping["UUID"] for mapping in listed["EventSourceMappings"]), None)


@dataclass(frozen=True)
class Interrupted:
    """How to find a resource whose creation was interrupted; without `identify`, it is dropped from the state."""

    identify: Callable[[Inputs], str | None] | None = None
    """Return the ID that the resource has if it was created ("Import" in the AWS provider's documentation)."""
    only_destroying: bool = False
    """Whether the creation can be repeated, so the resource must be found before a destruction only."""


_REPEATED: Final = Interrupted()
"""A resource whose creation can be repeated, and which is deleted with the resource that it belongs to."""

INTERRUPTED: Final = {
    "aws:cloudwatch/logGroup:LogGroup": Interrupted(_name),
    "aws:cloudwatch/metricAlarm:MetricAlarm": Interrupted(_name),
    "aws:iam/role:Role": Interrupted(_name),
    "aws:iam/rolePolicy:RolePolicy": Interrupted(_role_policy),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": Interrupted(_attachment, only_destroying=True),
    "aws:lambda/eventSourceMapping:EventSourceMapping": Interrupted(_event_source_mapping),
    "aws:lambda/function:Function": Interrupted(_name),
    "aws:s3/bucket:Bucket": Interrupted(_bucket),
    "aws:s3/bucketNotification:BucketNotification": Interrupted(_notification, only_destroying=True),
    "aws:s3/bucketPolicy:BucketPolicy": _REPEATED,
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": _REPEATED,
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": _REPEATED,
    # Before a deployment, the registry-built plugin would replace it, and delete the new topic, which is the old one.
    "aws:sns/topic:Topic": Interrupted(topic_arn, only_destroying=True),
    "aws:sns/topicSubscription:TopicSubscription": _REPEATED,
    "aws:sqs/queue:Queue": Interrupted(_queue),
    "aws:sqs/queuePolicy:QueuePolicy": _REPEATED,
    "aws:sqs/redriveAllowPolicy:RedriveAllowPolicy": _REPEATED,
    "aws:sqs/redrivePolicy:RedrivePolicy": _REPEATED,
}
"""The types that the stacks use."""


def client(service: Any) -> Any:  # noqa: ANN401 - boto3's stubs type a client by its literal name
    """Return a client of an AWS service, with this process's credentials."""
    import boto3  # noqa: PLC0415 - slow to import, rarely needed

    return boto3.client(service)
