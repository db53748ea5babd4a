"""The changes in a plan: which values change, from what to what, and why."""

import io
import json
from typing import Any

import pytest
from pulumi.automation import EngineEvent
from rich.console import Console

from xfarm.orchestrator.changes import Change, PropertyChange, Steps, caused, differences, outputs
from xfarm.orchestrator.display import plan
from xfarm.orchestrator.engine import Report
from xfarm.orchestrator.scratch import UNKNOWN

FUNCTION = "aws:lambda/function:Function"
URN = f"urn:pulumi:dev::compute::{FUNCTION}::function"
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "W3NlY3JldF0="}


def asset(digest: str) -> dict[str, str]:
    return {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "hash": digest, "path": f"{digest}.py"}


def archive(**digests: str) -> dict[str, Any]:
    assets = {f"{name}.py": asset(digest) for name, digest in digests.items()}
    return {SIGNATURE: "0def7320c3a5731c473e5ecbe6d01bc7", "hash": str(digests), "assets": assets}


def event(kind: str, op: str, old: dict[str, Any] | None, new: dict[str, Any] | None, **more: object) -> EngineEvent:
    def state(inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            "urn": URN,
            "type": FUNCTION,
            "id": "",
            "parent": "",
            "provider": "",
            "inputs": inputs,
            "outputs": {"there": "by hand"} | inputs,
        }

    metadata = {
        "op": op,
        "urn": URN,
        "type": FUNCTION,
        "provider": "",
        "old": old and state(old),
        "new": new and state(new),
    } | more
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, kind: {"metadata": metadata}})


def steps(*events: EngineEvent, refreshing: bool = False) -> list[Change]:
    collected = Steps(refreshing=refreshing)
    for one in events:
        collected.record(one)
    return collected.changes


def step(op: str, old: dict[str, Any], new: dict[str, Any], **more: object) -> Change:
    (change,) = steps(event("resOutputsEvent", op, old, new, **more))
    return change


def test_a_resource_that_was_taken_over_after_its_creation_failed_was_created() -> None:
    refreshed = (event(kind, "refresh", {}, {"name": "a"}) for kind in ("resourcePreEvent", "resOutputsEvent"))
    updated = event("resOutputsEvent", "update", {"name": "a"}, {"name": "a", "days": 7}, diffs=["days"])
    taken_over = (event("resOpFailedEvent", "create", None, {"name": "a", "days": 7}), *refreshed, updated)
    created = steps(event("resOutputsEvent", "create", None, {"name": "a", "days": 7}))
    assert [each.operation for each in created] == ["create"]
    assert steps(*taken_over) == created
    assert steps(*taken_over[:3], event("resOutputsEvent", "same", {"name": "a"}, {"name": "a"})) != []
    assert steps(*taken_over[:1]) == []


def shown(*changes: Change, **report: Any) -> list[str]:  # noqa: ANN401
    text = io.StringIO()
    console = Console(file=text, soft_wrap=True)
    for line in plan(Report("compute", steps=list(changes), **report)):
        console.print(line, highlight=False)
    return text.getvalue().splitlines()


def test_each_value_that_differs_is_shown_with_both_of_its_values() -> None:
    old = {"environment": {"variables": {"A": "1", "B": "2", "a.b": 1}}, "memorySize": 128}
    new = {"environment": {"variables": {"A": "1", "C": [3], "a.b": 2}}, "memorySize": 256}
    assert shown(step("update", old, new, diffs=["environment", "memorySize"])) == [
        f"~ compute    function {FUNCTION}",
        '    - environment.variables.B: "2"',
        '    ~ environment.variables["a.b"]: 1 -> 2',
        "    + environment.variables.C: [3]",
        "    ~ memorySize: 128 -> 256",
    ]


def test_the_paths_of_a_detailed_diff_are_followed() -> None:
    old, new = {"rules": [{"a.b": 1}, {"a.b": 2}]}, {"rules": [{"a.b": 1}, {"a.b": 3}]}
    detailed = {'rules[1]["a.b"]': {"diffKind": "update-replace", "inputDiff": True}}
    (change,) = step("replace", old, new, detailedDiff=detailed).properties
    assert (change.path, change.old, change.new, change.replaces) == ('rules[1]["a.b"]', 2, 3, True)


def test_documents_are_compared_inside() -> None:
    documents = [json.dumps({"Statement": [{"Effect": "Allow", "Resource": name}]}) for name in ("a", "b")]
    (change,) = differences("policy", *documents)
    assert (change.path, change.old, change.new) == ("policy.Statement[0].Resource", "a", "b")


def test_the_changed_files_of_code_are_shown() -> None:
    change = step("update", {"code": archive(a="1", b="2")}, {"code": archive(a="1", b="3")}, diffs=["code"])
    assert shown(change)[1:] == ['    ~ code["b.py"]: "sha256:2" -> "sha256:3"']


def test_a_secret_is_never_shown() -> None:
    change = step("update", {"password": SECRET}, {"password": SECRET}, diffs=["password"])
    assert shown(change)[1:] == ['    ~ password: "[secret]" -> "[secret]"']
    assert "ciphertext" not in str(change)


def test_long_values_are_shortened_around_what_differs() -> None:
    (_, line) = shown(step("update", {"text": "x" * 300 + "old"}, {"text": "x" * 300 + "new"}, diffs=["text"]))
    assert line == f'    ~ text: ...{"x" * 20}old" -> ...{"x" * 20}new"'
    (_, line) = shown(step("update", {"text": "a" * 300}, {"text": "b" * 300}, diffs=["text"]))
    assert len(line) < 300


