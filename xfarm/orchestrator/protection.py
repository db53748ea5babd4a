"""Refuses updates that would delete files or messages: only `destroy` may delete them.

The resources with files or messages have Pulumi's resource option `protect`, so the engine refuses to replace or delete
them. It does so only if they are protected in the state too ("protect" in Pulumi's documentation of the resource
options). In a state of version 0.1.0 they are not, so the steps of a preview show what the update would delete.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pulumi.automation import CommandError, EngineEvent

from xfarm.errors import UserError


class _Data(NamedTuple):
    """What a resource contains, and where its name is set."""

    resource: str
    contents: str
    name_in: str


HOLDING_DATA: Final = {
    "aws:s3/bucket:Bucket": _Data("bucket", "files", "stacks/{project}/Pulumi.{stack}.yaml"),
    "aws:sqs/queue:Queue": _Data("queue", "messages", "shared/names.py"),
}
"""The types of the resources that contain files or messages."""

_DELETING: Final = {"delete", "delete-replaced", "replace", "create-replacement"}


def unprotected(deployment: Mapping[str, Any]) -> bool:
    """Return whether a resource with files or messages is not protected in a state.

    Args:
        deployment: The deployment in the state.
    """
    return any(
        resource["type"] in HOLDING_DATA and not resource.get("protect") for resource in deployment.get("resources", [])
    )


@contextlib.contextmanager
def refusing(
    deployment: Mapping[str, Any], project: str, stack: str, on_event: Callable[[EngineEvent], None]
) -> Iterator[Callable[[EngineEvent], None]]:
    """Refuse an update that would delete a resource with files or messages.

    Args:
        deployment: The deployment in the state before the update.
        project: The stack's project.
        stack: The stack's name.
        on_event: Called with each event.

    Yields:
        The callback for the events of the update or its preview, in place of `on_event`.

    Raises:
        UserError: The update would delete files or messages.
    """
    ids = {resource.get("urn"): resource.get("id", "") for resource in deployment.get("resources", [])}
    lost: dict[str, _Data] = {}

    def note(kind: str, name: str) -> None:
        data = HOLDING_DATA[kind]
        # A queue's id is its URL.
        lost[f"the {data.resource} '{name.rpartition('/')[2]}' and all {data.contents} in it"] = data

    def watch(event: EngineEvent) -> None:
        if event.resource_pre_event:
            step = event.resource_pre_event.metadata
            if step.type in HOLDING_DATA and step.op.value in _DELETING:
                note(step.type, step.old.id if step.old else ids.get(step.urn, ""))
        elif event.diagnostic_event and "protect" in event.diagnostic_event.message:
            urn = event.diagnostic_event.urn or ""
            kind = _type(urn)
            if kind in HOLDING_DATA and event.diagnostic_event.severity == "error":
                note(kind, ids.get(urn, ""))
                return  # the engine advises to unprotect the resource, which would lose the files
        on_event(event)

    try:
        yield watch
    except CommandError:
        if not lost:
            raise
    if lost:
        name_in, contents = ({getattr(data, name): None for data in lost.values()} for name in ("name_in", "contents"))
        place = " and ".join(name_in).format(project=project, stack=stack)
        raise UserError(
            f"{' and '.join(lost)} would be deleted, and only destroy may do that: undo the change of its name (in "
            f"{place}) or of the program, or, if the {' and '.join(contents)} may go, run "
            f"'xfarm destroy {stack}' first"
        )


def _type(urn: str) -> str:
    """Return the type of a resource by its URN, without the types of its parents."""
    parts = urn.split("::")
    return parts[2].rpartition("$")[2] if len(parts) > 2 else ""  # noqa: PLR2004 - the third of a URN's parts
