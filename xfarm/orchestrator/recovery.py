"""Takes up what a killed update left behind: its lock, and resources of which nobody noted whether they were made.

Pulumi leaves both to a person ("Interrupted updates" in its documentation). Of its own means, ``pulumi cancel`` deletes
every lock, a living one as well; and ``pulumi refresh --import-pending-creates`` of version 3.259.0 forgets the
resource that it is told to import, so that it stays in the account for ever. Hence both are done here.
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
"""How a self-managed backend tells of a lock (``checkForLock`` in pulumi/pkg/backend/diy/lock.go)."""

Inputs = dict[str, Any]


def release(conflict: str) -> list[str]:
    """Delete the locks that an error tells of, where all their owners were processes of this host and are dead.

    Only those in a folder: what is elsewhere is for many machines, of which more than one may have this one's name.

    A lock has a name of its own, so that none is deleted that somebody else takes in the meantime. One whose owner
    may live, here or on another host, is never touched, nor are the others then.

    Args:
        conflict: What Pulumi says of the locks.

    Returns:
        The numbers of the dead processes; none where nothing was deleted.
    """
    locks = list(LOCK.finditer(conflict))
    places = [urlsplit(lock["url"]) for lock in locks]
    dead = all(lock["host"] == socket.gethostname() and not _alive(int(lock["pid"])) for lock in locks)
    if not dead or any(place.scheme != "file" for place in places):
        return []
    for place in places:
        Path(unquote(place.path)).unlink(missing_ok=True)
    return [lock["pid"] for lock in locks]


def _alive(pid: int) -> bool:
    """Whether a process of this number runs: another program's will do, as numbers are given out again."""
    if os.name != "posix":
        return True  # there is no asking there: signal 0 is Ctrl-C
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process whose parent died as well may wait for ever in a container, where nobody buries it.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")


def resolve_pending_creates(deployment: dict[str, Any], *, destroying: bool) -> list[str]:
    """Make each resource that was being created one that a refresh looks for, and keeps only if it is there.

    It is added to the state by the identity it would have, with nothing else known of it. What can be created twice is
    forgotten, unless this is the last chance to find it.

    Args:
        deployment: The state as ``pulumi stack export`` gives it, which is changed.
        destroying: Whether the stack is to be destroyed.

    Returns:
        The names of the resources to look for.
    """
    resources = deployment.setdefault("resources", [])
    looked_for = []
    for operation in deployment.pop("pending_operations", None) or []:
        resource = operation["resource"]
        kind = INTERRUPTED.get(resource["type"], _REPEATED)
        identify = kind.identify if destroying or not kind.only_destroying else None
        if operation["type"] != "creating" or identify is None or not (found := identify(resource["inputs"])):
            continue
        same = [other for other in resources if other["urn"] == resource["urn"]]
        # In the place of the one it is to replace, as what depends on it has to come later.
        place = resources.index(same[0]) if same else len(resources)
        for predecessor in same:
            if predecessor.get("pendingReplacement"):
                resources.remove(predecessor)  # was deleted before this one was to be made
            else:
                predecessor["delete"] = True  # was to be deleted after it
        resources.insert(place, resource | {"id": found, "outputs": {}})
        looked_for.append(resource["urn"].rpartition("::")[2])
    return looked_for


def _name(inputs: Inputs) -> str:
    return inputs["name"]


def _role_policy(inputs: Inputs) -> str:
    return f"{inputs['role']}:{inputs['name']}"


def _attachment(inputs: Inputs) -> str:
    return f"{inputs['role']}/{inputs['policyArn']}"


def _notification(inputs: Inputs) -> str:
    return inputs["bucket"]


def _topic(inputs: Inputs) -> str | None:
    pages = client("sns").get_paginator("list_topics").paginate()
    arns = (topic["TopicArn"] for page in pages for topic in page["Topics"])
    return next((arn for arn in arns if arn.rpartition(":")[2] == inputs["name"]), None)


def _bucket(inputs: Inputs) -> str | None:
    """The bucket, if the account has it and it is still empty: one that holds objects is not what was being made."""
    name = inputs["bucket"]
    s3 = client("s3")
    ours = any(bucket["Name"] == name for bucket in s3.list_buckets()["Buckets"])
    return name if ours and s3.list_objects_v2(Bucket=name, MaxKeys=1)["KeyCount"] == 0 else None


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
    """What becomes of a resource whose creation was interrupted: without `identify`, it is forgotten."""

    identify: Callable[[Inputs], str | None] | None = None
    """Returns the ID that it has if it was made, by the "Import" section of the AWS provider's documentation."""
    only_destroying: bool = False
    """Whether it can be created twice, so that it has to be found before a destruction only."""


_REPEATED: Final = Interrupted()
"""It is set, not created, or is given back where it is there; and it is gone together with another resource."""

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
    # Not before a deployment: the registry-built plugin would replace it, and delete the new one, which is the old one.
    "aws:sns/topic:Topic": Interrupted(_topic, only_destroying=True),
    "aws:sns/topicSubscription:TopicSubscription": _REPEATED,
    "aws:sqs/queue:Queue": Interrupted(_queue),
    "aws:sqs/queuePolicy:QueuePolicy": _REPEATED,
    "aws:sqs/redriveAllowPolicy:RedriveAllowPolicy": _REPEATED,
    "aws:sqs/redrivePolicy:RedrivePolicy": _REPEATED,
}
"""Every type that the stacks use."""


def client(service: Any) -> Any:  # noqa: ANN401  boto3's stubs know each service's client by its name
    """Return a client of the account that this process works on."""
    import boto3  # noqa: PLC0415  slow to load, and seldom needed

    return boto3.client(service)
