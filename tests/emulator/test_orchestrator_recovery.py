"""How operations that were cut off are resolved."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.support import stack_program
from tests.support.account import use
from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator import recovery
from xfarm.orchestrator.graph import dependencies


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use(emulator, patch)
        yield


def urn(kind: str, name: str) -> str:
    return f"urn:pulumi:local::alpha::{kind}::{name}"


def state(kind: str, name: str, /, **inputs: str) -> dict[str, Any]:
    return {"urn": urn(kind, name), "custom": True, "type": kind, "inputs": inputs}


def resolved(
    *pending: tuple[str, dict[str, Any]], resources: list[dict[str, Any]], destroying: bool = False
) -> dict[str, Any]:
    deployment = {
        "resources": resources,
        "pending_operations": [{"type": operation, "resource": resource} for operation, resource in pending],
    }
    recovery.resolve_pending_creates(deployment, destroying=destroying)
    assert "pending_operations" not in deployment
    return deployment


ROLE = "aws:iam/role:Role"


@pytest.mark.parametrize(
    ("kind", "inputs", "identity"),
    [
        (ROLE, {"name": "role"}, "role"),
        ("aws:iam/rolePolicy:RolePolicy", {"role": "role", "name": "policy-1234567"}, "role:policy-1234567"),
        ("aws:cloudwatch/logGroup:LogGroup", {"name": "/group"}, "/group"),
        ("aws:cloudwatch/metricAlarm:MetricAlarm", {"name": "alarm-1234567"}, "alarm-1234567"),
        ("aws:lambda/function:Function", {"name": "function"}, "function"),
    ],
)
def test_a_creation_becomes_a_resource_to_look_for(kind: str, inputs: dict[str, str], identity: str) -> None:
    (found,) = resolved(("creating", state(kind, "it", **inputs)), resources=[])["resources"]
    assert found == state(kind, "it", **inputs) | {"id": identity, "outputs": {}}


@pytest.mark.parametrize("project", dependencies())
def test_every_type_of_the_stacks_is_in_the_table(project: str) -> None:
    settings = {"alarmEmail": "ops@example.org", "s3Access": "scoped"}
    for token in stack_program.run(project, settings, upstream=stack_program.UPSTREAM).types.values():
        assert token in recovery.INTERRUPTED, f"add a line for {token} to INTERRUPTED in xfarm/orchestrator/recovery.py"


@pytest.mark.parametrize("operation", ["updating", "deleting"])
def test_an_update_or_deletion_leaves_the_resource_as_it_was(operation: str) -> None:
    role = state(ROLE, "it", name="role") | {"id": "role", "outputs": {"arn": "arn"}}
    assert resolved((operation, role), resources=[dict(role)])["resources"] == [role]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("kind", "inputs", "identity"),
    [
        ("aws:sns/topic:Topic", {"name": "made"}, f"arn:aws:sns:{REGION}:000000000000:made"),
        ("aws:iam/rolePolicyAttachment:RolePolicyAttachment", {"role": "r", "policyArn": "arn:p"}, "r/arn:p"),
        ("aws:s3/bucketNotification:BucketNotification", {"bucket": "b"}, "b"),
    ],
)
def test_a_repeatable_creation_is_looked_for_only_before_a_destruction(
    kind: str, inputs: dict[str, str], identity: str
) -> None:
    boto3.client("sns").create_topic(Name="made")
    creation = ("creating", state(kind, "it", **inputs))
    assert resolved(creation, resources=[])["resources"] == []
    assert [found["id"] for found in resolved(creation, resources=[], destroying=True)["resources"]] == [identity]


@pytest.mark.usefixtures("account")
def test_a_topic_that_was_not_created_is_dropped_before_a_destruction() -> None:
    creation = ("creating", state("aws:sns/topic:Topic", "it", name="never"))
    assert resolved(creation, resources=[], destroying=True)["resources"] == []


def test_a_replacement_comes_before_a_predecessor_that_is_yet_to_be_deleted() -> None:
    old = state(ROLE, "it", name="old") | {"id": "old"}
    later = state(ROLE, "later", name="later") | {"id": "later", "dependencies": [old["urn"]]}
    resources = resolved(("creating", state(ROLE, "it", name="new")), resources=[old, later])["resources"]
    assert [(resource["id"], resource.get("delete", False)) for resource in resources] == [
        ("new", False),
        ("old", True),
        ("later", False),
    ]


def test_a_replacement_takes_the_position_of_a_deleted_predecessor() -> None:
    old = state(ROLE, "it", name="same") | {"id": "same", "pendingReplacement": True}
    later = state(ROLE, "later", name="later") | {"id": "later", "dependencies": [old["urn"]]}
    resources = resolved(("creating", state(ROLE, "it", name="same")), resources=[old, later])["resources"]
    assert [(resource["id"], resource.get("pendingReplacement", False)) for resource in resources] == [
        ("same", False),
        ("later", False),
    ]


@pytest.mark.usefixtures("account")
def test_a_bucket_is_found_only_if_it_is_in_the_account_and_empty() -> None:
    creation = ("creating", state("aws:s3/bucket:Bucket", "it", bucket="made"))
    assert resolved(creation, resources=[])["resources"] == []
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="made", CreateBucketConfiguration={"LocationConstraint": REGION})
    assert [resource["id"] for resource in resolved(creation, resources=[])["resources"]] == ["made"]
    s3.put_object(Bucket="made", Key="somebody's")
    assert resolved(creation, resources=[])["resources"] == []


@pytest.mark.usefixtures("account")
def test_a_queue_and_its_event_source_mapping_are_found_by_their_inputs() -> None:
    queue = ("creating", state("aws:sqs/queue:Queue", "it", name="made"))
    assert resolved(queue, resources=[])["resources"] == []
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="made")["QueueUrl"]
    assert [resource["id"] for resource in resolved(queue, resources=[])["resources"]] == [url]

    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    kind = "aws:lambda/eventSourceMapping:EventSourceMapping"
    mapping = ("creating", state(kind, "it", eventSourceArn=arn, functionName="reader"))
    assert resolved(mapping, resources=[])["resources"] == []
    lambdas = boto3.client("lambda")
    lambdas.create_function(
        FunctionName="reader",
        Role="arn:aws:iam::000000000000:role/reader",
        Runtime="python3.12",
        Handler="a.b",
        Code={"ZipFile": b"PK\x05\x06" + bytes(18)},  # an empty archive
    )
    made = lambdas.create_event_source_mapping(EventSourceArn=arn, FunctionName="reader")["UUID"]
    assert [resource["id"] for resource in resolved(mapping, resources=[])["resources"]] == [made]
