"""Lists the changes of each resource, made or planned, property by property."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Final, Literal

from pulumi.automation import EngineEvent
from pulumi.automation.events import StepEventMetadata

from xfarm.orchestrator.scratch import ENCRYPTED, UNKNOWN, is_unknown

CHANGES: Final = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
"""The engine's operations that change a resource, and their past participles."""

_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
"""The key that marks a special value; its value, one of those below, is the kind (`Sig` and others in pulumi/sdk)."""
_ASSET: Final = "c44067f5952c0a294b673a41bacd8c17"
_ARCHIVE: Final = "0def7320c3a5731c473e5ecbe6d01bc7"

_PATH: Final = re.compile(r'\["(?P<quoted>(?:[^"\\]|\\.)*)"\]|\[(?P<index>\d+)\]|(?P<name>[^.\[\]]+)')
"""A step of a property's path: `rules[0]["a.b"]` has three."""


@dataclass(frozen=True)
class PropertyChange:
    """The change of one value of a resource, or of an output of a stack.

    Attributes:
        path: The value's path, such as `environment.variables.INPUT_PREFIX`. It may lead into a JSON document.
        kind: Whether the value is added, deleted or updated.
        old: The value before, without secrets; None if there is none.
        new: The value afterwards.
        unknown: Whether the value afterwards is not known yet.
        replaces: Whether the resource has to be replaced because of it.
        causes: The changed outputs of other stacks that the value comes from, such as `storage.input_prefix`.
    """

    path: str
    kind: Literal["add", "delete", "update"]
    old: Any
    new: Any
    unknown: bool
    replaces: bool = False
    causes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """The change of one resource.

    Attributes:
        resource: The resource's name in the program.
        urn: The resource's URN.
        type: The resource's type, such as `aws:s3/bucket:Bucket`.
        operation: One of `CHANGES`.
        may: Whether only unknown values cause the operation, so the deployment may do less.
        properties: The properties that change; all properties of a resource to create, none of one to delete.
    """

    resource: str
    urn: str
    type: str
    operation: str
    may: bool
    properties: list[PropertyChange]


class Steps:
    """The steps of the engine, collected from its events.

    Args:
        refreshing: Whether to collect the changes that a refresh finds instead.
    """

    def __init__(self, *, refreshing: bool = False) -> None:
        self._refreshing = refreshing
        self._refreshed: set[str] = set()
        self._planned: set[str] = set()
        self._steps: dict[str, list[StepEventMetadata]] = {}
        self._failed: dict[str, StepEventMetadata] = {}

    def record(self, event: EngineEvent) -> None:
        """Record the step that an event reports."""
        if event.resource_pre_event and event.resource_pre_event.metadata.op.value == "refresh":
            self._refreshed.add(event.resource_pre_event.metadata.urn)
        elif event.res_outputs_event:
            step = event.res_outputs_event.metadata
            refreshed = step.urn in self._refreshed
            self._refreshed.discard(step.urn)
            if refreshed == self._refreshing and not step.type.startswith("pulumi:"):
                # A resource whose creation failed, and which was then taken over, was created nevertheless.
                created = [self._failed.pop(step.urn)] if step.urn in self._failed else []
                self._steps.setdefault(step.urn, []).extend((*created, step))
                if event.res_outputs_event.planning:
                    self._planned.add(step.urn)
        elif event.res_op_failed_event and event.res_op_failed_event.metadata.op.value in {
            "create",
            "create-replacement",
        }:
            step = event.res_op_failed_event.metadata
            self._failed[step.urn] = step

    @property
    def generated_names(self) -> set[str]:
        """The names that Pulumi generated in a preview; the deployment generates others.

        Source: "Auto-naming" in Pulumi's documentation.
        """
        return {
            value
            for urn, steps in self._steps.items()
            for step in steps
            if urn in self._planned and step.new and step.op.value in {"create", "create-replacement", "replace"}
            for value in (step.new.inputs or {}).values()
            if isinstance(value, str) and re.fullmatch(re.escape(urn.rpartition("::")[2]) + "-[0-9a-f]{7}", value)
        }

    @property
    def tally(self) -> dict[str, int]:
        """The number of resources by operation."""
        return tally({urn: {step.op.value for step in steps} for urn, steps in self._steps.items()})

    @property
    def changes(self) -> list[Change]:
        """The change of each resource that changes."""
        generated = self.generated_names
        for new in (step.new for steps in self._steps.values() for step in steps if step.new):
            new.inputs = hide(new.inputs, generated)
        changes = [_change(steps) for steps in self._steps.values()]
        return [change for change in changes if change.operation in CHANGES]


