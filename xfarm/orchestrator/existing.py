"""Finds resources in AWS that have the names of those that a deployment would create.

AWS refuses to create most of them a second time, but only in the middle of a deployment. Others it returns as if it had
just created them, such as a queue with the same attributes ("CreateQueue", Amazon SQS API Reference): two stacks would
then share one, and the destruction of either would delete it.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from xfarm.aws_errors import is_missing
from xfarm.orchestrator import recovery
from xfarm.orchestrator.changes import Change
from xfarm.orchestrator.stores import DEFAULT_PREFIX

_OWNER: Final = ("Application", "PulumiProject", "PulumiStack")
"""The tags that identify the stack that a resource belongs to (`shared.tags`)."""

Owner = dict[str, str | None]


class Existing(NamedTuple):
    """A resource that exists.

    Attributes:
        created: When it was created; None where AWS doesn't say.
        tags: Its tags.
        foreign: Whether it belongs to another account.
    """

    created: datetime | None
    tags: Mapping[str, str]
    foreign: bool = False


def owner(tags: Mapping[str, str]) -> Owner:
    """Return which stack a resource belongs to, by its tags."""
    return {name: tags.get(name) for name in _OWNER}


def look_up(kind: str, inputs: recovery.Inputs) -> Existing | None:
    """Return the resource with the name that `inputs` have, or None if there is none or its type isn't looked up."""
    try:
        return _LOOKUPS[kind](inputs) if kind in _LOOKUPS else None
    except ClientError as error:
        if not is_missing(error):
            raise
        return None


def conflicts(changes: Iterable[Change], pending: Collection[str]) -> list[str]:
    """Return a sentence for each resource that would be created, or replaced under another name, and exists already.

    A log group without this project's tags is none: Lambda creates one, and `refusals.take_over` takes it over.

    Args:
        changes: What a preview shows.
        pending: The URNs of the resources whose creation was interrupted.
    """
    sentences = []
    for change in changes:
        inputs = {each.path: each.new for each in change.properties}
        name = inputs.get("name") or inputs.get("bucket")
        if change.operation not in {"create", "replace"} or name is None:
            continue
        if change.type not in KINDS or not (found := look_up(change.type, inputs)):
            continue
        ours = owner(inputs.get("tags") or {})
        if not (
            (change.type == LOG_GROUP and not any(owner(found.tags).values()))
            or (change.urn in pending and owner(found.tags) == ours)
        ):
            sentences.append(sentence(change.type, name, found, ours))
    return sentences


def sentence(kind: str, name: str, found: Existing, ours: Owner) -> str:
    """Return what is wrong with a resource that exists already, and what to do.

    Args:
        kind: Its type.
        name: Its name.
        found: What exists.
        ours: The tags of the stack that would create it.
    """
    what, theirs = KINDS[kind], owner(found.tags)
    text = f"the {what} '{name}' exists already and "
    remedy = f"delete the {what} if nobody needs it"
    if found.foreign:
        return f"{text}belongs to another AWS account, or you have no permission to read it: choose another name"
    if not any(theirs.values()):
        return f"{text}has none of this project's tags: {remedy}, or choose another name"
    belongs = f"{text}belongs to the stack '{theirs['PulumiStack']}' of the project '{theirs['PulumiProject']}'"
    if theirs != ours:
        return f"{belongs}: destroy that stack, or {remedy}"
    if regions := _other_regions():
        return (
            f"{belongs}, whose state is kept elsewhere, perhaps in {' or '.join(regions)}, where this account has a "
            f"state bucket: set AWS_REGION to that region, or create a stack of another name with 'xfarm new-stack'"
        )
    return (
        f"{belongs}, but is not in its state: if a deployment of it is running, wait for its end, else the state is "
        f"kept elsewhere: destroy that stack, or {remedy}"
    )


def anything() -> bool:
    """Return whether the account has a resource of one of these types, apart from roles that AWS created."""
    iam, lambdas, logs, s3, sns, sqs = map(recovery.client, ("iam", "lambda", "logs", "s3", "sns", "sqs"))
    return any(
        (
            sqs.list_queues().get("QueueUrls"),
            s3.list_buckets()["Buckets"],
            [role for role in iam.list_roles()["Roles"] if not role["Path"].startswith("/aws-service-role/")],
            lambdas.list_functions()["Functions"],
            logs.describe_log_groups()["logGroups"],
            sns.list_topics()["Topics"],
        )
    )


