"""`xfarm check`, in an account that enforces IAM."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import roles
from tests.support.checkout import Checkout
from xfarm.emulator.server import REGION

NAMED = [
    "bucket 'xfarm-bucket-01'",
    "queue 'xFarmMainQueue'",
    "queue 'xFarmDeadLetterSqs'",
    "topic 'xFarmAlarms'",
    "role 'xFarmLambdaRole'",
    "log group '/aws/lambda/xFarmLambdaFunction'",
    "function 'xFarmLambdaFunction'",
]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[roles.Account]:
    account = roles.Account(Checkout(tmp_path_factory.mktemp("check")))
    yield account
    account.stop()


@pytest.fixture(autouse=True)
def shipped(account: roles.Account) -> None:
    """Undo what the test before did to the role and the settings."""
    account.put_policy("deploy", roles.document("deploy"))
    account.checkout.configure("compute", "dev", maximumConcurrency=10)


def check(account: roles.Account, **environment: str) -> tuple[int, list[str]]:
    """Run the command, and return its exit code and the lines that it prints."""
    done = account.checkout.run("check", "dev", **account.environment("deploy"), **environment)
    return done.returncode, done.stdout.splitlines()


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    """Return a policy that does not allow an action."""
    kept = [each | {"Action": [other for other in each["Action"] if other != action]} for each in policy["Statement"]]
    return policy | {"Statement": [each for each in kept if each["Action"]]}


def test_nothing_is_missing_with_the_shipped_policy(account: roles.Account) -> None:
    code, lines = check(account)
    assert lines == [
        *(f"ok       permissions: {each['Sid']}" for each in roles.document("deploy")["Statement"][:-1]),
        "ok       concurrency: 1000 in this region, and compute:maximumConcurrency is 10.",
        *(f"ok       names: the {resource} does not exist yet." for resource in NAMED),
    ]
    assert code == 0


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (
            "sqs:TagQueue",
            "sqs:TagQueue on arn:aws:sqs:eu-west-1:000000000000:xFarmDeadLetterSqs, see Queues",
        ),
        (
            "lambda:CreateEventSourceMapping",
            "lambda:CreateEventSourceMapping on *, see EventSourceMapping",
        ),
        (
            "iam:AttachRolePolicy",
            "iam:AttachRolePolicy on arn:aws:iam::000000000000:role/xFarmLambdaRole, see FunctionRolePolicies",
        ),
    ],
)
def test_a_permission_that_is_missing_is_shown(account: roles.Account, action: str, line: str) -> None:
    account.put_policy("deploy", without(roles.document("deploy"), action))
    code, lines = check(account)
    assert f"failed   permissions: {line} in docs/permissions.md." in lines
    assert sum(each.startswith("failed") for each in lines) == (2 if action == "sqs:TagQueue" else 1)
    assert code == 1


def test_a_role_without_a_path_need_not_be_read(account: roles.Account) -> None:
    account.put_policy("deploy", without(roles.document("deploy"), "iam:GetRole"))
    code, lines = check(account)
    assert [line for line in lines if not line.startswith("ok")] == [
        (
            "failed   permissions: iam:GetRole on arn:aws:iam::000000000000:role/xFarmLambdaRole, "
            "see FunctionRole in docs/permissions.md."
        ),
        "unknown  names: the role 'xFarmLambdaRole': AWS does not tell whether it exists, GetRole is not allowed.",
    ]
    assert code == 1


def test_a_caller_who_may_not_simulate_is_told_so_and_the_rest_is_checked(account: roles.Account) -> None:
    account.put_policy("deploy", without(roles.document("deploy"), "iam:SimulatePrincipalPolicy"))
    code, lines = check(account)
    assert lines[0].startswith(
        "unknown  permissions: AWS does not tell those of arn:aws:iam::000000000000:role/xfarm-deploy, because"
    )
    assert [line.split(":")[0] for line in lines[1:]] == ["ok       concurrency", *["ok       names"] * len(NAMED)]
    assert code == 0


def test_too_little_concurrency_is_shown(account: roles.Account) -> None:
    other = {"Code": {"ZipFile": b"PK\5\6" + bytes(18)}, "Role": f"arn:aws:iam::{roles.ACCOUNT}:role/xfarm-deploy"}
    lambdas = account.checkout.client("lambda")
    lambdas.create_function(FunctionName="other", Runtime="python3.12", Handler="a.b", **other)
    lambdas.put_function_concurrency(FunctionName="other", ReservedConcurrentExecutions=900)
    account.checkout.configure("compute", "dev", maximumConcurrency=101)
    code, lines = check(account)
    lambdas.delete_function(FunctionName="other")
    assert (
        "failed   concurrency: 100 in this region, but compute:maximumConcurrency is 101: lower it, or request a "
        "higher quota 'Concurrent executions' in Service Quotas."
    ) in lines
    assert code == 1


def test_settings_are_read_as_pulumi_writes_them_and_without_their_project(account: roles.Account) -> None:
    account.checkout.configure("compute", "dev", maximumConcurrency="20")
    path = account.checkout.root / "stacks" / "storage" / "Pulumi.dev.yaml"
    shipped = path.read_text(encoding="utf-8")
    path.write_text("config:\n  bucketName: mine-without-project\n", encoding="utf-8")
    _, lines = check(account)
    path.write_text(shipped, encoding="utf-8")
    assert "ok       concurrency: 1000 in this region, and compute:maximumConcurrency is 20." in lines
    assert any("the bucket 'mine-without-project'" in line for line in lines)


def test_a_name_that_is_taken_is_shown_unless_the_resource_is_the_stack_s(account: roles.Account) -> None:
    sqs, logs = account.checkout.client("sqs"), account.checkout.client("logs")
    tags = {"Application": "xfarm-pipeline", "PulumiProject": "messaging", "PulumiStack": "dev"}
    ours = sqs.create_queue(QueueName="xFarmMainQueue", tags=tags)["QueueUrl"]
    theirs = sqs.create_queue(QueueName="xFarmDeadLetterSqs", tags=tags | {"PulumiStack": "prod"})["QueueUrl"]
    logs.create_log_group(logGroupName="/aws/lambda/xFarmLambdaFunction")
    _, before = check(account)
    s3, states = account.checkout.client("s3"), f"xfarm-pipeline-state-{roles.ACCOUNT}-{REGION}"
    s3.create_bucket(Bucket=states, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=states, Key=".pulumi/meta.yaml")
    code, lines = check(account)
    s3.delete_object(Bucket=states, Key=".pulumi/meta.yaml")
    s3.delete_bucket(Bucket=states)
    sqs.delete_queue(QueueUrl=ours)
    sqs.delete_queue(QueueUrl=theirs)
    logs.delete_log_group(logGroupName="/aws/lambda/xFarmLambdaFunction")
    assert "ok       names: the queue 'xFarmMainQueue' is this stack's." in lines
    elsewhere = (
        "failed   names: the queue 'xFarmMainQueue' exists already and belongs to the stack 'dev' of the project "
    )
    assert any(line.startswith(elsewhere) and "but is not in its state" in line for line in before)
    assert (
        "failed   names: the queue 'xFarmDeadLetterSqs' exists already and belongs to the stack 'prod' of the project "
        "'messaging': destroy that stack, or delete the queue if nobody needs it."
    ) in lines
    taken_over = "the log group '/aws/lambda/xFarmLambdaFunction' belongs to no stack, and is taken over."
    assert f"ok       names: {taken_over}" in lines
    assert code == 1


def test_a_name_that_may_not_be_looked_up_is_not_taken_for_free(account: roles.Account) -> None:
    account.put_policy("deploy", without(roles.document("deploy"), "sqs:GetQueueUrl"))
    _, lines = check(account)
    for queue in ("xFarmMainQueue", "xFarmDeadLetterSqs"):
        told = f"the queue '{queue}': AWS does not tell whether it exists, GetQueueUrl is not allowed."
        assert f"unknown  names: {told}" in lines


def test_local_has_nothing_to_check(account: roles.Account) -> None:
    done = account.checkout.run("check")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "'local' needs no permissions, so there is nothing to check.\n"
