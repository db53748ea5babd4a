"""Two projects that deploy in seconds, for tests of the orchestrator.

Test modules load its fixtures with `pytest_plugins = ("tests.support.small_stacks",)`.
"""

import shutil
from collections.abc import Iterator

import pytest

from tests.support import stress
from tests.support.checkout import Checkout
from tests.support.faulty_aws import FaultyAws, between

NEEDS = 'alpha = []\nbeta = ["alpha"]\n'

ALPHA = """
import json
import pulumi
import pulumi_aws as aws

settings = pulumi.Config()
bucket = aws.s3.Bucket(
    "bucket",
    bucket=settings.get("bucket") or "alpha-bucket",
    force_destroy=True,
    opts=pulumi.ResourceOptions(protect=True),
)
aws.cloudwatch.LogGroup("log-group", name="alpha-log-group", retention_in_days=settings.get_int("days") or 7)
trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
role = aws.iam.Role("role", name="alpha-role", assume_role_policy=json.dumps({"Statement": [trust]}))
allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": pulumi.Output.concat(bucket.arn, "/*")}
aws.iam.RolePolicy("policy", role=role.name, policy=pulumi.Output.json_dumps({"Statement": [allow]}))
aws.iam.RolePolicyAttachment(
    "attachment", role=role.name, policy_arn="arn:aws:iam::aws:policy/AmazonS3FullAccess"
)
topic = aws.sns.Topic("topic", name="alpha-topic")
aws.cloudwatch.MetricAlarm(
    "alarm",
    comparison_operator="GreaterThanThreshold",
    evaluation_periods=1,
    metric_name="Errors",
    namespace="AWS/Lambda",
    period=60,
    statistic="Sum",
    threshold=0,
    alarm_actions=[topic.arn],
)
# The provider waits five seconds for a new role.
function = aws.lambda_.Function(
    "function",
    name="alpha-function",
    role=role.arn,
    runtime="python3.12",
    handler="lambda_function.handler",
    code=pulumi.AssetArchive({"lambda_function.py": pulumi.StringAsset("def handler(event, context): pass")}),
)
pulumi.export("function", function.name)
"""

BETA = """
import pulumi
import pulumi_aws as aws

alpha = pulumi.StackReference(f"organization/alpha/{pulumi.get_stack()}")
name = pulumi.Output.concat("/aws/lambda/", alpha.require_output("function"))
aws.cloudwatch.LogGroup("log-group", name=name, retention_in_days=7)
"""

SETTINGS = """config:
  aws:allowedAccountIds: ["000000000000"]
  aws:s3UsePathStyle: true
"""


def install(checkout: Checkout) -> Checkout:
    """Replace the projects of a copy with these two, and return the copy."""
    stacks = checkout.root / "stacks"
    shutil.rmtree(stacks)
    for project, program in (("alpha", ALPHA), ("beta", BETA)):
        folder = stacks / project
        folder.mkdir(parents=True)
        (folder / "Pulumi.yaml").write_text(f"name: {project}\nruntime: python\n", encoding="utf-8")
        (folder / "Pulumi.local.yaml").write_text(SETTINGS, encoding="utf-8")
        (folder / "__main__.py").write_text(program, encoding="utf-8")
    (stacks / "stacks.toml").write_text(NEEDS, encoding="utf-8")
    return checkout


@pytest.fixture(scope="session")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Checkout, FaultyAws]]:
    """Yield a checkout with the two projects, and the proxy that they use as AWS."""
    checkout = install(Checkout(tmp_path_factory.mktemp("small")))
    assert checkout.run("emulator", "start").returncode == 0
    with between(checkout, "alpha", "beta") as proxy:
        yield checkout, proxy
    checkout.emulator.stop()


@pytest.fixture(scope="session")
def emulated(proxied: tuple[Checkout, FaultyAws]) -> Checkout:
    """Return the checkout with the two projects."""
    return proxied[0]


@pytest.fixture
def small(proxied: tuple[Checkout, FaultyAws]) -> Iterator[Checkout]:
    """Yield the checkout with the two projects; destroy them after the test."""
    checkout, proxy = proxied
    yield checkout
    proxy.reset()
    stress.finish(checkout, "destroy")
    assert not stress.left(checkout)


@pytest.fixture
def faulty(proxied: tuple[Checkout, FaultyAws], small: Checkout) -> FaultyAws:
    """Return the proxy that `small` uses as AWS."""
    assert small
    return proxied[1]
