"""Retries what AWS refuses only temporarily, and takes over resources that exist already.

The AWS provider retries most temporary refusals by itself. This module handles the rest; docs/habits.md lists both.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Final, cast

from pulumi.automation import CommandError, EngineEvent, Stack

from xfarm.errors import UserError
from xfarm.orchestrator import existing, recovery

WAITS_S: Final = (5, 10, 20, 40)
"""The waits before each further attempt, in seconds.

Together they exceed the 60 s that a change of a queue's attributes takes to propagate ("SetQueueAttributes", Amazon SQS
API Reference), the longest published time for a refusal in `_TRANSIENT`.
"""

_TRANSIENT: Final = {
    # "SetQueueAttributes", Amazon SQS API Reference; pulumi-aws #1895.
    "Unable to validate the following destination configurations": "the queue's policy has not propagated yet",
    # "Changes that I make are not always immediately visible", IAM User Guide.
    "NoSuchEntity: The role with name": "the role has not propagated yet",
    # "ConcurrentModification", AttachRolePolicy and PutRolePolicy, IAM API Reference.
    "ConcurrentModification": "another request is changing the role",
    # "Lambda function states", AWS Lambda Developer Guide; hashicorp/terraform #29604.
    "An update is in progress for resource": "another change of the function is in progress",
}
"""Part of AWS's message -> why the refusal is temporary."""

_GONE: Final = re.compile(r"StatusCode: 404|NotFoundException|NoSuch(Bucket|Entity)|NonExistentQueue")
"""What is in AWS's errors about a resource that does not exist."""

_EXISTS: Final = re.compile(
    r"\b(ResourceAlreadyExistsException|EntityAlreadyExists|BucketAlreadyOwnedByYou)\b"
    "|Function already exist|An event source mapping with .* already exists"
)
"""AWS's messages about a resource that can't be created because it exists."""

_MAX_CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far this machine's clock may be off: AWS refuses requests with any other time ("Signature Version 4")."""


@dataclass(frozen=True)
class Refused:
    """A resource that made a deployment fail.

    Attributes:
        resource: The resource as in Pulumi's state, with the fields that the engine's events contain.
        message: The error.
    """

    resource: dict[str, Any]
    message: str

    @property
    def name(self) -> str:
        """The resource's name in the program."""
        return self.resource["urn"].rpartition("::")[2]


class Attempt:
    """The resources that one update of a stack failed with, collected from the engine's events."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, Any]] = {}
        self._messages: dict[str, str] = {}

    def record(self, event: EngineEvent) -> None:
        """Record the resource that an event starts to change, or the error that it reports."""
        if event.resource_pre_event and (new := event.resource_pre_event.metadata.new):
            kept = ("urn", "type", "custom", "inputs", "parent", "provider")
            self._resources[new.urn] = {name: getattr(new, name) for name in kept}
        error = event.diagnostic_event
        # The engine adds these two, as errors of the stack, to every failure.
        if error and error.severity == "error" and error.message.strip() not in {"update failed", "destroy failed"}:
            self._messages[error.urn or ""] = self._messages.get(error.urn or "", "") + error.message

    @property
    def refused(self) -> list[Refused]:
        """The resources that it failed with."""
        return [Refused(self._resources.get(urn, {"urn": urn}), message) for urn, message in self._messages.items()]


def update_with_retries(
    project: str,
    stack: Stack,
    update: Callable[[Callable[[EngineEvent], None], bool], None],
    notify: Callable[[str], None],
    stopping: Event,
) -> None:
    """Update a stack; retry if AWS's refusals are temporary, or if the resources in question can be taken over.

    Args:
        project: The stack's project.
        stack: The stack.
        update: Updates the stack. Its arguments are a callback for the engine's events, and whether to refresh first.
        notify: Shows a line to the user.
        stopping: Is set once no further attempt may start.

    Raises:
        CommandError: The update failed for another reason, or the last attempt failed.
        UserError: A log group exists already and belongs to another stack.
    """
    began = datetime.now(UTC)
    refresh = False
    for wait_s in (*WAITS_S, None):
        attempt = Attempt()
        try:
            update(attempt.record, refresh)
        except CommandError:
            if wait_s is None or stopping.is_set():
                raise
            if found := _take_over(stack, attempt.refused, began):
                refresh = True
                notify(f"{project}: taking over existing resources: {', '.join(found)}.")
            elif reasons := transient_reasons(attempt.refused):
                notify(f"{project}: AWS refuses {reasons}. Retrying in {wait_s} s.")
                if stopping.wait(wait_s):
                    raise
            else:
                if gone := [refusal.name for refusal in attempt.refused if _GONE.search(refusal.message)]:
                    notify(
                        f"{project}: if somebody has deleted {' and '.join(gone)}, the same command with --refresh "
                        "creates it again."
                    )
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


def transient_reasons(refused: Iterable[Refused]) -> str:
    """Return why the refusals are temporary, or an empty string if one of them is not."""
    reasons = {
        refusal.name: next((reason for part, reason in _TRANSIENT.items() if part in refusal.message), "")
        for refusal in refused
    }
    return ", ".join(f"'{name}' because {reason}" for name, reason in reasons.items()) if all(reasons.values()) else ""


def take_over(deployment: dict[str, Any], refused: Iterable[Refused], began: datetime) -> list[str]:
    """Add existing resources that could not be created to a stack's state, so that a refresh finds them.

    This applies to two kinds of resources:

    - A log group without this project's tags. Lambda creates one for a function that has none, and did so after the
      destruction of deployments by versions up to 0.1.0.
    - A resource with this stack's tags that is no older than the deployment. AWS created it, but the response was lost,
      or the provider's next request was refused. A bucket is tagged only after its creation, so it may have no tags,
      but must be empty. Event source mappings have no tags.

    Args:
        deployment: The state from `pulumi stack export`; modified in place.
        refused: The resources that the deployment failed with.
        began: When the deployment began.

    Returns:
        The names of the resources taken over.

    Raises:
        UserError: A log group belongs to another stack.
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


def _may_be_taken(refused: Refused, began: datetime) -> bool:
    kind, inputs = refused.resource.get("type", ""), refused.resource.get("inputs", {})
    if not (found := existing.look_up(kind, inputs)):
        return False
    owner, ours = existing.owner(found.tags), existing.owner(inputs.get("tags", {}))
    untagged = not any(owner.values())
    new = found.created is not None and found.created > began - _MAX_CLOCK_SKEW
    if new and (owner == ours or (kind == existing.BUCKET and untagged)):
        return True
    if kind != existing.LOG_GROUP:
        return False
    if not untagged:
        raise UserError(f"{existing.sentence(kind, inputs['name'], found, ours)}.")
    return True
