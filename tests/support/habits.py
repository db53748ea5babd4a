"""What AWS does only sometimes, each to be switched on in the proxy of `tests.faulty_aws`; docs/habits.md lists them.

A class here is one habit. Its docstring says what it is, and ends with the page or thread that tells of it.
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
    """Refuse the first requests of a kind."""

    asked: ClassVar[str]
    """A regular expression for the names of these requests."""
    refusal: ClassVar[Refusal]
    times = 1
    """How many are refused, of each name."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._seen: Counter[str] = Counter()

    def before(self, request: Request) -> Refusal | None:
        """Return the refusal, for the first requests of a kind."""
        if not re.fullmatch(self.asked, request.name) or self._seen[request.name] >= self.times:
            return None
        self._seen[request.name] += 1
        self.occurrences += 1
        return self.refusal


class Late(Habit):
    """Answer as if nothing had been done, for the first requests of each name that follow upon one that was."""

    done: ClassVar[str]
    """A regular expression for the names of the requests that are done."""
    asked: ClassVar[str]
    """A regular expression for the names of those that are then answered so."""
    refusal: ClassVar[Refusal]
    times: ClassVar[int] = 1
    """How many of each name are, for each that was done."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._done = 0
        self._seen: Counter[str] = Counter()

    def before(self, request: Request) -> Refusal | None:
        """Return the refusal, for the first requests after one that was done."""
        if not re.fullmatch(self.asked, request.name) or self._seen[request.name] >= self.times * self._done:
            return None
        self._seen[request.name] += 1
        self.occurrences += 1
        return self.refusal

    def after(self, request: Request, status: int) -> bool:
        """Note what was done."""
        self._done += status < 300 and re.fullmatch(self.done, request.name) is not None
        return False


class NotificationForAYoungPolicy(Refusing):
    """S3 refuses a notification to a queue whose policy is seconds old.

    Source: SetQueueAttributes, Amazon SQS API Reference; pulumi-aws #1895.
    """

    handled_by = "orchestrator"
    asked = r"PUT /[^/?]+\?notification"
    refusal = Refusal(400, "InvalidArgument", "Unable to validate the following destination configurations")


class RoleNotYetAssumable(Refusing):
    """Lambda may not yet assume a role that is seconds old.

    Source: IAM changes are not always immediately visible, IAM User Guide; terraform-provider-aws #8248.
    """

    asked = f"POST {FUNCTIONS}"
    refusal = Refusal(
        400, "InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."
    )


class RoleNotYetAllowedToRead(Refusing):
    """Lambda does not yet see that the role may receive from the queue.

    Source: terraform-provider-aws #7384.
    """

    asked = f"POST {MAPPINGS}"
    refusal = Refusal(
        400,
        "InvalidParameterValueException",
        "The function execution role does not have permissions to call ReceiveMessage on SQS",
    )


class RoleNotYetThere(Late):
    """IAM does not find a role that it has just made.

    Source: IAM changes are not always immediately visible, IAM User Guide.
    """

    done = "CreateRole"
    asked = "GetRole"
    times = 2
    refusal = NO_ROLE


class PolicyForAYoungRole(Late):
    """IAM does not find the role that a policy is put into or attached to, as it has only just made it.

    Source: IAM changes are not always immediately visible, IAM User Guide.
    """

    handled_by = "orchestrator"
    done = "CreateRole"
    asked = "AttachRolePolicy|PutRolePolicy"
    refusal = NO_ROLE


class RolePolicyNotYetThere(Late):
    """IAM does not find a policy that has just been put into a role, or attached to it.

    Source: IAM changes are not always immediately visible, IAM User Guide.
    """

    done = "PutRolePolicy"
    asked = "GetRolePolicy"
    refusal = Refusal(404, "NoSuchEntity", "The role policy cannot be found.")


class RoleChangedAtTheSameTime(Refusing):
    """IAM refuses one of several changes of a role at the same time.

    Source: ConcurrentModification, AttachRolePolicy, IAM API Reference.
    """

    handled_by = "orchestrator"
    asked = "AttachRolePolicy|PutRolePolicy|DetachRolePolicy|DeleteRolePolicy"
    refusal = Refusal(409, "ConcurrentModification", "multiple requests to change this object were submitted")


class RoleStillInUse(Refusing):
    """IAM still sees the policies of a role that have just been taken from it.

    Source: DeleteConflict, DeleteRole, IAM API Reference.
    """

    asked = "DeleteRole"
    refusal = Refusal(409, "DeleteConflict", "Cannot delete entity, must detach all policies first.")


class ConfigurationOfABusyFunction(Refusing):
    """Lambda refuses to change the configuration of a function that is still being changed.

    Source: Lambda function states, AWS Lambda Developer Guide.
    """

    asked = rf"PUT {FUNCTIONS}/\w+/configuration"
    refusal = Refusal(
        409,
        "ResourceConflictException",
        "The operation cannot be performed at this time. An update is in progress for resource: xFarmLambdaFunction",
    )


class CodeOfABusyFunction(Refusing):
    """Lambda refuses to change the code of a function that is still being changed.

    Source: Lambda function states, AWS Lambda Developer Guide; hashicorp/terraform #29604.
    """

    handled_by = "orchestrator"
    asked = rf"PUT {FUNCTIONS}/\w+/code"
    times = 2
    refusal = ConfigurationOfABusyFunction.refusal


class MappingStillInUse(Refusing):
    """Lambda refuses to delete an event source mapping that is still being changed.

    Source: ResourceInUseException, DeleteEventSourceMapping, AWS Lambda API Reference.
    """

    asked = rf"(DELETE|PUT) {MAPPINGS}/[^/]+"
    refusal = Refusal(400, "ResourceInUseException", "Cannot delete the event source mapping because it is in use.")


class QueueDeletedRecently(Refusing):
    """SQS makes no queue of a name that was deleted less than 60 seconds ago.

    Source: DeleteQueue, Amazon SQS API Reference.
    """

    asked = "CreateQueue"
    times = 3
    refusal = Refusal(
        400,
        "AWS.SimpleQueueService.QueueDeletedRecently",
        "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
    )


class QueueNotYetThere(Late):
    """SQS does not find a queue in the second after it was made.

    Source: CreateQueue, Amazon SQS API Reference.
    """

    done = "CreateQueue"
    asked = "GetQueueAttributes"
    refusal = NO_QUEUE


class BucketNotYetThere(Late):
    """S3 does not find a bucket that it has just made.

    Source: Amazon S3 data consistency model, Amazon S3 User Guide; terraform-provider-aws #11891.
    """

    done = r"PUT /[^/?]+"
    asked = r"HEAD /[^/?]+|PUT /[^/?]+\?(encryption|publicAccessBlock|policy)"
    refusal = Refusal(404, "NoSuchBucket", "The specified bucket does not exist")


class BucketChangedAtTheSameTime(Refusing):
    """S3 refuses one of two changes of a bucket at the same time.

    Source: terraform-provider-aws #7628 and #33478.
    """

    asked = r"(PUT|DELETE) /[^/?]+(\?.*)?"
    refusal = Refusal(
        409,
        "OperationAborted",
        "A conflicting conditional operation is currently in progress against this resource. Please try again.",
    )


class Throttling(Habit):
    """Every seventh request is one too many.

    Source: Retry behavior, AWS SDKs and Tools Reference Guide; Error responses (SlowDown), Amazon S3 API Reference.
    """

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._asked = 0

    def before(self, request: Request) -> Refusal | None:
        """Return the refusal that the service has for it."""
        self._asked += 1
        if self._asked % 7:
            return None
        self.occurrences += 1
        if request.is_s3:
            return Refusal(503, "SlowDown", "Please reduce your request rate.")
        code = "TooManyRequestsException" if "/20" in request.name else "ThrottlingException"
        return Refusal(429 if "/20" in request.name else 400, code, "Rate exceeded")


class SlowAnswers(Habit):
    """Answers take longer than they do on the emulator.

    Source: Timeouts, retries, and backoff with jitter, Amazon Builders' Library.
    """

    delay_s = 0.05

    def after(self, request: Request, status: int) -> bool:  # noqa: ARG002
        """Count it."""
        self.occurrences += 1
        return False


class LostAnswers(Habit):
    """What is asked is done, but the connection breaks before the answer, so that the provider asks a second time.

    CreateFunction is left out: the provider asks for it for five minutes, before it says what AWS does.

    Source: terraform-provider-aws #18468.
    """

    handled_by = "orchestrator"

    def __init__(self, client: Callable[[str], Any]) -> None:
        super().__init__(client)
        self._lost: set[str] = set()

    def after(self, request: Request, status: int) -> bool:
        """Return whether the answer is lost: it is, for the first change of each name."""
        changes = re.match(r"(Create|Put|Attach|Set|Delete|Detach|Tag|Subscribe|POST|PUT|DELETE)", request.name)
        if status >= 300 or not changes or request.name in {*self._lost, f"POST {FUNCTIONS}"}:
            return False
        self._lost.add(request.name)
        self.occurrences += 1
        return True


class LateLogLines(Habit):
    """Lambda writes the last lines of a function's log late, and makes its log group again where the role may.

    Source: terraform-aws-lambda #342; aws-cdk #32689.
    """

    handled_by = "stack"

    def after(self, request: Request, status: int) -> bool:
        """Write a line after each deletion, as whatever is left of the role."""
        if status < 300 and re.match(r"Delete|Detach|DELETE", request.name):
            self.occurrences += 1
            if not self._there() and self._allowed():
                self.client("logs").create_log_group(logGroupName=f"/aws/lambda/{names.FUNCTION}")
        return False

    def _there(self) -> bool:
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
    """Lambda has made the function's log group, without tags, before the stack could.

    Source: terraform-aws-lambda #342; aws-cdk #32689.
    """

    handled_by = "orchestrator"


class RoleMadeAgain(Habit):
    """A role that was deleted and made again may not decrypt the function's environment.

    Source: terraform-provider-aws #6352 and #9703.
    """

    handled_by = "stack"


class SubscriptionUnconfirmed(Habit):
    """SNS mails nothing until somebody confirms the subscription, and deletes it after 48 hours in which nobody does.

    Source: Amazon SNS, automatic deletion of unconfirmed subscriptions.
    """

    handled_by = "status"


ALWAYS = (LogGroupThereAlready, RoleMadeAgain, SubscriptionUnconfirmed)
"""Habits that `local.patched_ministack` has itself, with or without the proxy."""
