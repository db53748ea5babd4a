"""Tells what AWS refuses only for a while from what it refuses for good, and takes over what is there already.

The AWS provider asks again by itself for most of what is refused for a while; docs/habits.md lists what was tried. What
stands here is the rest.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Final, cast

from pulumi.automation import CommandError, EngineEvent, Stack

from xfarm.errors import UserError
from xfarm.orchestrator import recovery

WAITS_S: Final = (5, 10, 20, 40)
"""Before each further attempt, in seconds.

Together they are longer than the 60 s that SQS takes to make a queue's attributes known ("SetQueueAttributes", Amazon
SQS API Reference), the longest of the times in `_FOR_A_WHILE` that anybody has published.
"""

_FOR_A_WHILE: Final = {
    # "SetQueueAttributes", Amazon SQS API Reference; pulumi-aws #1895.
    "Unable to validate the following destination configurations": "the queue's policy is not known everywhere yet",
    # "Changes that I make are not always immediately visible", IAM User Guide.
    "NoSuchEntity: The role with name": "the role is not known everywhere yet",
    # "ConcurrentModification", AttachRolePolicy and PutRolePolicy, IAM API Reference.
    "ConcurrentModification": "the role is being changed elsewhere",
    # "Lambda function states", AWS Lambda Developer Guide; hashicorp/terraform #29604.
    "An update is in progress for resource": "the function is still being changed",
}
"""What AWS says, and why it will say so no longer after a while."""

_EXISTS: Final = re.compile(
    r"\b(ResourceAlreadyExistsException|EntityAlreadyExists|BucketAlreadyOwnedByYou)\b"
    "|Function already exist|An event source mapping with .* already exists"
)
"""What AWS says of something that can't be created because it is there."""

_OWNER: Final = ("Application", "PulumiProject", "PulumiStack")
"""The tags that name who something belongs to (`shared.tags`)."""

_CLOCKS: Final = timedelta(minutes=5)
"""How far apart AWS's clock and ours are at most: it refuses requests of other times ("Signature Version 4")."""


@dataclass(frozen=True)
class Refused:
    """A resource with which a deployment failed.

    Attributes:
        resource: As Pulumi's state has it, as far as the engine told of it.
        message: Why.
    """

    resource: dict[str, Any]
    message: str

    @property
    def name(self) -> str:
        """Its name in the program."""
        return self.resource["urn"].rpartition("::")[2]


