"""Which refusals are retried, which lead to a takeover of an existing resource, and which fail."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import boto3
import pytest
from pulumi.automation import CommandError, Deployment, EngineEvent, Stack
from pulumi.automation._cmd import CommandResult

from tests.support.account import use
from xfarm.emulator.server import REGION, Emulator
from xfarm.errors import UserError
from xfarm.orchestrator import refusals
from xfarm.orchestrator.refusals import Refused

YOUNG = "creating S3 Bucket Notification: InvalidArgument: Unable to validate the following destination configurations"
BUSY = (
    "ResourceConflictException: The operation cannot be performed at this time. An update is in progress for resource"
)
DENIED = "AccessDenied: User is not authorized"
STACK = "urn:pulumi:local::compute::pulumi:pulumi:Stack::compute-local"


def urn(kind: str, name: str) -> str:
    return f"urn:pulumi:local::compute::{kind}::{name}"


def begun(kind: str, name: str, inputs: dict[str, Any]) -> EngineEvent:
    state = {"urn": urn(kind, name), "type": kind, "custom": True, "parent": STACK, "provider": "p", "inputs": inputs}
    step = {"op": "create", "urn": state["urn"], "type": kind, "provider": "p", "new": state}
    return EngineEvent.from_json({"sequence": 0, "timestamp": 0, "resourcePreEvent": {"metadata": step}})


def refused(where: str, message: str) -> EngineEvent:
    error = {"urn": where, "message": message, "severity": "error", "color": "never"}
    return EngineEvent.from_json({"sequence": 0, "timestamp": 0, "diagnosticEvent": error})


class Engine:
    """An engine of one stack whose updates emit the given events, and fail if there are any."""

    def __init__(self, *updates: list[EngineEvent]) -> None:
        self.updates = list(updates)
        self.refreshed: list[bool] = []
        self.notices: list[str] = []
        self.stopping = threading.Event()
        self.state = Deployment(version=3, deployment={})

    def export_stack(self) -> Deployment:
        return self.state

    def import_stack(self, state: Deployment) -> None:
        self.state = state

    def update(self, record: Callable[[EngineEvent], None], refresh: bool) -> None:  # noqa: FBT001 - as the module calls it
        self.refreshed.append(refresh)
        if events := self.updates.pop(0):
            for event in (*events, refused(STACK, "update failed\n")):
                record(event)
            raise CommandError(CommandResult("", "error: update failed", 255))

    def update_with_retries(self) -> None:
        refusals.update_with_retries("compute", cast("Stack", self), self.update, self.notices.append, self.stopping)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "WAITS_S", (0, 0.001))


def test_a_successful_update_is_not_repeated() -> None:
    engine = Engine([], [])
    engine.update_with_retries()
    assert engine.refreshed == [False]
    assert engine.notices == []


def test_a_temporary_refusal_is_retried_with_a_notice_of_the_reason() -> None:
    engine = Engine([refused(urn("n", "notification"), YOUNG), refused(urn("f", "function"), BUSY)], [])
    engine.update_with_retries()
    assert engine.refreshed == [False, False]
    (line,) = engine.notices
    assert line == (
        "compute: AWS refuses 'notification' because the queue's policy has not propagated yet, "
        "'function' because another change of the function is in progress. Retrying in 0 s."
    )


@pytest.mark.parametrize("others", [[], [refused(urn("n", "notification"), YOUNG)]])
def test_a_permanent_refusal_fails_at_once_even_if_others_are_temporary(others: list[EngineEvent]) -> None:
    engine = Engine([*others, refused(urn("r", "role"), DENIED)], [])
    with pytest.raises(CommandError):
        engine.update_with_retries()
    assert len(engine.refreshed) == 1
    assert engine.notices == []


@pytest.mark.parametrize(
    "message",
    [
        "operation error Lambda: UpdateFunctionCode, https response error StatusCode: 404, ResourceNotFoundException",
        "AWS.SimpleQueueService.NonExistentQueue: The specified queue does not exist.",
    ],
)
def test_what_was_deleted_by_hand_fails_with_the_remedy(message: str) -> None:
    engine = Engine([refused(urn("f", "function"), message), refused(urn("r", "role"), DENIED)])
    with pytest.raises(CommandError):
        engine.update_with_retries()
    (line,) = engine.notices
    assert line == "compute: if somebody has deleted function, the same command with --refresh creates it again."


def test_a_failed_program_is_not_run_again() -> None:
    engine = Engine([refused(urn("n", "notification"), YOUNG), refused(STACK, "Traceback: ValueError")], [])
    with pytest.raises(CommandError):
        engine.update_with_retries()
    assert len(engine.refreshed) == 1


def test_the_last_retry_reports_the_error() -> None:
    engine = Engine(*[[refused(urn("n", "notification"), YOUNG)]] * 5)
    with pytest.raises(CommandError):
        engine.update_with_retries()
    assert len(engine.refreshed) == 3
    assert [line.rpartition("Retrying in ")[2] for line in engine.notices] == ["0 s.", "0.001 s."]


def test_the_waits_grow_and_exceed_the_time_that_sqs_takes_for_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert list(refusals.WAITS_S) == sorted(refusals.WAITS_S)
    assert sum(refusals.WAITS_S) > 60


@pytest.mark.parametrize("when", ["before", "while waiting"])
def test_ctrl_c_ends_the_retries(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "WAITS_S", (3600,))
    engine = Engine([refused(urn("n", "notification"), YOUNG)], [])
    if when == "before":
        engine.stopping.set()
    else:
        threading.Timer(0.05, engine.stopping.set).start()
    with pytest.raises(CommandError):
        engine.update_with_retries()
    assert engine.refreshed == [False]
    assert len(engine.notices) == (when != "before")


# Resources that exist already


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use(emulator, patch)
        yield


OURS = {"Application": "xfarm-pipeline", "PulumiProject": "compute", "PulumiStack": "local"}
THEIRS = OURS | {"PulumiStack": "prod"}
GROUP, ROLE, FUNCTION = "aws:cloudwatch/logGroup:LogGroup", "aws:iam/role:Role", "aws:lambda/function:Function"
BUCKET, MAPPING = "aws:s3/bucket:Bucket", "aws:lambda/eventSourceMapping:EventSourceMapping"
EXISTS = {
    GROUP: "ResourceAlreadyExistsException: The specified log group already exists",
    ROLE: "EntityAlreadyExists: Role with name role already exists.",
    BUCKET: "BucketAlreadyOwnedByYou: Your previous request to create the named bucket succeeded",
    FUNCTION: "ResourceConflictException: Function already exist: function",
}
NOW, LATER = timedelta(0), timedelta(hours=1)


def make(kind: str, name: str, tags: dict[str, str]) -> None:
    if kind == GROUP:
        boto3.client("logs").create_log_group(logGroupName=name, tags=tags)
    elif kind == BUCKET:
        s3, tagged = boto3.client("s3"), [{"Key": k, "Value": v} for k, v in tags.items()]
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if tagged:
            s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tagged})
    elif kind == ROLE:
        boto3.client("iam").create_role(
            RoleName=name, AssumeRolePolicyDocument="{}", Tags=[{"Key": k, "Value": v} for k, v in tags.items()]
        )
    else:
        boto3.client("lambda").create_function(
            FunctionName=name,
            Role="arn:aws:iam::000000000000:role/reader",
            Runtime="python3.12",
            Handler="a.b",
            Code={"ZipFile": b"PK\x05\x06" + bytes(18)},  # an empty archive
            Tags=tags,
        )


def refusal(kind: str, name: str) -> Refused:
    return Refused(
        {"urn": urn(kind, "it"), "type": kind, "inputs": {"name": name, "bucket": name, "tags": OURS}}, EXISTS[kind]
    )


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("kind", "tags", "began", "taken"),
    [
        (GROUP, {}, LATER, True),
        (GROUP, {"Team": "data"}, LATER, True),
        (GROUP, OURS, NOW, True),
        (ROLE, OURS, NOW, True),
        (ROLE, OURS, LATER, False),
        (ROLE, THEIRS, NOW, False),
        (ROLE, {}, NOW, False),
        (BUCKET, {}, NOW, True),
        (BUCKET, OURS, NOW, True),
        (BUCKET, THEIRS, NOW, False),
        (BUCKET, {}, LATER, False),
        (FUNCTION, OURS, NOW, True),
        (FUNCTION, OURS, LATER, False),
        (FUNCTION, {}, NOW, False),
    ],
)
def test_a_new_resource_of_this_stack_or_an_untagged_log_group_is_taken_over(
    kind: str,
    tags: dict[str, str],
    began: timedelta,
    taken: bool,  # noqa: FBT001 - a test parameter
    request: pytest.FixtureRequest,
) -> None:
    name = "n" + "".join(filter(str.isalnum, request.node.callspec.id)).lower()
    make(kind, name, tags)
    deployment: dict[str, Any] = {}
    found = refusals.take_over(deployment, [refusal(kind, name)], datetime.now(UTC) + began)
    assert found == (["it"] if taken else [])
    assert [each["id"] for each in deployment.get("resources", [])] == ([name] if taken else [])


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("began", "taken"), [(NOW, True), (LATER, False)])
def test_a_new_event_source_mapping_is_taken_over_without_tags(
    began: timedelta,
    taken: bool,  # noqa: FBT001 - a test parameter
) -> None:
    name = f"mapped-{taken}".lower()
    make(FUNCTION, name, OURS)
    sqs, lambdas = boto3.client("sqs"), boto3.client("lambda")
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    made = lambdas.create_event_source_mapping(EventSourceArn=arn, FunctionName=name)["UUID"]
    with pytest.raises(lambdas.exceptions.ResourceConflictException) as conflict:
        lambdas.create_event_source_mapping(EventSourceArn=arn, FunctionName=name)
    inputs = {"eventSourceArn": arn, "functionName": name}
    refusal = Refused({"urn": urn(MAPPING, "it"), "type": MAPPING, "inputs": inputs}, str(conflict.value))
    deployment: dict[str, Any] = {}
    refusals.take_over(deployment, [refusal], datetime.now(UTC) + began)
    assert [each["id"] for each in deployment.get("resources", [])] == ([made] if taken else [])


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("tags", "owner"), [(THEIRS, "prod"), (OURS, "local")])
def test_a_log_group_of_another_stack_or_state_is_refused(tags: dict[str, str], owner: str) -> None:
    make(GROUP, f"of-{owner}", tags)
    with pytest.raises(UserError, match=f"'of-{owner}' exists already and belongs to the stack '{owner}' of"):
        refusals.take_over({}, [refusal(GROUP, f"of-{owner}")], datetime.now(UTC) + LATER)


@pytest.mark.usefixtures("account")
def test_the_update_continues_with_a_resource_taken_over() -> None:
    make(GROUP, "left-behind", {})
    inputs = {"name": "left-behind", "tags": OURS}
    engine = Engine([begun(GROUP, "log-group", inputs), refused(urn(GROUP, "log-group"), EXISTS[GROUP])], [])
    engine.update_with_retries()
    assert engine.refreshed == [False, True]
    assert engine.notices == ["compute: taking over existing resources: log-group."]
    (resource,) = (engine.state.deployment or {})["resources"]
    assert resource == {
        "urn": urn(GROUP, "log-group"),
        "type": GROUP,
        "custom": True,
        "parent": STACK,
        "provider": "p",
        "inputs": inputs,
        "id": "left-behind",
        "outputs": {},
    }


def test_an_existing_bucket_of_another_account_fails() -> None:
    kind = "aws:s3/bucket:Bucket"
    engine = Engine(
        [begun(kind, "bucket", {"bucket": "b"}), refused(urn(kind, "bucket"), "BucketAlreadyExists: taken")], []
    )
    with pytest.raises(CommandError):
        engine.update_with_retries()
    assert len(engine.refreshed) == 1
