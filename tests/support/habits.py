"""What AWS does only sometimes, for the proxy of `tests.support.faulty_aws`. docs/habits.md lists the habits.

A class is one habit. Its docstring describes it, and ends with the page or thread that it comes from.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from shared import names
from tests.support.faulty_aws import Habit, Refusal, Request

FUNCTIONS = "/2015-03-31/functions"
MAPPINGS = "/2015-03-31/event-source-mappings"
NO_ROLE = Refusal(404, "NoSuchEntity", "The role with name xFarmLambdaRole cannot be found.")
NO_QUEUE = Refusal(400, "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")


class Refusing(Habit):
    """Refuse the first requests of each name."""

    pattern: ClassVar[str]
    """A regular expression for the names."""
    refusal: ClassVar[Refusal]
    times = 1
    """How many requests of each name are refused."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._seen: Counter[str] = Counter()

    def before(self, request: Request) -> Refusal | None:
        """Return the refusal for the first requests of each name."""
        if not re.fullmatch(self.pattern, request.name) or self._seen[request.name] >= self.times:
            return None
        self._seen[request.name] += 1
        self.occurrences += 1
        return self.refusal


class Late(Habit):
    """Refuse the first requests of each name after a change, as if the change had not been made."""

    change: ClassVar[str]
    """A regular expression for the names of the changes."""
    pattern: ClassVar[str]
    """A regular expression for the names of the requests that are refused."""
    refusal: ClassVar[Refusal]
    times: ClassVar[int] = 1
    """How many requests of each name are refused after each change."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._changes = 0
        self._seen: Counter[str] = Counter()

    def before(self, request: Request) -> Refusal | None:
        """Return the refusal for the first requests after a change."""
        if not re.fullmatch(self.pattern, request.name) or self._seen[request.name] >= self.times * self._changes:
            return None
        self._seen[request.name] += 1
        self.occurrences += 1
        return self.refusal

    def after(self, request: Request, status: int) -> bool:
        """Count the changes."""
        self._changes += status < 300 and re.fullmatch(self.change, request.name) is not None
        return False


class NotificationForANewPolicy(Refusing):
    """S3 refuses a notification to a queue whose policy is seconds old.

    Source: SetQueueAttributes, Amazon SQS API Reference; pulumi-aws #1895.
    """

    handled_by = "orchestrator"
    pattern = r"PUT /[^/?]+\?notification"
    refusal = Refusal(400, "InvalidArgument", "Unable to validate the following destination configurations")


class RoleNotYetAssumable(Refusing):
    """Lambda can't yet assume a role that is seconds old.

    Source: IAM changes are not always immediately visible, IAM User Guide; terraform-provider-aws #8248.
    """

    pattern = f"POST {FUNCTIONS}"
    refusal = Refusal(
        400, "InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."
    )


class RoleNotYetAllowedToRead(Refusing):
    """Lambda does not yet see that the role may receive from the queue.

    Source: terraform-provider-aws #7384.
    """

    pattern = f"POST {MAPPINGS}"
    refusal = Refusal(
        400,
        "InvalidParameterValueException",
        "The function execution role does not have permissions to call ReceiveMessage on SQS",
    )


class RoleNotYetThere(Late):
    """IAM does not find a role that it has just created.

    Source: IAM changes are not always immediately visible, IAM User Guide.
    """

    change = "CreateRole"
    pattern = "GetRole"
    times = 2
    refusal = NO_ROLE


class PolicyForANewRole(Late):
    """IAM does not find the role that a policy is put into or attached to, because it has just been created.

    Source: IAM changes are not always immediately visible, IAM User Guide.
    """

    handled_by = "orchestrator"
    change = "CreateRole"
    pattern = "AttachRolePolicy|PutRolePolicy"
    refusal = NO_ROLE


class RolePolicyNotYetThere(Late):
    """IAM does not find a policy that has just been put into a role, or attached to it.

    Source: IAM changes are not always immediately visible, IAM User Guide.
    """

    change = "PutRolePolicy"
    pattern = "GetRolePolicy"
    refusal = Refusal(404, "NoSuchEntity", "The role policy cannot be found.")


class RoleChangedAtTheSameTime(Refusing):
    """IAM refuses one of several simultaneous changes of a role.

    Source: ConcurrentModification, AttachRolePolicy, IAM API Reference.
    """

    handled_by = "orchestrator"
    pattern = "AttachRolePolicy|PutRolePolicy|DetachRolePolicy|DeleteRolePolicy"
    refusal = Refusal(409, "ConcurrentModification", "multiple requests to change this object were submitted")


class RoleStillInUse(Refusing):
    """IAM still finds policies in a role that have just been removed from it.

    Source: DeleteConflict, DeleteRole, IAM API Reference.
    """

    pattern = "DeleteRole"
    refusal = Refusal(409, "DeleteConflict", "Cannot delete entity, must detach all policies first.")


class ConfigurationOfABusyFunction(Refusing):
    """Lambda refuses to change the configuration of a function while another change is in progress.

    Source: Lambda function states, AWS Lambda Developer Guide.
    """

    pattern = rf"PUT {FUNCTIONS}/\w+/configuration"
    refusal = Refusal(
        409,
        "ResourceConflictException",
        "The operation cannot be performed at this time. An update is in progress for resource: xFarmLambdaFunction",
    )


class CodeOfABusyFunction(Refusing):
    """Lambda refuses to change the code of a function while another change is in progress.

    Source: Lambda function states, AWS Lambda Developer Guide; hashicorp/terraform #29604.
    """

    handled_by = "orchestrator"
    pattern = rf"PUT {FUNCTIONS}/\w+/code"
    times = 2
    refusal = ConfigurationOfABusyFunction.refusal


class MappingStillInUse(Refusing):
    """Lambda refuses to delete an event source mapping while a change is in progress.

    Source: ResourceInUseException, DeleteEventSourceMapping, AWS Lambda API Reference.
    """

    pattern = rf"(DELETE|PUT) {MAPPINGS}/[^/]+"
    refusal = Refusal(400, "ResourceInUseException", "Cannot delete the event source mapping because it is in use.")


class QueueDeletedRecently(Refusing):
    """SQS refuses to create a queue if one of that name was deleted less than 60 seconds ago.

    Source: DeleteQueue, Amazon SQS API Reference.
    """

    pattern = "CreateQueue"
    times = 3
    refusal = Refusal(
        400,
        "AWS.SimpleQueueService.QueueDeletedRecently",
        "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
    )


class QueueNotYetThere(Late):
    """SQS does not find a queue in the first second after its creation.

    Source: CreateQueue, Amazon SQS API Reference.
    """

    change = "CreateQueue"
    pattern = "GetQueueAttributes"
    refusal = NO_QUEUE


class BucketNotYetThere(Late):
    """S3 does not find a bucket that it has just created.

    Source: Amazon S3 data consistency model, Amazon S3 User Guide; terraform-provider-aws #11891.
    """

    change = r"PUT /[^/?]+"
    pattern = r"HEAD /[^/?]+|PUT /[^/?]+\?(encryption|publicAccessBlock|policy)"
    refusal = Refusal(404, "NoSuchBucket", "The specified bucket does not exist")


class BucketChangedAtTheSameTime(Refusing):
    """S3 refuses one of two simultaneous changes of a bucket.

    Source: terraform-provider-aws #7628 and #33478.
    """

    pattern = r"(PUT|DELETE) /[^/?]+(\?.*)?"
    refusal = Refusal(
        409,
        "OperationAborted",
        "A conflicting conditional operation is currently in progress against this resource. Please try again.",
    )


class Throttling(Habit):
    """Every seventh request is throttled.

    Source: Retry behavior, AWS SDKs and Tools Reference Guide; Error responses (SlowDown), Amazon S3 API Reference.
    """

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._requests = 0

    def before(self, request: Request) -> Refusal | None:
        """Return the service's error for throttling."""
        self._requests += 1
        if self._requests % 7:
            return None
        self.occurrences += 1
        if request.is_s3:
            return Refusal(503, "SlowDown", "Please reduce your request rate.")
        code = "TooManyRequestsException" if "/20" in request.name else "ThrottlingException"
        return Refusal(429 if "/20" in request.name else 400, code, "Rate exceeded")


