"""The deployed pipeline, as its stacks export it."""

from dataclasses import MISSING, dataclass, fields
from typing import Any

import boto3

from xfarm.errors import UserError

Exports = dict[str, dict[str, Any] | None]
"""What each project's stack exports, see `orchestrator.engine.exports`."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Where the parts of one deployment are; the fields are the outputs of the same names (`shared.outputs`)."""

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
    """Whom alarms are mailed to; nobody, where a deployment of version 0.1.0 does not say."""

    @property
    def dead_letter_queue_name(self) -> str:
        """The last part of its ARN."""
        return self.dead_letter_queue_arn.rpartition(":")[2]

    @property
    def main_queue_name(self) -> str:
        """The last part of its URL."""
        return self.main_queue_url.rpartition("/")[2]

    @property
    def alarm_topic_name(self) -> str:
        """The last part of its ARN."""
        return self.alarm_topic_arn.rpartition(":")[2]


def deployed(stack: str, exports: Exports) -> Pipeline:
    """Return the pipeline that the stacks called ``stack`` make together.

    Raises:
        UserError: One of them is not deployed, or only in part.
    """
    outputs: dict[str, Any] = {"stack": stack}
    for values in exports.values():
        outputs |= values or {}
    found = {field.name: outputs[field.name] for field in fields(Pipeline) if field.name in outputs}
    if missing := [field.name for field in fields(Pipeline) if field.default is MISSING and field.name not in found]:
        absent = [project for project, values in exports.items() if not values]
        raise UserError(
            f"'{stack}' is not wholly deployed, it has no {' and no '.join(absent or missing)}: "
            f"deploy it with 'xfarm deploy {stack}'."
        )
    return Pipeline(**found)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """About how many messages a queue has; SQS brings the numbers up to date within a minute ("GetQueueAttributes").

    Attributes:
        waiting: Those that can be received.
        in_flight: Those that somebody has received, and neither deleted nor given back.
    """

    waiting: int
    in_flight: int


def counts(queue_url: str) -> Counts:
    """Return how many messages a queue has, without touching them."""
    attributes = boto3.client("sqs").get_queue_attributes(
        QueueUrl=queue_url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    return Counts(
        waiting=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
    )


def printable(text: str) -> str:
    """Return ``text`` with escapes in place of what a terminal would obey: anybody may choose a key."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
