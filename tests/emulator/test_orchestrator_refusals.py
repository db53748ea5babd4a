"""Which refusals are met with patience, which with a look at what is there, and which with neither."""

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import boto3
import pytest
from pulumi.automation import CommandError, Deployment, EngineEvent, Stack
from pulumi.automation._cmd import CommandResult

from tests.support.checkout import free_port
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
    said = {"urn": where, "message": message, "severity": "error", "color": "never"}
    return EngineEvent.from_json({"sequence": 0, "timestamp": 0, "diagnosticEvent": said})


class Engine:
    """An engine of one stack, whose updates go as they are told, one after the other."""

    def __init__(self, *updates: list[EngineEvent]) -> None:
        self.updates = list(updates)
        self.refreshed: list[bool] = []
        self.said: list[str] = []
        self.stopping = threading.Event()
        self.state = Deployment(version=3, deployment={})

    def export_stack(self) -> Deployment:
        return self.state

    def import_stack(self, state: Deployment) -> None:
        self.state = state

    def update(self, hear: Callable[[EngineEvent], None], refresh: bool) -> None:  # noqa: FBT001  as it is called
        self.refreshed.append(refresh)
        if events := self.updates.pop(0):
            for event in (*events, refused(STACK, "update failed\n")):
                hear(event)
            raise CommandError(CommandResult("", "error: update failed", 255))

    def insist(self) -> None:
        refusals.insist("compute", cast("Stack", self), self.update, self.said.append, self.stopping)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "WAITS_S", (0, 0.001))


def test_what_is_done_at_once_is_not_done_again() -> None:
    engine = Engine([], [])
    engine.insist()
    assert engine.refreshed == [False]
    assert engine.said == []


def test_what_is_refused_for_a_while_is_asked_again_and_said_with_why() -> None:
    engine = Engine([refused(urn("n", "notification"), YOUNG), refused(urn("f", "function"), BUSY)], [])
    engine.insist()
    assert engine.refreshed == [False, False]
    (line,) = engine.said
    assert line == (
        "compute: AWS refuses 'notification' as the queue's policy is not known everywhere yet, "
        "'function' as the function is still being changed. It is asked again in 0 s."
    )


@pytest.mark.parametrize("others", [[], [refused(urn("n", "notification"), YOUNG)]])
def test_what_is_refused_for_good_fails_at_once_whatever_else_is_refused(others: list[EngineEvent]) -> None:
    engine = Engine([*others, refused(urn("r", "role"), DENIED)], [])
    with pytest.raises(CommandError):
        engine.insist()
    assert len(engine.refreshed) == 1
    assert engine.said == []


def test_a_program_that_fails_is_not_run_again() -> None:
    engine = Engine([refused(urn("n", "notification"), YOUNG), refused(STACK, "Traceback: ValueError")], [])
    with pytest.raises(CommandError):
        engine.insist()
    assert len(engine.refreshed) == 1


def test_patience_has_an_end() -> None:
    engine = Engine(*[[refused(urn("n", "notification"), YOUNG)]] * 5)
    with pytest.raises(CommandError):
        engine.insist()
    assert len(engine.refreshed) == 3
    assert [line.rpartition("again in ")[2] for line in engine.said] == ["0 s.", "0.001 s."]


def test_the_waits_grow_and_are_longer_than_sqs_takes_for_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert list(refusals.WAITS_S) == sorted(refusals.WAITS_S)
    assert sum(refusals.WAITS_S) > 60


@pytest.mark.parametrize("when", ["before", "while waiting"])
def test_ctrl_c_ends_the_patience(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "WAITS_S", (3600,))
    engine = Engine([refused(urn("n", "notification"), YOUNG)], [])
    if when == "before":
        engine.stopping.set()
    else:
        threading.Timer(0.05, engine.stopping.set).start()
    with pytest.raises(CommandError):
        engine.insist()
    assert engine.refreshed == [False]
    assert len(engine.said) == (when != "before")


# What is there already


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    emulator = Emulator(tmp_path_factory.mktemp("emulator"), free_port())
    emulator.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("AWS_ENDPOINT_URL", emulator.endpoint)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield
    emulator.stop()


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
def test_what_is_there_is_taken_over_where_it_was_just_made_for_this_stack_or_is_nobodys_log_group(
    kind: str,
    tags: dict[str, str],
    began: timedelta,
    taken: bool,  # noqa: FBT001
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
def test_a_mapping_which_has_no_tags_is_taken_over_where_it_was_just_made(
    began: timedelta,
    taken: bool,  # noqa: FBT001
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
def test_a_log_group_of_another_stack_or_state_is_left_to_it(tags: dict[str, str], owner: str) -> None:
    make(GROUP, f"of {owner}".replace(" ", "-"), tags)
    with pytest.raises(UserError, match=f"'of-{owner}' is there already, and belongs to the stack '{owner}' of"):
        refusals.take_over({}, [refusal(GROUP, f"of-{owner}")], datetime.now(UTC) + LATER)


@pytest.mark.usefixtures("account")
def test_after_a_look_the_update_goes_on_with_what_was_found() -> None:
    make(GROUP, "left-behind", {})
    inputs = {"name": "left-behind", "tags": OURS}
    engine = Engine([begun(GROUP, "log-group", inputs), refused(urn(GROUP, "log-group"), EXISTS[GROUP])], [])
    engine.insist()
    assert engine.refreshed == [False, True]
    assert engine.said == ["compute: already there, and taken over: log-group."]
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


def test_what_is_there_and_unknown_fails() -> None:
    kind = "aws:s3/bucket:Bucket"
    engine = Engine(
        [begun(kind, "bucket", {"bucket": "b"}), refused(urn(kind, "bucket"), "BucketAlreadyExists: taken")], []
    )
    with pytest.raises(CommandError):
        engine.insist()
    assert len(engine.refreshed) == 1
