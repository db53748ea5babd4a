"""What the shipped policies do not allow, in an account that enforces IAM."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support import roles
from tests.support.checkout import Checkout
from xfarm.emulator.server import REGION

CODE = {"ZipFile": b"PK\5\6" + bytes(18)}
"""An empty archive."""
SERVICE = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
TRUST = json.dumps({"Version": "2012-10-17", "Statement": [SERVICE]})
FUNCTION = {"Runtime": "python3.12", "Handler": "a.b", "Code": CODE}

Client = Callable[[str], Any]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[roles.Account]:
    account = roles.Account(Checkout(tmp_path_factory.mktemp("roles")))
    iam = account.checkout.client("iam")
    for name in ("xFarmLambdaRole", "other"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)
    iam.put_role_policy(RoleName="xFarmLambdaRole", PolicyName="queue", PolicyDocument=json.dumps(CONSUME))
    s3 = account.checkout.client("s3")
    for name in ("xfarm-bucket-01", "xfarm-pipeline-state-1", "other"):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    yield account
    account.stop()


CONSUME = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
            "Resource": "*",
        }
    ],
}


def clients(account: roles.Account, role: str) -> Client:
    """Return a function that creates clients with the permissions of a role."""
    environment = account.environment(role)
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    sts = boto3.client(
        "sts", REGION, endpoint_url=account.emulator.endpoint, aws_access_key_id=keys[0], aws_secret_access_key=keys[1]
    )
    session = sts.assume_role(RoleArn=environment["AWS_ASSUME_ROLE"], RoleSessionName="test")["Credentials"]

    def client(service: Any) -> Any:  # noqa: ANN401 - each service has its own type of client
        return boto3.client(
            service,
            REGION,
            endpoint_url=account.emulator.endpoint,
            aws_access_key_id=session["AccessKeyId"],
            aws_secret_access_key=session["SecretAccessKey"],
            aws_session_token=session["SessionToken"],
        )

    return client


@pytest.fixture(scope="module")
def deploy(account: roles.Account) -> Client:
    return clients(account, "deploy")


@pytest.fixture(scope="module")
def operate(account: roles.Account) -> Client:
    return clients(account, "operate")


def refused(action: str, call: Callable[..., Any], **arguments: Any) -> None:  # noqa: ANN401 - of any method
    """Assert that a call is refused because an action is not allowed."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    assert f"is not authorized to perform: {action} " in error.value.response["Error"]["Message"]


def arn(role: str) -> str:
    return f"arn:aws:iam::{roles.ACCOUNT}:role/{role}"


def test_the_deploying_role_cannot_give_itself_or_the_function_more(deploy: Client) -> None:
    iam = deploy("iam")
    refused("iam:PutRolePolicy", iam.put_role_policy, RoleName="xfarm-deploy", PolicyName="more", PolicyDocument=TRUST)
    refused("iam:UpdateAssumeRolePolicy", iam.update_assume_role_policy, RoleName="xfarm-deploy", PolicyDocument=TRUST)
    administrator = "arn:aws:iam::aws:policy/AdministratorAccess"
    refused("iam:AttachRolePolicy", iam.attach_role_policy, RoleName="xFarmLambdaRole", PolicyArn=administrator)
    iam.attach_role_policy(RoleName="xFarmLambdaRole", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")


def test_the_deploying_role_gives_a_function_no_other_role(deploy: Client) -> None:
    lambdas = deploy("lambda")
    refused("iam:PassRole", lambdas.create_function, FunctionName="xFarmLambdaFunction", Role=arn("other"), **FUNCTION)
    lambdas.create_function(FunctionName="xFarmLambdaFunction", Role=arn("xFarmLambdaRole"), **FUNCTION)
    refused(
        "iam:PassRole",
        lambdas.update_function_configuration,
        FunctionName="xFarmLambdaFunction",
        Role=arn("other"),
    )


def test_the_deploying_role_feeds_and_stops_no_other_function(account: roles.Account, deploy: Client) -> None:
    everything, lambdas = account.checkout.client("lambda"), deploy("lambda")
    everything.create_function(FunctionName="other", Role=arn("xFarmLambdaRole"), **FUNCTION)
    url = account.checkout.client("sqs").create_queue(QueueName="xFarmMainQueue")["QueueUrl"]
    queue = f"arn:aws:sqs:{REGION}:{roles.ACCOUNT}:{url.rpartition('/')[2]}"
    refused(
        "lambda:CreateEventSourceMapping",
        lambdas.create_event_source_mapping,
        FunctionName="other",
        EventSourceArn=queue,
    )
    uuid = everything.create_event_source_mapping(FunctionName="other", EventSourceArn=queue)["UUID"]
    refused("lambda:DeleteEventSourceMapping", lambdas.delete_event_source_mapping, UUID=uuid)
    refused("lambda:UpdateEventSourceMapping", lambdas.update_event_source_mapping, UUID=uuid, Enabled=False)


@pytest.mark.parametrize("bucket", ["other", "xfarm-bucket-01"])
def test_the_deploying_role_reads_no_files(deploy: Client, bucket: str) -> None:
    refused("s3:GetObject", deploy("s3").get_object, Bucket=bucket, Key="key")
    refused("s3:PutObject", deploy("s3").put_object, Bucket=bucket, Key="key")


def test_the_operating_role_changes_nothing_that_is_deployed(operate: Client) -> None:
    refused("s3:PutObject", operate("s3").put_object, Bucket="xfarm-pipeline-state-1", Key=".pulumi/state")
    refused("s3:DeleteObject", operate("s3").delete_object, Bucket="xfarm-bucket-01", Key="key")
    refused("sqs:CreateQueue", operate("sqs").create_queue, QueueName="xFarmMainQueue")
    refused(
        "lambda:UpdateFunctionCode", operate("lambda").update_function_code, FunctionName="xFarmLambdaFunction", **CODE
    )
    refused(
        "sns:Publish", operate("sns").publish, TopicArn=f"arn:aws:sns:{REGION}:{roles.ACCOUNT}:xFarmAlarms", Message="x"
    )


def test_the_user_may_only_assume_the_roles(account: roles.Account) -> None:
    done = account.checkout.run("bootstrap", "dev", **account.environment("deploy") | {"AWS_ASSUME_ROLE": ""})
    assert done.returncode == 1
    assert f"User: arn:aws:iam::{roles.ACCOUNT}:user/{roles.USER} is not authorized to perform: s3:Cre" in done.stderr