class SlowAnswers(Habit):
    """Answers take longer than on the emulator.

    Source: Timeouts, retries, and backoff with jitter, Amazon Builders' Library.
    """

    delay_s = 0.05

    def after(self, request: Request, status: int) -> bool:  # noqa: ARG002 - as in the base class
        """Count the response."""
        self.occurrences += 1
        return False


class LostAnswers(Habit):
    """AWS does what is requested, but the connection breaks before the answer, so the provider sends it again.

    CreateFunction is left out: the provider repeats it for five minutes before it reports AWS's error.

    Source: terraform-provider-aws #18468.
    """

    handled_by = "orchestrator"

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._lost: set[str] = set()

    def after(self, request: Request, status: int) -> bool:
        """Return whether the response is dropped: that of the first change of each name."""
        changes = re.match(r"(Create|Put|Attach|Set|Delete|Detach|Tag|Subscribe|POST|PUT|DELETE)", request.name)
        if status >= 300 or not changes or request.name in {*self._lost, f"POST {FUNCTIONS}"}:
            return False
        self._lost.add(request.name)
        self.occurrences += 1
        return True


class LateLogLines(Habit):
    """Lambda writes the last lines of a function's log late, and creates its log group again if the role allows it.

    Source: terraform-aws-lambda #342; aws-cdk #32689.
    """

    handled_by = "stack"

    def after(self, request: Request, status: int) -> bool:
        """Create the log group after each deletion, if the role still allows it."""
        if status < 300 and re.match(r"Delete|Detach|DELETE", request.name):
            self.occurrences += 1
            if not self._exists() and self._allowed():
                self.client("logs").create_log_group(logGroupName=f"/aws/lambda/{names.FUNCTION}")
        return False

    def _exists(self) -> bool:
        group = f"/aws/lambda/{names.FUNCTION}"
        return bool(self.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"])

    def _allowed(self) -> bool:
        iam, role = self.client("iam"), names.FUNCTION_ROLE
        try:
            attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
            written = iam.list_role_policies(RoleName=role)["PolicyNames"]
            documents = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in written]
        except iam.exceptions.NoSuchEntityException:
            return False
        denied = any(
            (statement["Effect"], statement["Action"]) == ("Deny", "logs:CreateLogGroup")
            for document in documents
            for statement in document["Statement"]
        )
        return not denied and any(each["PolicyName"] == "AWSLambdaBasicExecutionRole" for each in attached)


class LogGroupThereAlready(Habit):
    """Lambda has created the function's log group, without tags, before the stack does.

    Source: terraform-aws-lambda #342; aws-cdk #32689.
    """

    handled_by = "orchestrator"


class RoleMadeAgain(Habit):
    """A role that was deleted and created again can't decrypt the function's environment.

    Source: terraform-provider-aws #6352 and #9703.
    """

    handled_by = "stack"


class SubscriptionUnconfirmed(Habit):
    """SNS mails nothing until somebody confirms the subscription, and deletes it after 48 hours without confirmation.

    Source: Amazon SNS, automatic deletion of unconfirmed subscriptions.
    """

    handled_by = "status"


ALWAYS = (LogGroupThereAlready, RoleMadeAgain, SubscriptionUnconfirmed)
"""The habits that the emulator itself has (`xfarm.emulator.patches`)."""
