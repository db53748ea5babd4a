"""Says of each resource what the engine does, or would do, to which of its properties."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pulumi.automation import EngineEvent
from pulumi.automation.events import StepEventMetadata

from xfarm.orchestrator.scratch import UNKNOWN, is_unknown

CHANGES: Final = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
"""The engine's operations that change a resource, and what has been done to it afterwards."""

_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
"""The key of what is no plain value, and below, what it is then (`Sig` and others in pulumi/sdk)."""
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the mark of a secret, not one
_ASSET: Final = "c44067f5952c0a294b673a41bacd8c17"
_ARCHIVE: Final = "0def7320c3a5731c473e5ecbe6d01bc7"

_PATH: Final = re.compile(r'\["(?P<quoted>(?:[^"\\]|\\.)*)"\]|\[(?P<index>\d+)\]|(?P<name>[^.\[\]]+)')
"""A step of a property's path, such as the three of `rules[0]["a.b"]`."""


@dataclass(frozen=True)
class PropertyChange:
    """What happens to one property of a resource.

    Attributes:
        path: Where it is, such as `environment.variables.INPUT_PREFIX`.
        kind: Whether it is added, deleted or given another value.
        old: Its value now, without secrets; None where it has none.
        new: Its value afterwards.
        unknown: Whether that can't be known yet.
        replaces: Whether the resource can't be updated with it.
    """

    path: str
    kind: Literal["add", "delete", "update"]
    old: Any
    new: Any
    unknown: bool
    replaces: bool


@dataclass(frozen=True)
class Change:
    """What happens to one resource.

    Attributes:
        resource: Its name in the program.
        type: Its type, such as `aws:s3/bucket:Bucket`.
        operation: One of `CHANGES`.
        may: Whether nothing but a value that is not known yet makes it happen, so that less may.
        properties: What changes of it; nothing where it is created or deleted.
    """

    resource: str
    type: str
    operation: str
    may: bool
    properties: list[PropertyChange]


class Steps:
    """What the engine did, or would do, by its events.

    Args:
        refreshing: Whether what a refresh finds is meant, and not what is then done.
    """

    def __init__(self, *, refreshing: bool = False) -> None:
        self._refreshing = refreshing
        self._refreshed: set[str] = set()
        self._steps: dict[str, list[StepEventMetadata]] = {}

    def hear(self, event: EngineEvent) -> None:
        """Note what an event tells of a resource."""
        if event.resource_pre_event and event.resource_pre_event.metadata.op.value == "refresh":
            self._refreshed.add(event.resource_pre_event.metadata.urn)
        elif event.res_outputs_event:
            step = event.res_outputs_event.metadata
            refreshed = step.urn in self._refreshed
            self._refreshed.discard(step.urn)
            if refreshed == self._refreshing and not step.type.startswith("pulumi:"):
                self._steps.setdefault(step.urn, []).append(step)

    @property
    def tally(self) -> dict[str, int]:
        """How many resources are created, updated and so on."""
        return tally({urn: {step.op.value for step in steps} for urn, steps in self._steps.items()})

    @property
    def changes(self) -> list[Change]:
        """What happens to each resource that doesn't stay as it is."""
        changes = [_change(steps) for steps in self._steps.values()]
        return [change for change in changes if change.operation in CHANGES]


def tally(steps: Mapping[str, set[str]]) -> dict[str, int]:
    """Return how many resources were, by what the engine did to each, created, updated and so on.

    Args:
        steps: The engine's operations on each resource, by its URN; a replacement takes three.
    """
    return dict(Counter(kind for one in steps.values() if (kind := _operation(one))))


def _operation(steps: set[str]) -> str:
    """Return what several steps of the engine are together; nothing where they leave the resource alone."""
    of_a_replacement = {"create-replacement": "replace", "delete-replaced": "delete"}
    done = {of_a_replacement.get(step, step) for step in steps}
    return next((kind for kind in ("replace", "create", "update", "delete", "same") if kind in done), "")


def _change(steps: Iterable[StepEventMetadata]) -> Change:
    steps = list(steps)
    operation = _operation({step.op.value for step in steps})
    properties: list[PropertyChange] = []
    if operation in {"update", "replace"}:
        properties = max(map(_properties, steps), key=len)
    causes = [change for change in properties if change.replaces or operation == "update"]
    # A replacement without such a property is one by a trigger, which is planned where the trigger isn't known.
    may = operation in {"update", "replace"} and all(change.unknown for change in causes)
    return Change(steps[0].urn.rpartition("::")[2], steps[0].type, operation, may, properties)


def _properties(step: StepEventMetadata) -> list[PropertyChange]:
    if step.old is None or step.new is None:
        return []
    paths = {path: (diff.diff_kind.value, diff.input_diff) for path, diff in (step.detailed_diff or {}).items()}
    if not paths:
        replacing = set(step.keys or ())
        paths = {name: ("update-replace" if name in replacing else "update", True) for name in step.diffs or ()}
    changes = []
    for path, (kind, of_inputs) in sorted(paths.items()):
        old = _plain(_at(step.old.inputs if of_inputs else step.old.outputs, path))
        new = _plain(_at(step.new.inputs, path))
        plain_kind: Any = kind.removesuffix("-replace")
        changes.append(PropertyChange(path, plain_kind, old, new, is_unknown(new), kind.endswith("-replace")))
    return changes


def _at(value: Any, path: str) -> Any:  # noqa: ANN401  any JSON
    """Return what is at `path` in `value`, or None; of what is not known yet, all that is in it isn't either."""
    for step in _PATH.finditer(path):
        if value == UNKNOWN:
            return value
        if step["index"] is not None:
            index = int(step["index"])
            value = value[index] if isinstance(value, list) and index < len(value) else None
        else:
            name = step["name"] if step["quoted"] is None else step["quoted"].replace('\\"', '"')
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _plain(value: Any) -> Any:  # noqa: ANN401  any JSON
    """Return a property's value without secrets, and with a file's hash in the place of its content."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get(_SIGNATURE)
    if kind == _SECRET:
        return "[secret]"
    if kind == _ARCHIVE and value.get("assets"):
        return _plain(value["assets"])
    if kind in {_ASSET, _ARCHIVE}:
        return f"sha256:{value.get('hash', '')}"
    return {name: _plain(one) for name, one in value.items() if name != _SIGNATURE}