def hide(value: Any, names: Iterable[str]) -> Any:  # noqa: ANN401 - any JSON
    """Return `value`, with each string that contains one of `names` replaced by `UNKNOWN`."""
    if isinstance(value, Mapping):
        return {key: hide(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [hide(one, names) for one in value]
    return UNKNOWN if isinstance(value, str) and any(name in value for name in names) else value


def tally(steps: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the number of resources by operation.

    Args:
        steps: The engine's steps for each resource, by its URN; a replacement has three.
    """
    return dict(Counter(kind for one in steps.values() if (kind := _operation(one))))


def _operation(steps: set[str]) -> str:
    """Return the operation that several steps make up; an empty string if the resource stays as it is."""
    of_a_replacement = {"create-replacement": "replace", "delete-replaced": "delete"}
    done = {of_a_replacement.get(step, step) for step in steps}
    return next((kind for kind in ("replace", "create", "update", "delete", "same") if kind in done), "")


def _change(steps: Iterable[StepEventMetadata]) -> Change:
    steps = list(steps)
    operation = _operation({step.op.value for step in steps})
    properties = max(map(_properties, steps), key=len) if operation in {"update", "replace"} else []
    # Without such a property, an unknown `replacement_trigger` or a replaced dependency causes the replacement.
    causes = [change for change in properties if change.replaces or operation == "update"]
    may = operation in {"update", "replace"} and all(change.unknown for change in causes)
    if operation == "create":
        inputs = next(step.new.inputs for step in steps if step.new) or {}
        properties = differences("", {}, _plain({name: one for name, one in inputs.items() if one is not None}))
    return Change(steps[0].urn.rpartition("::")[2], steps[0].urn, steps[0].type, operation, may, properties)


def _properties(step: StepEventMetadata) -> list[PropertyChange]:
    if step.old is None or step.new is None:
        return []
    paths = {path: (diff.diff_kind.value, diff.input_diff) for path, diff in (step.detailed_diff or {}).items()}
    if not paths:
        replacing = set(step.keys or ())
        paths = {name: ("update-replace" if name in replacing else "update", True) for name in step.diffs or ()}
    changes: list[PropertyChange] = []
    for path, (kind, of_inputs) in sorted(paths.items()):
        replaces = kind.endswith("-replace")
        old, there, new = (_plain(_at(side, path)) for side in (step.old.inputs, step.old.outputs, step.new.inputs))
        # What was changed by hand may differ in the outputs only.
        before = old if of_inputs and old != new else there
        same = PropertyChange(path, "update", before, new, is_unknown(new), replaces)
        changes += differences(path, before, new, replaces=replaces) or [same]
    return changes


def differences(path: str, old: Any, new: Any, *, replaces: bool = False) -> list[PropertyChange]:  # noqa: ANN401
    """Return each difference between two values, also inside JSON documents. None stands for no value."""
    old, new = _documents(old, new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(_member(path, name), old.get(name), new.get(name)) for name in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list):
        pairs = [(f"{path}[{number}]", *each) for number, each in enumerate(zip_longest(old, new))]
    elif old == new:
        return []
    else:
        kind = "add" if old is None else "delete" if new is None else "update"
        return [PropertyChange(path, kind, old, new, is_unknown(new), replaces)]
    return [change for pair in pairs for change in differences(*pair, replaces=replaces)]


def outputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[PropertyChange]:
    """Return the outputs of a stack that differ, each as a whole, as other stacks read them."""
    changes: list[PropertyChange] = []
    for name in {**old, **new}:
        before, after = _plain(old.get(name)), _plain(new.get(name))
        # The ciphertext of a secret differs each time, so a change of its value can't be detected.
        if before != after or (name in old) != (name in new):
            kind = "add" if name not in old else "delete" if name not in new else "update"
            changes.append(PropertyChange(name, kind, before, after, is_unknown(after)))
    return changes


def _member(path: str, name: str) -> str:
    if not re.fullmatch(r"[\w-]+", name):
        return f'{path}["{name}"]'
    return f"{path}.{name}" if path else name


def _documents(old: Any, new: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any JSON
    """Return both values parsed if both are JSON documents."""
    try:
        parsed = json.loads(old), json.loads(new)
    except (TypeError, ValueError):
        return old, new
    return parsed if all(isinstance(one, (Mapping, list)) for one in parsed) else (old, new)


def _at(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the part of `value` at `path`, or None. Every part of an unknown value is unknown."""
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


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a property's value without secrets, and with the hash of each file in place of its content."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get(_SIGNATURE)
    if kind == ENCRYPTED:
        return "[secret]"
    if kind == _ARCHIVE and value.get("assets"):
        return _plain(value["assets"])
    if kind in {_ASSET, _ARCHIVE}:
        return f"sha256:{value.get('hash', '')}"
    return {name: _plain(one) for name, one in value.items() if name != _SIGNATURE}


def caused(
    changes: Iterable[Change], plan: Mapping[str, Any], outputs: Mapping[str, list[PropertyChange]]
) -> list[Change]:
    """Return `changes` with their causes.

    Args:
        changes: The changes that a preview shows.
        plan: The file that `pulumi preview --save-plan` wrote.
        outputs: The changed outputs of each other stack.
    """
    return [
        replace(
            change, properties=[_with_causes(one, _sources(one, change, plan), outputs) for one in change.properties]
        )
        for change in changes
    ]


def _sources(change: PropertyChange, of: Change, plan: Mapping[str, Any]) -> list[str]:
    """Return the projects whose outputs the property depends on."""
    goal = plan["resourcePlans"].get(of.urn, {}).get("goal", {})
    name = re.split(r"[.\[]", change.path)[0]
    references = (goal.get("propertyDependencies") or {}).get(name) or []
    return [urn.split("/")[-2] for urn in references if "::pulumi:pulumi:StackReference::" in urn]


def _with_causes(
    change: PropertyChange, projects: Iterable[str], outputs: Mapping[str, list[PropertyChange]]
) -> PropertyChange:
    found = [
        f"{project}.{output.path}"
        for project in projects
        for output in outputs.get(project, [])
        if (change.unknown if output.unknown else _within(output.new, change.new) or _within(output.old, change.old))
    ]
    return replace(change, causes=found)


def _within(part: Any, whole: Any) -> bool:  # noqa: ANN401 - any JSON
    return part == whole or (isinstance(part, str) and part != "" and part in json.dumps(whole, ensure_ascii=False))
