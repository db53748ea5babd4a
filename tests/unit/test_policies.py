"""Who may do what under the policies in the stack programs.

The emulator's evaluator decides; the first tests check it against examples of AWS. The tests don't check whether an
action exists, and leave out the managed policies, which AWS writes.
"""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from ministack.core.iam_evaluator import EvalContext, evaluate, evaluate_resource_policy, parse_policy_document

from tests.support import stack_program
from tests.support.stack_program import ACCOUNT, MESSAGING, STORAGE, UPSTREAM, Program

BUCKET = STORAGE["bucket_arn"]
OTHER_BUCKET = "arn:aws:s3:::xfarm-bucket-02"
OTHER_ACCOUNT = "210987654321"
MAIN_QUEUE = "arn:aws:sqs:::xFarmMainQueue"
"""The ARN under the mocks, in the stack that declares the queue."""

ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/xFarmLambdaRole/xFarmLambdaFunction"
USER = f"arn:aws:iam::{ACCOUNT}:user/anna"
NOBODY = "*"
"""The caller of an unsigned request."""

OPERATORS = {"ArnEquals", "Bool", "StringEquals"}
"""The operators in the policies. The emulator treats any that it does not support as a condition that is not met."""

QUEUE_ACTIONS = (
    "sqs:AddPermission",
    "sqs:ChangeMessageVisibility",
    "sqs:CreateQueue",
    "sqs:DeleteMessage",
    "sqs:DeleteQueue",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ListDeadLetterSourceQueues",
    "sqs:ListQueueTags",
    "sqs:PurgeQueue",
    "sqs:ReceiveMessage",
    "sqs:RemovePermission",
    "sqs:SendMessage",
    "sqs:SetQueueAttributes",
    "sqs:StartMessageMoveTask",
    "sqs:TagQueue",
)
OBJECT_ACTIONS = (
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:GetObject",
    "s3:GetObjectAcl",
    "s3:GetObjectTagging",
    "s3:GetObjectVersion",
    "s3:PutObject",
    "s3:PutObjectAcl",
    "s3:PutObjectTagging",
    "s3:RestoreObject",
)
BUCKET_ACTIONS = (
    "s3:DeleteBucket",
    "s3:DeleteBucketPolicy",
    "s3:GetBucketPolicy",
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:PutBucketNotification",
    "s3:PutBucketPolicy",
    "s3:PutBucketPublicAccessBlock",
    "s3:PutEncryptionConfiguration",
    "s3:PutLifecycleConfiguration",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request, as IAM evaluates it."""

    action: str
    resource: str = "*"
    caller: str = USER
    service: str | None = None
    https: bool = True
    context: dict[str, str] = field(default_factory=dict)

    def evaluated(self) -> EvalContext:
        return EvalContext(
            principal_arn=self.caller,
            principal_type="Service" if self.service else "User",
            principal_account="" if self.service or self.caller == NOBODY else self.caller.split(":")[4],
            action=self.action,
            resource_arn=self.resource,
            region="eu-west-1",
            secure_transport=self.https,
            service_context={key.lower(): value for key, value in self.context.items()},
        )

    def by_resource(self, policy: object) -> str:
        """Return the decision of a resource's policy: Allow, Deny, or ImplicitDeny."""
        return evaluate_resource_policy(json.dumps(policy), self.evaluated(), self.service).decision

    def by_identity(self, *policies: object) -> str:
        """Return the decision of the policies of the caller's role."""
        return evaluate(self.evaluated(), [parse_policy_document(json.dumps(each)) for each in policies]).decision


def from_service(service: str, action: str, resource: str, **context: str) -> Request:
    """Return a request that an AWS service makes."""
    return Request(action=action, resource=resource, caller=NOBODY, service=service, context=context)


# The evaluator


def example(effect: str, **rest: object) -> dict[str, Any]:
    return {"Effect": effect, "Action": "s3:*", "Resource": "*", **rest}


@pytest.mark.parametrize(
    ("statements", "decision"),
    [
        ([], "ImplicitDeny"),
        ([example("Allow")], "Allow"),
        ([example("Allow"), example("Deny")], "Deny"),
        ([example("Deny", Action="s3:Put*"), example("Allow")], "Allow"),
        ([example("Allow", Action="S3:getobject")], "Allow"),
        ([example("Allow", Action="s3:GetObjectVersion")], "ImplicitDeny"),
        ([example("Allow", Resource="arn:aws:s3:::b/in/*")], "Allow"),
        ([example("Allow", Resource="arn:aws:s3:::b/IN/*")], "ImplicitDeny"),
        ([example("Allow", Resource="arn:aws:s3:::b")], "ImplicitDeny"),
        ([example("Allow", Condition={"Bool": {"aws:SecureTransport": "true"}})], "Allow"),
        ([example("Allow", Condition={"Bool": {"AWS:securetransport": "false"}})], "ImplicitDeny"),
        ([example("Allow", Condition={"StringEquals": {"aws:SourceAccount": ["1", "2"]}})], "Allow"),
        ([example("Allow", Condition={"StringEquals": {"aws:SourceAccount": ["1", "3"]}})], "ImplicitDeny"),
        ([example("Allow", Condition={"StringEquals": {"aws:SourceOrgID": "o"}})], "ImplicitDeny"),
        ([example("Allow", Condition={"ArnEquals": {"aws:SourceArn": "arn:aws:s3:::b*"}})], "Allow"),
        (
            [
                example(
                    "Allow",
                    Condition={
                        "ArnEquals": {"aws:SourceArn": "arn:aws:s3:::b2"},
                        "StringEquals": {"aws:SourceAccount": "1"},
                    },
                )
            ],
            "ImplicitDeny",
        ),
    ],
)
def test_the_evaluator_follows_the_rules_of_iam(statements: list[object], decision: str) -> None:
    context = {"aws:SourceAccount": "2", "aws:SourceArn": "arn:aws:s3:::b2"}
    request = Request(action="s3:GetObject", resource="arn:aws:s3:::b/in/a", context=context)
    assert request.by_identity({"Version": "2012-10-17", "Statement": statements}) == decision


@pytest.mark.parametrize(
    ("principal", "caller", "service", "decision"),
    [
        ("*", NOBODY, None, "Allow"),
        ({"AWS": "*"}, NOBODY, None, "Allow"),
        ({"AWS": ACCOUNT}, USER, None, "Allow"),
        ({"AWS": OTHER_ACCOUNT}, USER, None, "ImplicitDeny"),
        ({"Service": "s3.amazonaws.com"}, USER, None, "ImplicitDeny"),
        ({"Service": "s3.amazonaws.com"}, f"arn:aws:iam::{ACCOUNT}:root", None, "ImplicitDeny"),
        ({"Service": "s3.amazonaws.com"}, NOBODY, "s3.amazonaws.com", "Allow"),
        ({"Service": "s3.amazonaws.com"}, NOBODY, "sns.amazonaws.com", "ImplicitDeny"),
    ],
)
def test_the_evaluator_distinguishes_principals(
    principal: object, caller: str, service: str | None, decision: str
) -> None:
    policy = {"Statement": [example("Allow", Principal=principal)]}
    assert Request(action="s3:GetObject", caller=caller, service=service).by_resource(policy) == decision


# The programs, and all policies in them

PROPERTIES = ("policy", "assumeRolePolicy")


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    return {
        "storage": stack_program.run("storage"),
        "messaging": stack_program.run("messaging", upstream=UPSTREAM),
        "compute": stack_program.run("compute", {"s3Access": "scoped"}, upstream=UPSTREAM),
    }


@pytest.fixture(scope="module")
def policies(programs: dict[str, Program]) -> dict[str, Any]:
    """Return all policies, by the name of their resource."""
    return {
        name: json.loads(resource[key])
        for program in programs.values()
        for name, resource in program.resources.items()
        for key in PROPERTIES
        if key in resource
    }


def test_all_policies_are_tested_here(policies: dict[str, Any]) -> None:
    assert policies.keys() == {
        "bucket-policy",
        "main-queue-policy",
        "role",
        "role-consume-queue",
        "role-makes-no-log-groups",
        "role-s3-scoped-access",
    }


def test_the_evaluator_supports_every_policy(policies: dict[str, Any]) -> None:
    for policy in policies.values():
        assert policy["Version"] == "2012-10-17"
        for statement in policy["Statement"]:
            known = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
            assert statement.keys() <= known
            assert statement.get("Condition", {}).keys() <= OPERATORS
            assert "${" not in json.dumps(statement)


def test_unsigned_requests_may_do_nothing(policies: dict[str, Any]) -> None:
    for policy in policies.values():
        for statement in policy["Statement"]:
            if statement["Effect"] == "Allow":
                assert "*" not in json.dumps(statement.get("Principal", {}))
    for name, resource, actions in (
        ("bucket-policy", BUCKET, BUCKET_ACTIONS),
        ("bucket-policy", f"{BUCKET}/inputs/a.csv", OBJECT_ACTIONS),
        ("bucket-policy", f"{BUCKET}/outputs/a.csv.json", OBJECT_ACTIONS),
        ("main-queue-policy", MAIN_QUEUE, QUEUE_ACTIONS),
        ("role", "*", ("sts:AssumeRole",)),
    ):
        for action in actions:
            assert Request(action=action, resource=resource, caller=NOBODY).by_resource(policies[name]) != "Allow"


# The main queue

FROM_BUCKET = {"aws:SourceArn": BUCKET, "aws:SourceAccount": ACCOUNT}


def test_this_bucket_of_this_account_may_send(policies: dict[str, Any]) -> None:
    request = from_service("s3.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **FROM_BUCKET)
    assert request.by_resource(policies["main-queue-policy"]) == "Allow"


@pytest.mark.parametrize(
    "request_",
    [
        from_service(
            "s3.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **FROM_BUCKET | {"aws:SourceArn": OTHER_BUCKET}
        ),
        from_service(
            "s3.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **FROM_BUCKET | {"aws:SourceArn": f"{BUCKET}2"}
        ),
        from_service(
            "s3.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **FROM_BUCKET | {"aws:SourceAccount": OTHER_ACCOUNT}
        ),
        from_service("s3.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **{"aws:SourceArn": BUCKET}),
        from_service("s3.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **{"aws:SourceAccount": ACCOUNT}),
        from_service("s3.amazonaws.com", "sqs:SendMessage", f"{MAIN_QUEUE}2", **FROM_BUCKET),
        from_service("sns.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **FROM_BUCKET),
        from_service("events.amazonaws.com", "sqs:SendMessage", MAIN_QUEUE, **FROM_BUCKET),
        Request(action="sqs:SendMessage", resource=MAIN_QUEUE, caller=USER, context=FROM_BUCKET),
        Request(action="sqs:SendMessage", resource=MAIN_QUEUE, caller=ROLE, context=FROM_BUCKET),
    ],
    ids=[
        "another bucket",
        "a bucket whose name has the same beginning",
        "another account's bucket of this name",
        "no account",
        "no bucket",
        "another queue",
        "SNS",
        "EventBridge",
        "a user",
        "the function",
    ],
)
def test_the_queues_policy_lets_nobody_else_send(policies: dict[str, Any], request_: Request) -> None:
    assert request_.by_resource(policies["main-queue-policy"]) == "ImplicitDeny"


@pytest.mark.parametrize("action", [action for action in QUEUE_ACTIONS if action != "sqs:SendMessage"])
def test_the_bucket_may_do_nothing_but_send(policies: dict[str, Any], action: str) -> None:
    request = from_service("s3.amazonaws.com", action, MAIN_QUEUE, **FROM_BUCKET)
    assert request.by_resource(policies["main-queue-policy"]) == "ImplicitDeny"


# The dead-letter queue


def accepts(policy: dict[str, Any], source_queue: str) -> bool:
    """Return whether a queue accepts dead letters of another ("RedriveAllowPolicy" in SetQueueAttributes)."""
    match policy:
        case {"redrivePermission": "allowAll"}:
            return True
        case {"redrivePermission": "byQueue", "sourceQueueArns": sources}:
            return source_queue in sources
        case _:
            return False


@pytest.mark.parametrize(
    ("source", "accepted"),
    [
        (MAIN_QUEUE, True),
        (f"{MAIN_QUEUE}2", False),
        (MAIN_QUEUE.replace(":::", f":eu-west-1:{OTHER_ACCOUNT}:"), False),
        ("arn:aws:sqs:::xFarmDeadLetterSqs", False),
    ],
)
def test_dead_letters_come_from_the_main_queue_only(
    programs: dict[str, Program], source: str, *, accepted: bool
) -> None:
    messaging = programs["messaging"]
    allow = messaging.document("dead-letter-queue-redrive-allow-policy", "redriveAllowPolicy")
    assert messaging.resources["dead-letter-queue-redrive-allow-policy"]["queueUrl"].endswith("/xFarmDeadLetterSqs")
    assert accepts(allow, source) is accepted


def test_nobody_may_write_into_the_dead_letter_queue(programs: dict[str, Program]) -> None:
    """A queue without a policy accepts messages of its account only, and of no AWS service."""
    written = [
        resource["queueUrl"].rpartition("/")[2]
        for program in programs.values()
        for name, resource in program.resources.items()
        if program.types[name] == "aws:sqs/queuePolicy:QueuePolicy"
    ]
    assert written == ["xFarmMainQueue"]
    assert not [
        name for name in ("main-queue", "dead-letter-queue") if "policy" in programs["messaging"].resources[name]
    ]


# The bucket


@pytest.mark.parametrize("caller", [USER, ROLE, NOBODY, f"arn:aws:iam::{ACCOUNT}:root"])
@pytest.mark.parametrize(
    ("resource", "actions"),
    [(BUCKET, BUCKET_ACTIONS), (f"{BUCKET}/inputs/a.csv", OBJECT_ACTIONS), (f"{BUCKET}/x", OBJECT_ACTIONS)],
)
def test_plain_http_is_refused_and_https_is_not(
    policies: dict[str, Any], caller: str, resource: str, actions: tuple[str, ...]
) -> None:
    for action in actions:
        plain, https = (
            Request(action=action, resource=resource, caller=caller, https=https) for https in (False, True)
        )
        assert plain.by_resource(policies["bucket-policy"]) == "Deny"
        assert https.by_resource(policies["bucket-policy"]) == "ImplicitDeny"


def test_public_access_is_blocked_in_every_way(programs: dict[str, Program]) -> None:
    storage = programs["storage"]
    block = storage.resources["bucket-public-access-block"]
    assert block == {
        "bucket": storage.resources["bucket"]["bucket"],
        "blockPublicAcls": True,
        "blockPublicPolicy": True,
        "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    }
    acls = [token for program in programs.values() for token in program.types.values() if "Acl" in token]
    assert acls == []


# The function's role


@pytest.mark.parametrize(
    ("request_", "decision"),
    [
        (from_service("lambda.amazonaws.com", "sts:AssumeRole", "*"), "Allow"),
        (from_service("lambda.amazonaws.com", "sts:TagSession", "*"), "ImplicitDeny"),
        (from_service("ec2.amazonaws.com", "sts:AssumeRole", "*"), "ImplicitDeny"),
        (from_service("edgelambda.amazonaws.com", "sts:AssumeRole", "*"), "ImplicitDeny"),
        (Request(action="sts:AssumeRole", caller=USER), "ImplicitDeny"),
        (Request(action="sts:AssumeRole", caller=f"arn:aws:iam::{ACCOUNT}:root"), "ImplicitDeny"),
        (Request(action="sts:AssumeRole", caller=f"arn:aws:iam::{OTHER_ACCOUNT}:root"), "ImplicitDeny"),
    ],
)
def test_only_lambda_may_assume_the_role(policies: dict[str, Any], request_: Request, decision: str) -> None:
    assert request_.by_resource(policies["role"]) == decision


ROLE_POLICIES = ("role-consume-queue", "role-makes-no-log-groups", "role-s3-scoped-access")
MAY_LOG: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": "*",
        }
    ],
}
"""The managed policy AWSLambdaBasicExecutionRole."""


@pytest.mark.parametrize(
    ("action", "decision"),
    [("logs:CreateLogGroup", "Deny"), ("logs:CreateLogStream", "Allow"), ("logs:PutLogEvents", "Allow")],
)
def test_the_function_may_write_its_log_but_not_create_its_log_group(
    policies: dict[str, Any], action: str, decision: str
) -> None:
    group = f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:/aws/lambda/xFarmLambdaFunction:*"
    request = Request(action=action, resource=group, caller=ROLE)
    assert request.by_identity(policies["role-makes-no-log-groups"], MAY_LOG) == decision


def may(policies: dict[str, Any], action: str, resource: str) -> bool:
    """Return whether the inline policies of its role allow the function something."""
    request = Request(action=action, resource=resource, caller=ROLE)
    written = [policies[name] for name in ROLE_POLICIES]
    return request.by_identity(*written) == "Allow"


def test_all_policies_belong_to_the_functions_role(programs: dict[str, Program]) -> None:
    compute = programs["compute"]
    attached = {
        name: compute.resources[name]["role"]
        for name, token in compute.types.items()
        if token.startswith("aws:iam/rolePolic")
    }
    assert attached == dict.fromkeys(("role-basic-execution", *ROLE_POLICIES), "xFarmLambdaRole")
    assert compute.resources["function"]["role"].endswith(":xFarmLambdaRole")


@pytest.mark.parametrize("action", QUEUE_ACTIONS)
def test_the_function_may_consume_the_main_queue_only(policies: dict[str, Any], action: str) -> None:
    consuming = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
    assert may(policies, action, MESSAGING["main_queue_arn"]) is (action in consuming)
    for other in (
        MESSAGING["dead_letter_queue_arn"],
        f"{MESSAGING['main_queue_arn']}2",
        MESSAGING["main_queue_arn"].replace(ACCOUNT, OTHER_ACCOUNT),
    ):
        assert not may(policies, action, other)


@pytest.mark.parametrize("action", OBJECT_ACTIONS)
def test_the_function_may_read_its_bucket_and_write_outputs_only(policies: dict[str, Any], action: str) -> None:
    reading = {"s3:GetObject", "s3:GetObjectVersion"}
    for name in ("a.csv", "deep/er/a b.csv", "outputs/a.csv"):
        assert may(policies, action, f"{BUCKET}/inputs/{name}") is (action in reading)
        assert may(policies, action, f"{BUCKET}/outputs/{name}") is (action in reading | {"s3:PutObject"})
    for elsewhere in ("a.csv", "inputs", "elsewhere/inputs/a.csv", "inputs2/a.csv", "Outputs/a.csv"):
        assert may(policies, action, f"{BUCKET}/{elsewhere}") is (action in reading)
    for folder in ("inputs", "outputs"):
        assert not may(policies, action, f"{OTHER_BUCKET}/{folder}/a.csv")
        assert not may(policies, action, f"{BUCKET}2/{folder}/a.csv")


@pytest.mark.parametrize("action", BUCKET_ACTIONS)
def test_the_function_may_list_its_bucket_and_not_change_it(policies: dict[str, Any], action: str) -> None:
    assert may(policies, action, BUCKET) is (action == "s3:ListBucket")
    assert not may(policies, action, OTHER_BUCKET)


def test_the_function_may_decrypt_with_the_keys_in_the_setting_only() -> None:
    named, other = (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{name}" for name in ("1a", "1ab"))
    program = stack_program.run("compute", {"kmsKeyArns": json.dumps([named])}, upstream=UPSTREAM)
    policy = program.document("role-decrypt", "policy")
    for action, key in itertools.product(("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"), (named, other)):
        allowed = Request(action=action, resource=key, caller=ROLE).by_identity(policy) == "Allow"
        assert allowed is ((action, key) == ("kms:Decrypt", named))


@pytest.mark.parametrize(
    "action",
    ["iam:PassRole", "lambda:InvokeFunction", "kms:Decrypt", "sns:Publish", "sts:AssumeRole", "s3:CreateBucket"],
)
def test_the_function_may_do_nothing_else(policies: dict[str, Any], action: str) -> None:
    for resource in ("*", BUCKET, MESSAGING["main_queue_arn"], MESSAGING["alarm_topic_arn"]):
        assert not may(policies, action, resource)


def test_full_access_to_s3_gives_no_access_to_queues() -> None:
    full = stack_program.run("compute", {"s3Access": "full"}, upstream=UPSTREAM)
    written = [name for name, token in full.types.items() if token == "aws:iam/rolePolicy:RolePolicy"]
    assert sorted(written) == ["role-consume-queue", "role-makes-no-log-groups"]