def test_a_change_by_hand_is_shown_with_the_actual_value() -> None:
    detailed = {"there": {"diffKind": "update", "inputDiff": False}}
    (change,) = step("update", {"there": "as declared"}, {"there": "as declared"}, detailedDiff=detailed).properties
    assert change.new == "as declared"


def test_a_replacement_is_shown_with_the_property_that_causes_it() -> None:
    change = step(
        "create-replacement",
        {"name": "a", "memory": 1},
        {"name": "b", "memory": 2},
        diffs=["name", "memory"],
        keys=["name"],
    )
    assert shown(change) == [
        f"± compute    function {FUNCTION}",
        "    ~ memory: 1 -> 2",
        '    ~ name: "a" -> "b" forces replacement',
    ]


@pytest.mark.parametrize(
    ("new", "keys", "may"),
    [
        ({"role": UNKNOWN, "memory": 1}, [], True),
        ({"role": UNKNOWN, "memory": 2}, [], False),
        ({"role": {"in": [UNKNOWN]}, "memory": 1}, [], True),
        ({"role": UNKNOWN, "memory": 2}, ["role"], True),
        ({"role": UNKNOWN, "memory": 2}, ["role", "memory"], False),
    ],
)
def test_what_only_unknown_values_cause_is_shown_as_may(new: dict[str, Any], keys: list[str], may: bool) -> None:  # noqa: FBT001
    old = {"role": "arn", "memory": 1}
    diffs = [name for name in old if new[name] != old[name]]
    change = step("create-replacement" if keys else "update", old, new, diffs=diffs, keys=keys)
    assert change.may is may
    verb = "replaced" if keys else "updated"
    assert (f"may be {verb}" in shown(change)[0]) is may
    assert any("not known yet" in line for line in shown(change))


def test_a_replacement_without_a_property_is_caused_by_a_dependency() -> None:
    change = step("create-replacement", {}, {})
    assert change.may
    assert shown(change)[1:] == ["      because something that it depends on is replaced"]


def test_a_created_resource_has_its_properties_in_json_only() -> None:
    (change,) = steps(event("resOutputsEvent", "create", None, {"name": "a", "none": None, "arn": UNKNOWN}))
    assert shown(change) == [f"+ compute    function {FUNCTION}"]
    assert [(one.path, one.new, one.unknown) for one in change.properties] == [
        ("name", "a", False),
        ("arn", UNKNOWN, True),
    ]


def test_a_name_that_pulumi_generates_in_a_preview_is_unknown() -> None:
    inputs = {"name": "function-0a1b2c3", "arn": "arn:function-0a1b2c3", "role": "function-reader", "list": ["x"]}
    created = event("resOutputsEvent", "create", None, inputs)
    (change,) = steps(created)
    assert not any(one.unknown for one in change.properties)
    assert created.res_outputs_event
    created.res_outputs_event.planning = True
    (change,) = steps(created)
    assert [one.path for one in change.properties if one.unknown] == ["name", "arn"]


def test_what_a_refresh_finds_is_not_a_change_of_the_update() -> None:
    refreshed = (
        event("resourcePreEvent", "refresh", {"a": 1}, {"a": 1}),
        event("resOutputsEvent", "update", {"a": 1}, {"a": 2}, diffs=["a"]),
    )
    assert steps(*refreshed) == []
    assert steps(*refreshed, event("resOutputsEvent", "same", {"a": 2}, {"a": 2})) == []
    assert [change.operation for change in steps(*refreshed, refreshing=True)] == ["update"]


REFERENCE = "urn:pulumi:dev::compute::pulumi:pulumi:StackReference::organization/storage/dev"
GOALS = {"resourcePlans": {URN: {"goal": {"propertyDependencies": {"environment": [REFERENCE], "memory": [URN]}}}}}


def test_a_change_names_the_output_of_another_stack_that_causes_it() -> None:
    changed = {
        "storage": outputs(
            {"prefix": "in/", "arn": "a", "other": "x"}, {"prefix": "drop/", "arn": UNKNOWN, "other": "y"}
        )
    }
    old = {"environment": {"known": "in/*", "unknown": "a"}, "memory": "in/"}
    new = {"environment": {"known": "drop/*", "unknown": UNKNOWN}, "memory": "drop/"}
    (change,) = caused([step("update", old, new, diffs=["environment", "memory"])], GOALS, changed)
    assert {one.path: one.causes for one in change.properties} == {
        "environment.known": ["storage.prefix"],
        "environment.unknown": ["storage.arn"],
        "memory": [],
    }
    assert "from storage.prefix" in shown(change)[1]


def test_outputs_are_compared_as_a_whole() -> None:
    old, new = {"a": {"x": 1}, "gone": 1, "same": 2, "secret": SECRET}, {"a": {"x": 2}, "new": 3, "same": 2}
    found = outputs(old, new | {"secret": SECRET | {"ciphertext": "another"}})
    assert found == [
        PropertyChange("a", "update", {"x": 1}, {"x": 2}, unknown=False),
        PropertyChange("gone", "delete", 1, None, unknown=False),
        PropertyChange("new", "add", None, 3, unknown=False),
    ]
    assert shown(outputs=found) == [
        '~ compute    output a: {"x": 1} -> {"x": 2}',
        "- compute    output gone: 1",
        "+ compute    output new: 3",
    ]
