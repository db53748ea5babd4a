"""Which existing resources are in the way of a deployment, and what is said about them."""

from typing import Any

import boto3
import pytest

from tests.emulator.test_orchestrator_refusals import BUCKET, FUNCTION, GROUP, OURS, ROLE, THEIRS, account, make, urn
from xfarm import aws_errors
from xfarm.emulator.server import REGION
from xfarm.orchestrator import existing
from xfarm.orchestrator.changes import Change, PropertyChange, differences
from xfarm.orchestrator.scratch import UNKNOWN

__all__ = ["account"]

QUEUE, TOPIC = "aws:sqs/queue:Queue", "aws:sns/topic:Topic"
KINDS = [GROUP, BUCKET, ROLE, FUNCTION, TOPIC, QUEUE]
SIGNED: dict[str, Any] = {"tags": OURS}


def create(kind: str, name: str, tags: dict[str, str]) -> None:
    """Create a resource with boto3."""
    if kind == QUEUE:
        boto3.client("sqs").create_queue(QueueName=name, tags=tags)
    elif kind == TOPIC:
        boto3.client("sns").create_topic(Name=name, Tags=[{"Key": k, "Value": v} for k, v in tags.items()])
    else:
        make(kind, name, tags)


def planned(kind: str, name: str, operation: str = "create") -> Change:
    """Return the planned creation of a resource."""
    inputs = SIGNED | {"bucket" if kind == BUCKET else "name": name}
    return Change("it", urn(kind, "it"), kind, operation, may=False, properties=differences("", {}, inputs))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a name for the test's resource."""
    return "e" + "".join(filter(str.isalnum, request.node.name)).lower()[-50:]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_free_is_not_in_the_way(kind: str, name: str) -> None:
    assert existing.conflicts([planned(kind, name)], set()) == []


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("kind", KINDS)
def test_a_resource_of_another_stack_is_refused_with_its_owner(kind: str, name: str) -> None:
    create(kind, name, THEIRS)
    (sentence,) = existing.conflicts([planned(kind, name)], set())
    what = existing.KINDS[kind]
    assert sentence == (
        f"the {what} '{name}' exists already and belongs to the stack 'prod' of the project 'compute': "
        f"destroy that stack, or delete the {what} if nobody needs it"
    )


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("kind", KINDS)
def test_a_resource_without_tags_is_refused_unless_lambda_may_have_made_it(kind: str, name: str) -> None:
    create(kind, name, {"Team": "data"})
    sentences = existing.conflicts([planned(kind, name)], set())
    what = existing.KINDS[kind]
    wanted = (
        f"the {what} '{name}' exists already and has none of this project's tags: "
        f"delete the {what} if nobody needs it, or choose another name"
    )
    assert sentences == ([] if kind == GROUP else [wanted])


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interrupted", [True, False])
def test_a_resource_of_this_stack_is_refused_unless_its_creation_was_interrupted(
    kind: str,
    name: str,
    interrupted: bool,  # noqa: FBT001 - a test parameter
) -> None:
    create(kind, name, OURS)
    change = planned(kind, name)
    sentences = existing.conflicts([change], {change.urn} if interrupted else set())
    if interrupted:
        assert sentences == []
    else:
        (sentence,) = sentences
        assert f"'{name}' exists already and belongs to the stack 'local' of the project 'compute', " in sentence
        assert "if a deployment of it is running, wait for its end, else the state is kept elsewhere" in sentence


@pytest.mark.usefixtures("account")
def test_an_interrupted_creation_does_not_excuse_a_resource_of_another_stack(name: str) -> None:
    create(QUEUE, name, THEIRS)
    change = planned(QUEUE, name)
    assert len(existing.conflicts([change], {change.urn})) == 1


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("operation", "refused"), [("create", 1), ("replace", 1), ("update", 0), ("delete", 0)])
def test_a_replacement_is_refused_if_its_new_name_is_taken(operation: str, refused: int, name: str) -> None:
    create(ROLE, name, THEIRS)
    assert len(existing.conflicts([planned(ROLE, name, operation)], set())) == refused


@pytest.mark.usefixtures("account")
def test_a_replacement_that_keeps_its_name_and_an_unknown_name_are_not_in_the_way(name: str) -> None:
    create(ROLE, name, OURS)
    path = PropertyChange("path", "update", "/", "/new/", unknown=False, replaces=True)
    kept = Change("it", urn(ROLE, "it"), ROLE, "replace", may=False, properties=[path])
    assert existing.conflicts([kept, planned(ROLE, UNKNOWN)], set()) == []


@pytest.mark.usefixtures("account")
def test_the_second_region_of_a_stack_is_refused_with_the_first_ones_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for region in (REGION, "us-east-1"):
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=f"xfarm-pipeline-state-000000000000-{region}")
    create(ROLE, name, OURS)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    (sentence,) = existing.conflicts([planned(ROLE, name)], set())
    assert f"perhaps in {REGION}, where this account has a state bucket" in sentence
    assert "or create a stack of another name with 'xfarm new-stack'" in sentence


class Forbidding:
    """S3, in which another account has every bucket."""

    def __init__(self) -> None:
        self._s3 = boto3.client("s3")

    def list_buckets(self) -> dict[str, list[dict[str, str]]]:
        return {"Buckets": []}

    def head_bucket(self, Bucket: str) -> None:  # noqa: N803 - boto3's name
        answer: Any = {"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise self._s3.exceptions.ClientError(answer, f"HeadBucket of {Bucket}")


@pytest.mark.usefixtures("account")
def test_a_bucket_of_another_account_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = Forbidding()

    def client(_service: str) -> Forbidding:
        return s3

    monkeypatch.setattr(existing.recovery, "client", client)
    (sentence,) = existing.conflicts([planned(BUCKET, name)], set())
    assert sentence.startswith(f"the bucket '{name}' exists already and belongs to another AWS account")


@pytest.mark.usefixtures("account")
def test_errors_that_do_not_mean_missing_are_raised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_errors, "_MISSING", set())
    with pytest.raises(boto3.client("iam").exceptions.NoSuchEntityException):
        existing.conflicts([planned(ROLE, name)], set())


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(("number", "kind"), list(enumerate(KINDS)))
def test_an_account_is_empty_until_it_has_one_of_these(
    number: int, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{number + 1:012}")  # the emulator takes it for the account's number
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    path = "/aws-service-role/sqs.amazonaws.com/"  # of a role that AWS creates for a service
    boto3.client("iam").create_role(RoleName="service", Path=path, AssumeRolePolicyDocument="{}")
    assert not existing.anything()
    create(kind, name, {})
    assert existing.anything()
