"""Cleans up after a killed update: its lock, and resources whose creation may or may not have succeeded.

Pulumi leaves both to the user ("Interrupted updates" in its documentation). Its commands don't help here:
`pulumi cancel` also deletes the locks of running updates, and `pulumi refresh --import-pending-creates` of version
3.259.0 drops the resource from the state instead of importing it, so it stays in the account for ever.
"""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

LOCK: Final = re.compile(r"(?P<url>\S+): created by (?P<user>.+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<when>\S+)")
"""A self-managed backend's message about a lock (`checkForLock` in pulumi/pkg/backend/diy/lock.go)."""

Inputs = dict[str, Any]


def release(conflict: str) -> list[str]:
    """Delete the locks that an error lists, if the owners of all of them are dead processes of this host.

    If a single owner may be alive, here or on another host, no lock is deleted. Each lock's file has a unique name, so
    a lock that somebody else takes in the meantime is safe. Only locks in a folder are deleted: several machines with
    the same host name may share any other backend.

    Args:
        conflict: Pulumi's error message.

    Returns:
        The IDs of the dead processes, or an empty list if nothing was deleted.
    """
    locks = list(LOCK.finditer(conflict))
    urls = [urlsplit(lock["url"]) for lock in locks]
    dead = all(lock["host"] == socket.gethostname() and not _alive(int(lock["pid"])) for lock in locks)
    if not dead or any(url.scheme != "file" for url in urls):
        return []
    for url in urls:
        Path(unquote(url.path)).unlink(missing_ok=True)
    return [lock["pid"] for lock in locks]


def _alive(pid: int) -> bool:
    """Return whether a process with this ID runs, be it another program that got the same ID later."""
    if os.name != "posix":
        return True  # can't be checked on Windows, where signal 0 is Ctrl-C
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # In a container without a reaper, a killed process whose parent died as well stays a zombie.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")


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
