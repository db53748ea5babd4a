"""The deployed pipeline, from the outputs of its stacks."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import boto3

from xfarm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

LONGEST: Final = 300
"""The number of characters of a name or an error that a message or a table shows."""

DISABLED: Final = ("Disabled", "Disabling")
"""The states of an event source mapping that somebody has disabled ("GetEventSourceMapping")."""

Exports = dict[str, dict[str, Any] | None]
"""The outputs of each project's stack, see `orchestrator.states.outputs`."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The parts of one deployment. The fields are the outputs of the same names (`shared.outputs`)."""

    stack: str
    bucket_name: str
    input_prefix: str
    output_prefix: str
    main_queue_url: str
    dead_letter_queue_arn: str
    dead_letter_queue_url: str
    function_name: str
    log_group_name: str
    event_source_mapping_id: str
    alarm_topic_arn: str
    alarm_email: str = ""
    """The address that alarms are mailed to. Version 0.1.0 does not export it."""

    @property
    def dead_letter_queue_name(self) -> str:
        """The name of the dead-letter queue."""
        return self.dead_letter_queue_arn.rpartition(":")[2]

    @property
    def main_queue_name(self) -> str:
        """The name of the main queue."""
        return self.main_queue_url.rpartition("/")[2]

    @property
    def main_queue_arn(self) -> str:
        """The ARN of the main queue, which is in the account and region of the dead-letter queue."""
        return f"{self.dead_letter_queue_arn.removesuffix(self.dead_letter_queue_name)}{self.main_queue_name}"

    @property
    def alarm_topic_name(self) -> str:
        """The name of the topic for alarms."""
        return self.alarm_topic_arn.rpartition(":")[2]


class NotDeployedError(UserError):
    """A pipeline of which a part does not exist, according to Pulumi's state."""

    def __init__(self, stack: str, parts: Iterable[str] = ()) -> None:
        state = f"is not fully deployed, it has no {' and no '.join(parts)}" if parts else "is not deployed"
        super().__init__(f"'{stack}' {state}: deploy it with 'xfarm deploy {stack}'.")


class DeletedError(UserError):
    """A pipeline of which a part does not exist in AWS, though it does according to Pulumi's state."""

    def __init__(self, stack: str) -> None:
        super().__init__(
            f"a part of '{stack}' does not exist in AWS, because it was deleted by hand or a destruction was "
            f"interrupted: 'xfarm drift {stack}' shows which, 'xfarm deploy {stack} --refresh' creates it again.",
        )


def deployed(stack: str, exports: Exports) -> Pipeline:
    """Return the pipeline that consists of the stacks named `stack`.

    Raises:
        NotDeployedError: One of them is not deployed, or only partly.
    """
    outputs: dict[str, Any] = {"stack": stack}
    for values in exports.values():
        outputs |= values or {}
    found = {field.name: outputs[field.name] for field in fields(Pipeline) if field.name in outputs}
    if missing := [field.name for field in fields(Pipeline) if field.default is MISSING and field.name not in found]:
        absent = [project for project, values in exports.items() if not values]
        raise NotDeployedError(stack, (absent or missing) if any(exports.values()) else ())
    return Pipeline(**found)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The approximate numbers of messages in a queue. SQS updates them within a minute ("GetQueueAttributes").

    Attributes:
        waiting: Messages that can be received.
        in_flight: Messages that have been received, and have neither been deleted nor become visible again.
    """

    waiting: int
    in_flight: int


def counts(queue_url: str) -> Counts:
    """Return how many messages a queue has, without receiving them."""
    attributes = boto3.client("sqs").get_queue_attributes(
        QueueUrl=queue_url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return Counts(
        waiting=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
    )


def key_of(pipeline: Pipeline, text: str) -> str:
    """Return a key, or a prefix of keys, that may be given as a URL, as commands print it.

    Raises:
        UserError: It is a URL of another bucket.
    """
    bucket = f"s3://{pipeline.bucket_name}"
    key = "" if text == bucket else text.removeprefix(f"{bucket}/")
    if key.startswith("s3://"):
        raise UserError(
            f"'{printable(text)}' is not in the bucket of '{pipeline.stack}', which is s3://{pipeline.bucket_name}/."
        )
    return key


def require_working(pipeline: Pipeline, *, enabled: bool = True, otherwise: str = "") -> None:
    """Check that the parts exist that process files, and that the event source mapping is enabled.

    Args:
        pipeline: The pipeline.
        enabled: Whether the mapping has to be enabled.
        otherwise: What the user can do although it is disabled, for the message.

    Raises:
        ClientError: A part doesn't exist.
        UserError: The mapping is disabled.
    """
    counts(pipeline.main_queue_url)
    functions = boto3.client("lambda")
    functions.get_function_configuration(FunctionName=pipeline.function_name)
    state = functions.get_event_source_mapping(UUID=pipeline.event_source_mapping_id)["State"]
    if enabled and state in DISABLED:
        raise UserError(
            f"nothing would be processed, as the function's event source mapping is {state}: "
            f"enable it with 'xfarm deploy {pipeline.stack} --refresh'{otherwise}."
        )


def number_of(count: int, noun: str) -> str:
    """Return a number with a noun, which is in the plural unless the number is 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_plain(console: Console, text: str) -> None:
    """Print a line that may contain text of others, such as keys and errors: nothing in it is markup or an escape."""
    console.print(printable(text), markup=False, highlight=False)


def shortened(text: str) -> str:
    """Return `text` for a line of a message or a table: printable, and of `LONGEST` characters at most."""
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def shell_word(text: str) -> str:
    """Return `text` as a word for a shell, without control characters ("ANSI-C Quoting", Bash Reference Manual)."""
    if text.isprintable():
        return shlex.quote(text)
    quoted = "".join(f"\\{each}" if each in "\\'" else each for each in text)
    escaped = "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)
    return f"$'{escaped}'"


def printable(text: str) -> str:
    """Return `text` with control characters escaped: anybody can choose a key, and a terminal would obey them."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
