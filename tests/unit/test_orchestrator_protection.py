"""The refusal of updates that would delete files, by the engine's events."""

from typing import Any

import pytest
from pulumi.automation import CommandError, CommandResult, EngineEvent

from xfarm.errors import UserError
from xfarm.orchestrator import protection

BUCKET, ROLE = "aws:s3/bucket:Bucket", "aws:iam/role:Role"
URN = f"urn:pulumi:dev::storage::my:component:It${BUCKET}::bucket"
STATE = {"resources": [{"urn": URN, "type": BUCKET, "id": "old-name"}]}


def step(op: str, kind: str = BUCKET) -> EngineEvent:
    metadata = {"op": op, "urn": URN, "type": kind, "provider": "", "old": {"id": "old-name"}}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, "resourcePreEvent": {"metadata": metadata}})


def diagnostic(message: str, urn: str = URN, severity: str = "error") -> EngineEvent:
    event = {"urn": urn, "message": message, "severity": severity, "color": "never"}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, "diagnosticEvent": event})


PROTECTED = diagnostic("unable to replace resource\nas it is currently marked for protection. To unprotect")


def update(*events: EngineEvent, fails: bool = False) -> list[EngineEvent]:
    """Return the events that are shown of an update, or of a preview of one."""
    shown: list[EngineEvent] = []
    with protection.refusing(STATE, "storage", "dev", shown.append) as watch:
        for event in events:
            watch(event)
        if fails:
            raise CommandError(CommandResult("", "error: update failed", 255))
    return shown


@pytest.mark.parametrize("op", ["replace", "create-replacement", "delete-replaced", "delete"])
def test_a_step_that_deletes_a_bucket_is_refused_with_its_name_and_what_to_do(op: str) -> None:
    with pytest.raises(UserError) as refused:
        update(step(op))
    assert str(refused.value) == (
        "the bucket 'old-name' and all files in it would be deleted, and only destroy may do that: undo the change of "
        "its name (in stacks/storage/Pulumi.dev.yaml) or of the program, or, if the files may go, run "
        "'xfarm destroy dev' first"
    )


def test_the_refusal_for_a_queue_names_its_file() -> None:
    urn = "urn:pulumi:dev::messaging::aws:sqs/queue:Queue::main-queue"
    metadata = {
        "op": "replace",
        "urn": urn,
        "type": "aws:sqs/queue:Queue",
        "provider": "",
        "old": {"id": "https://sqs.eu-west-1.amazonaws.com/123456789012/xFarmMainQueue"},
    }
    event = EngineEvent.from_json({"sequence": 1, "timestamp": 1, "resourcePreEvent": {"metadata": metadata}})
    with pytest.raises(UserError) as refused:
        update(event)
    assert str(refused.value) == (
        "the queue 'xFarmMainQueue' and all messages in it would be deleted, and only destroy may do that: undo the "
        "change of its name (in shared/names.py) or of the program, or, if the messages may go, run "
        "'xfarm destroy dev' first"
    )


def test_the_engine_s_own_refusal_is_reported_in_the_same_words() -> None:
    shown: list[EngineEvent] = []

    def refuse() -> None:
        with protection.refusing(STATE, "storage", "dev", shown.append) as watch:
            watch(PROTECTED)
            raise CommandError(CommandResult("", "error: update failed", 255))

    with pytest.raises(UserError, match=r"the bucket 'old-name' and all files in it would be deleted"):
        refuse()
    assert shown == []


@pytest.mark.parametrize(
    "event",
    [
        step("create"),
        step("update"),
        step("same"),
        step("refresh"),
        step("replace", ROLE),
        diagnostic("bucket is protected by somebody", severity="warning"),
        diagnostic("AccessDenied"),
        diagnostic("the role is protected", urn=URN.replace(BUCKET, ROLE)),
        diagnostic("protection", urn=""),
    ],
)
def test_other_events_and_errors_are_passed_on(event: EngineEvent) -> None:
    assert update(event) == [event]
    with pytest.raises(CommandError):
        update(event, fails=True)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([], False),
        ([{"type": ROLE}], False),
        ([{"type": BUCKET}], True),
        ([{"type": BUCKET, "protect": False}], True),
        ([{"type": BUCKET, "protect": True}], False),
        ([{"type": BUCKET, "protect": True}, {"type": BUCKET, "delete": True}], True),
    ],
)
def test_a_bucket_without_protection_is_noticed(resources: list[dict[str, Any]], expected: bool) -> None:  # noqa: FBT001
    assert protection.unprotected({"resources": resources}) is expected