def _other_regions() -> list[str]:
    """Return the other regions in which the account has a state bucket with the default name."""
    s3 = recovery.client("s3")
    names = [re.fullmatch(rf"{DEFAULT_PREFIX}\d{{12}}-(.+)", each["Name"]) for each in s3.list_buckets()["Buckets"]]
    return sorted({name[1] for name in names if name} - {s3.meta.region_name})


def _log_group(inputs: recovery.Inputs) -> Existing | None:
    name, logs = inputs["name"], recovery.client("logs")
    for group in logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]:
        if group["logGroupName"] == name:
            tags = logs.list_tags_for_resource(resourceArn=group["arn"].removesuffix(":*"))["tags"]
            return Existing(datetime.fromtimestamp(group["creationTime"] / 1000, UTC), tags)
    return None


def _role(inputs: recovery.Inputs) -> Existing:
    role = recovery.client("iam").get_role(RoleName=inputs["name"])["Role"]
    return Existing(role["CreateDate"], _pairs(role.get("Tags", [])))


def _function(inputs: recovery.Inputs) -> Existing:
    function = recovery.client("lambda").get_function(FunctionName=inputs["name"])
    return Existing(datetime.fromisoformat(function["Configuration"]["LastModified"]), function.get("Tags", {}))


def _event_source_mapping(inputs: recovery.Inputs) -> Existing | None:
    mappings = recovery.client("lambda").list_event_source_mappings(
        EventSourceArn=inputs["eventSourceArn"], FunctionName=inputs["functionName"]
    )["EventSourceMappings"]
    return Existing(mappings[0]["LastModified"], {}) if mappings else None


def _bucket(inputs: recovery.Inputs) -> Existing | None:
    name, s3 = inputs["bucket"], recovery.client("s3")
    created = next((each["CreationDate"] for each in s3.list_buckets()["Buckets"] if each["Name"] == name), None)
    try:
        if created is None:
            s3.head_bucket(Bucket=name)
            return Existing(None, {}, foreign=True)
        return Existing(created, _pairs(s3.get_bucket_tagging(Bucket=name)["TagSet"]))
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchTagSet":
            return Existing(created, {})
        # It is in another region, or somebody else's ("HeadBucket", Amazon S3 API Reference).
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FORBIDDEN}:
            return Existing(created, {}, foreign=True)
        raise


def _queue(inputs: recovery.Inputs) -> Existing:
    sqs = recovery.client("sqs")
    url = sqs.get_queue_url(QueueName=inputs["name"])["QueueUrl"]
    return Existing(None, sqs.list_queue_tags(QueueUrl=url).get("Tags", {}))


def _topic(inputs: recovery.Inputs) -> Existing | None:
    arn = recovery.topic_arn(inputs)
    return (
        Existing(None, _pairs(recovery.client("sns").list_tags_for_resource(ResourceArn=arn)["Tags"])) if arn else None
    )


def _pairs(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


LOG_GROUP: Final = "aws:cloudwatch/logGroup:LogGroup"
BUCKET: Final = "aws:s3/bucket:Bucket"
KINDS: Final = {
    LOG_GROUP: "log group",
    BUCKET: "bucket",
    "aws:iam/role:Role": "role",
    "aws:lambda/function:Function": "function",
    "aws:sns/topic:Topic": "topic",
    "aws:sqs/queue:Queue": "queue",
}
"""The types whose names can be taken, and what people call them."""

_LOOKUPS: Final[dict[str, Callable[[recovery.Inputs], Existing | None]]] = {
    LOG_GROUP: _log_group,
    BUCKET: _bucket,
    "aws:iam/role:Role": _role,
    "aws:lambda/eventSourceMapping:EventSourceMapping": _event_source_mapping,
    "aws:lambda/function:Function": _function,
    "aws:sns/topic:Topic": _topic,
    "aws:sqs/queue:Queue": _queue,
}
"""A resource type -> the function that looks up such a resource."""