class Attempt:
    """What one update of a stack was refused, by the engine's events."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, Any]] = {}
        self._messages: dict[str, str] = {}

    def hear(self, event: EngineEvent) -> None:
        """Note what an event tells of a resource that is begun with, or fails."""
        if event.resource_pre_event and (new := event.resource_pre_event.metadata.new):
            kept = ("urn", "type", "custom", "inputs", "parent", "provider")
            self._resources[new.urn] = {name: getattr(new, name) for name in kept}
        said = event.diagnostic_event
        # The engine adds that, as the stack's own error, to whatever made it fail.
        if said and said.severity == "error" and said.message.strip() not in {"update failed", "destroy failed"}:
            self._messages[said.urn or ""] = self._messages.get(said.urn or "", "") + said.message

    @property
    def refused(self) -> list[Refused]:
        """What it failed with."""
        return [Refused(self._resources.get(urn, {"urn": urn}), said) for urn, said in self._messages.items()]


def insist(
    project: str,
    stack: Stack,
    update: Callable[[Callable[[EngineEvent], None], bool], None],
    say: Callable[[str], None],
    stopping: Event,
) -> None:
    """Update a stack, and again where what AWS refuses is refused only for a while, or can be taken over.

    Args:
        project: The stack's project.
        stack: The stack.
        update: Updates it; is given whom to tell of the engine's events, and whether to refresh its state before.
        say: Is told, in lines for people, what is done.
        stopping: Is set where nothing more is to be begun.

    Raises:
        CommandError: It failed for another reason, or still does.
        UserError: Something is there already that belongs to another stack.
    """
    began = datetime.now(UTC)
    refresh = False
    for wait_s in (*WAITS_S, None):
        attempt = Attempt()
        try:
            update(attempt.hear, refresh)
        except CommandError:
            if wait_s is None or stopping.is_set():
                raise
            if found := _take_over(stack, attempt.refused, began):
                refresh = True
                say(f"{project}: already there, and taken over: {', '.join(found)}.")
            elif why := for_a_while(attempt.refused):
                say(f"{project}: AWS refuses {why}. It is asked again in {wait_s} s.")
                if stopping.wait(wait_s):
                    raise
            else:
                raise
        else:
            return


def _take_over(stack: Stack, refused: list[Refused], began: datetime) -> list[str]:
    if not any(_EXISTS.search(refusal.message) for refusal in refused):
        return []
    state = stack.export_stack()
    found = take_over(cast("dict[str, Any]", state.deployment), refused, began)
    if found:
        stack.import_stack(state)
    return found


def for_a_while(refused: Iterable[Refused]) -> str:
    """Return why all of these refusals will pass, or nothing where one will not."""
    why = {
        refusal.name: next((why for said, why in _FOR_A_WHILE.items() if said in refusal.message), "")
        for refusal in refused
    }
    return ", ".join(f"'{name}' as {reason}" for name, reason in why.items()) if all(why.values()) else ""


def take_over(deployment: dict[str, Any], refused: Iterable[Refused], began: datetime) -> list[str]:
    """Add to a stack's state what could not be created because it is there, so that a refresh finds it.

    It is a log group that carries none of our tags: Lambda makes one for a function that has none, and so did versions
    of this project up to 0.1.0 after they were destroyed. Or it carries the very tags that it was to have, and is no
    older than the deployment: then AWS made it, and its answer was lost, or what the provider asked next was refused.
    A bucket, which is tagged only after it was made, has no tags then, and nothing in it; a mapping has none at all.

    Args:
        deployment: The state as ``pulumi stack export`` gives it, which is changed.
        refused: What the deployment failed with.
        began: When it began.

    Returns:
        The names of what was taken over.

    Raises:
        UserError: It is a log group of another stack.
    """
    pending = [
        {"type": "creating", "resource": refusal.resource}
        for refusal in refused
        if _EXISTS.search(refusal.message) and _may_be_taken(refusal, began)
    ]
    if not pending:
        return []
    deployment["pending_operations"] = pending
    return recovery.resolve_pending_creates(deployment, destroying=False)


Found = tuple[datetime, dict[str, str]]
"""When something was made, and the tags that it carries."""


def _may_be_taken(refused: Refused, began: datetime) -> bool:
    kind, inputs = refused.resource.get("type", ""), refused.resource.get("inputs", {})
    if not (look := _LOOKS.get(kind)):
        return False
    created, tags = look(inputs)
    owner, ours = ({name: all_tags.get(name) for name in _OWNER} for all_tags in (tags, inputs.get("tags", {})))
    untagged = not any(owner.values())
    if created > began - _CLOCKS and (owner == ours or (kind == _BUCKET and untagged)):
        return True
    if kind != _LOG_GROUP:
        return False
    if not untagged:
        raise UserError(
            f"the log group '{inputs['name']}' is there already, and belongs to the stack '{owner['PulumiStack']}' of "
            f"the project '{owner['PulumiProject']}', by a state that is kept elsewhere: destroy that stack, "
            "or delete the log group where nobody needs it"
        )
    return True


def _log_group(inputs: recovery.Inputs) -> Found:
    name, logs = inputs["name"], recovery.client("logs")
    groups = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    (group,) = [each for each in groups if each["logGroupName"] == name]
    tags = logs.list_tags_for_resource(resourceArn=group["arn"].removesuffix(":*"))["tags"]
    return datetime.fromtimestamp(group["creationTime"] / 1000, UTC), tags


def _role(inputs: recovery.Inputs) -> Found:
    role = recovery.client("iam").get_role(RoleName=inputs["name"])["Role"]
    return role["CreateDate"], {tag["Key"]: tag["Value"] for tag in role.get("Tags", [])}


def _function(inputs: recovery.Inputs) -> Found:
    function = recovery.client("lambda").get_function(FunctionName=inputs["name"])
    return datetime.fromisoformat(function["Configuration"]["LastModified"]), function.get("Tags", {})


def _event_source_mapping(inputs: recovery.Inputs) -> Found:
    (mapping,) = recovery.client("lambda").list_event_source_mappings(
        EventSourceArn=inputs["eventSourceArn"], FunctionName=inputs["functionName"]
    )["EventSourceMappings"]
    return mapping["LastModified"], {}


def _bucket(inputs: recovery.Inputs) -> Found:
    name, s3 = inputs["bucket"], recovery.client("s3")
    (created,) = [each["CreationDate"] for each in s3.list_buckets()["Buckets"] if each["Name"] == name]
    try:
        tags = s3.get_bucket_tagging(Bucket=name)["TagSet"]
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchTagSet":
            raise
        return created, {}
    return created, {tag["Key"]: tag["Value"] for tag in tags}


_LOG_GROUP: Final = "aws:cloudwatch/logGroup:LogGroup"
_BUCKET: Final = "aws:s3/bucket:Bucket"
_LOOKS: Final[dict[str, Callable[[recovery.Inputs], Found]]] = {
    _LOG_GROUP: _log_group,
    _BUCKET: _bucket,
    "aws:iam/role:Role": _role,
    "aws:lambda/eventSourceMapping:EventSourceMapping": _event_source_mapping,
    "aws:lambda/function:Function": _function,
}
"""How to ask when something was made, and with which tags."""
