"""`xfarm check`, in an account that enforces IAM."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import roles
from tests.support.checkout import Checkout


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
        *(f"ok       permissions: {each['Sid']}" for each in roles.document("deploy")["Statement"]),
        "ok       concurrency: 1000 in this region, and compute:maximumConcurrency is 10.",
        "ok       names: the bucket name 'xfarm-bucket-01' is free.",
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
    assert f"missing  permissions: {line} in docs/permissions.md." in lines
    assert sum(each.startswith("missing") for each in lines) == (2 if action == "sqs:TagQueue" else 1)
    assert code == 1


def test_a_caller_who_may_not_simulate_is_told_so_and_the_rest_is_checked(account: roles.Account) -> None:
    account.put_policy("deploy", without(roles.document("deploy"), "iam:SimulatePrincipalPolicy"))
    code, lines = check(account)
    assert lines[0].startswith(
        "unknown  permissions: AWS does not tell those of arn:aws:iam::000000000000:role/xfarm-deploy, because"
    )
    assert [line.split(":")[0] for line in lines[1:]] == ["ok       concurrency", "ok       names"]
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
        "missing  concurrency: 100 in this region, but compute:maximumConcurrency is 101: lower it, or request a "
        "higher quota 'Concurrent executions' in Service Quotas."
    ) in lines
    assert code == 1


def test_a_bucket_that_is_not_the_stack_s_is_shown(account: roles.Account) -> None:
    s3, location = account.checkout.client("s3"), {"LocationConstraint": "eu-west-1"}
    s3.create_bucket(Bucket="xfarm-bucket-01", CreateBucketConfiguration=location)
    code, lines = check(account)
    tags = {"Application": "xfarm-pipeline", "PulumiStack": "dev"}
    s3.put_bucket_tagging(
        Bucket="xfarm-bucket-01", Tagging={"TagSet": [{"Key": key, "Value": tags[key]} for key in tags]}
    )
    code_of_ours, lines_of_ours = check(account)
    s3.delete_bucket(Bucket="xfarm-bucket-01")
    assert lines[-1] == (
        "missing  names: the account has a bucket 'xfarm-bucket-01' that is not this stack's: "
        "set storage:bucketName in stacks/storage/Pulumi.dev.yaml to another name."
    )
    assert lines_of_ours[-1] == "ok       names: the bucket 'xfarm-bucket-01' is this stack's."
    assert (code, code_of_ours) == (1, 0)


def test_local_has_nothing_to_check(account: roles.Account) -> None:
    done = account.checkout.run("check")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "'local' needs no permissions, so there is nothing to check.\n"
