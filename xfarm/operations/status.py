"""The state of a deployment: its stacks, queues, function and alarms."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import TYPE_CHECKING, Final, Literal

import boto3
from botocore.exceptions import ClientError
from rich.table import Table
from rich.text import Text

from xfarm.aws_errors import is_missing
from xfarm.operations.dead_letters import failures, generalized, log_facts, log_lines
from xfarm.operations.pipeline import (
    DISABLED,
    Counts,
    DeletedError,
    NotDeployedError,
    Pipeline,
    counts,
    number_of,
    shortened,
)
from xfarm.orchestrator import scratch
from xfarm.orchestrator.states import managed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_cloudwatch.type_defs import MetricDataQueryTypeDef
    from rich.console import Console

    from xfarm.operations.dead_letters import Failure

PERIOD: Final = timedelta(hours=1)
"""The period in which errors are counted, up to now."""

MOST_TIMES: Final = 10_000
"""How many files' times are read at most: a few requests, as an answer has up to 1 MB ("FilterLogEvents")."""

MOST_CAUSES: Final = 3
"""How many causes of failed attempts are shown."""

FRESH: Final = timedelta(minutes=15)
"""The age up to which a metric's newest value counts as the present one.

SQS sends its metrics every minute. For a queue that was idle for six hours, it starts again with a delay of up to 15
minutes ("Monitoring Amazon SQS queues using CloudWatch").
"""

LOW_CONCURRENCY: Final = 100
"""The number of concurrent executions below which `show` says what to do.

The quota is 1,000, but new accounts have less, some of them 10 ("Lambda quotas"; terraform-aws-next-js #251,
fhir-works-on-aws-deployment #691).
"""

Subscription = Literal["confirmed", "pending", "gone"]
"""The state of an e-mail subscription. It is pending until somebody confirms it.

SNS deletes it if nobody does within 48 hours ("Amazon SNS now supports faster automatic deletion of unconfirmed
subscriptions"), and Pulumi's state does not show that until a refresh.
"""


@dataclass(frozen=True, kw_only=True)
class StackState:
    """The state of one project's stack, according to Pulumi.

    Attributes:
        resources: The number of its resources; 0 if it is not deployed.
        updated: When it was last deployed or destroyed, or None if it never was.
    """

    resources: int
    updated: str | None


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long files took, from the upload to the result, in seconds.

    Attributes:
        files: How many results were written.
        minutes: In how many minutes up to now: fewer than 60 if there were too many to read all.
        p50: Half of the files took this long or less.
        p95: 95 % of the files did.
        p99: 99 % of the files did.
    """

    files: int
    minutes: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Health:
    """The health of a deployed pipeline. A metric without values is None, which need not mean 0.

    Attributes:
        main_queue: The number of messages in the main queue.
        dead_letter_queue: The number of messages in the dead-letter queue.
        oldest_message_s: The age of the oldest message in the main queue, in seconds.
        event_source_mapping: Its state: "Enabled", or why nothing is processed.
        times: How long files took in the last hour, from the function's log; None if there were none.
        failed_attempts: Failed attempts at a file in the last hour, from the function's log.
        causes: The most frequent errors of these attempts, without numbers, ids and keys, and how many had each.
        errors: Invocations in the last hour that failed as a whole: the function crashed, or ran out of time or memory.
            An attempt at a file that fails is not an error to Lambda.
        throttles: Invocations in the last hour that Lambda refused because too many were running.
        concurrency: The account's limit of concurrent invocations in this region, for all its functions together.
        alarm_email: The state of the subscription that alarms are mailed to, or None if no address is set.
    """

    main_queue: Counts
    dead_letter_queue: Counts
    oldest_message_s: float | None
    event_source_mapping: str
    times: Times | None
    failed_attempts: int
    causes: dict[str, int]
    errors: int | None
    throttles: int | None
    concurrency: int
    alarm_email: Subscription | None


def stack_states(states: Mapping[str, scratch.Json | None]) -> dict[str, StackState]:
    """Return what is deployed of each project, by its state (see `states.states`)."""
    return {
        project: StackState(
            resources=managed(scratch.resources(state)),
            updated=scratch.deployment(state).get("manifest", {}).get("time"),
        )
        for project, state in states.items()
    }


def health(pipeline: Pipeline) -> Health:
    """Return the health of a pipeline, without receiving any of its messages.

    Raises:
        DeletedError: A part of it does not exist.
    """
    try:
        return _health(pipeline)
    except ClientError as error:
        if not is_missing(error):
            raise
        raise DeletedError(pipeline.stack) from error


def _health(pipeline: Pipeline) -> Health:
    boto3.client("s3").head_bucket(Bucket=pipeline.bucket_name)
    functions = boto3.client("lambda")
    mapping = functions.get_event_source_mapping(UUID=pipeline.event_source_mapping_id)
    functions.get_function_configuration(FunctionName=mapping["FunctionArn"])  # it may be deleted, and the mapping not
    now = datetime.now(UTC)
    metrics = _metrics(pipeline, now)
    failed = failures(pipeline, now - PERIOD)
    age = max(((at, value) for at, value in metrics["age"] if at > now - FRESH), default=None)
    return Health(
        main_queue=counts(pipeline.main_queue_url),
        dead_letter_queue=counts(pipeline.dead_letter_queue_url),
        oldest_message_s=age[1] if age else None,
        event_source_mapping=mapping["State"],
        times=times(pipeline, now, _sum(metrics["deleted"])),
        failed_attempts=len(failed),
        causes=causes(failed),
        errors=_sum(metrics["errors"]),
        throttles=_sum(metrics["throttles"]),
        concurrency=functions.get_account_settings()["AccountLimit"]["ConcurrentExecutions"],
        alarm_email=_subscription(pipeline) if pipeline.alarm_email else None,
    )


def causes(failed: list[Failure]) -> dict[str, int]:
    """Return the most frequent errors of failed attempts, without what differs between files, and their numbers."""
    found = Counter(generalized(failure.error, failure.key) for failure in failed)
    return dict(found.most_common(MOST_CAUSES))


def times(pipeline: Pipeline, now: datetime, messages: int | None) -> Times | None:
    """Return how long files took, in the last hour or in as much of it as has `MOST_TIMES` files.

    Args:
        pipeline: The pipeline.
        now: The present time.
        messages: How many messages were processed in the last hour, according to SQS; None if that is unknown.
    """
    minutes = max(1, int(PERIOD / timedelta(minutes=1) * min(1, MOST_TIMES / (messages or 1))))
    pattern = '{ $.outcome = "processed" && $.since_upload_ms >= 0 }'
    lines = log_lines(pipeline, now - timedelta(minutes=minutes), pattern)
    seconds = [taken for _, line in lines if (taken := _seconds_since_upload(line)) is not None]
    if not seconds:
        return None
    cuts = quantiles([*seconds, seconds[0]] if len(seconds) == 1 else seconds, n=100, method="inclusive")
    return Times(files=len(seconds), minutes=minutes, p50=cuts[49], p95=cuts[94], p99=cuts[98])


def _seconds_since_upload(line: str) -> float | None:
    """Return how long a file took, from a line of the function's log; None if the line is about something else."""
    match log_facts(line):
        case {"outcome": "processed", "since_upload_ms": int(taken)}:
            return taken / 1000
        case _:
            return None


def _subscription(pipeline: Pipeline) -> Subscription:
    pages = boto3.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=pipeline.alarm_topic_arn)
    for each in (subscription for page in pages for subscription in page["Subscriptions"]):
        if (each.get("Protocol"), each.get("Endpoint")) == ("email", pipeline.alarm_email):
            arn = each.get("SubscriptionArn", "")
            # Instead of an ARN, SNS returns "PendingConfirmation", or for some days "Deleted".
            return "confirmed" if arn.startswith("arn:") else "pending" if arn == "PendingConfirmation" else "gone"
    return "gone"


Series = list[tuple[datetime, float]]
"""The values of a metric with their times, in any order."""


def _metrics(pipeline: Pipeline, now: datetime) -> dict[str, Series]:
    function, queue = ("FunctionName", pipeline.function_name), ("QueueName", pipeline.main_queue_name)
    answer = boto3.client("cloudwatch").get_metric_data(
        MetricDataQueries=[
            _query("errors", "AWS/Lambda", "Errors", function, "Sum"),
            _query("throttles", "AWS/Lambda", "Throttles", function, "Sum"),
            _query("deleted", "AWS/SQS", "NumberOfMessagesDeleted", queue, "Sum"),
            _query("age", "AWS/SQS", "ApproximateAgeOfOldestMessage", queue, "Maximum"),
        ],
        StartTime=now - PERIOD,
        EndTime=now,
    )
    return {
        result["Id"]: list(zip(result["Timestamps"], result["Values"], strict=True))
        for result in answer["MetricDataResults"]
    }


def _query(
    name: str, namespace: str, metric: str, dimension: tuple[str, str], statistic: str
) -> MetricDataQueryTypeDef:
    return {
        "Id": name,
        "MetricStat": {
            "Metric": {
                "Namespace": namespace,
                "MetricName": metric,
                "Dimensions": [{"Name": dimension[0], "Value": dimension[1]}],
            },
            "Period": 60,
            "Stat": statistic,
        },
    }


def _sum(series: Series) -> int | None:
    return round(sum(value for _, value in series)) if series else None


def show(
    stack: str,
    stacks: dict[str, StackState],
    pipeline: Pipeline | NotDeployedError,
    console: Console,
    *,
    as_json: bool,
) -> bool:
    """Show what is deployed, and its health if all stacks are.

    Args:
        stack: The name of the stacks.
        stacks: The state of each project's stack.
        pipeline: The pipeline, or the error that says why there is none.
        console: The console to print to.
        as_json: Whether to print JSON instead.

    Returns:
        Whether all exists in AWS that is deployed.
    """
    state: Health | NotDeployedError | DeletedError
    try:
        state = pipeline if isinstance(pipeline, NotDeployedError) else health(pipeline)
    except DeletedError as error:
        state = error
    if as_json:
        answer = {
            "stack": stack,
            "stacks": {project: asdict(each) for project, each in stacks.items()},
            "health": asdict(state) if isinstance(state, Health) else None,
            "error": None if isinstance(state, Health) else str(state),
        }
        print(json.dumps(answer, indent=2))
        return not isinstance(state, DeletedError)
    console.print(_stacks_table(stacks))
    if isinstance(state, Health) and isinstance(pipeline, Pipeline):
        console.print()
        console.print(_health_table(pipeline, state))
    else:
        console.print(str(state), highlight=False)
    return not isinstance(state, DeletedError)


def _stacks_table(stacks: dict[str, StackState]) -> Table:
    table = Table("stack", "resources", "last update", box=None, pad_edge=False, header_style="bold")
    for project, each in stacks.items():
        updated = datetime.fromisoformat(each.updated).astimezone(UTC) if each.updated else None
        table.add_row(
            project,
            str(each.resources) if each.resources else "not deployed",
            f"{updated:%Y-%m-%d %H:%M:%S} UTC" if updated else "",
        )
    return table


def _health_table(pipeline: Pipeline, state: Health) -> Table:
    dead = state.dead_letter_queue
    rows = {
        pipeline.main_queue_name: f"{state.main_queue.waiting} waiting, {state.main_queue.in_flight} in flight",
        "  oldest message": unknown(state.oldest_message_s, " s"),
        pipeline.dead_letter_queue_name: f"{number_of(dead.waiting, 'dead letter')}, {dead.in_flight} in flight"
        + (f": see 'xfarm dead-letters {pipeline.stack}'" if dead.waiting or dead.in_flight else ""),
        pipeline.function_name: f"fed by an event source mapping that is {state.event_source_mapping}"
        + (
            f": enable it with 'xfarm deploy {pipeline.stack} --refresh'"
            if state.event_source_mapping in DISABLED
            else ""
        ),
        "  results": in_words(state.times),
        "  failed attempts": "\n".join(
            [f"{state.failed_attempts:,} in the last hour"]
            + [f"{number:,} with {shortened(error)}" for error, number in state.causes.items()]
        ),
        "  errors": f"{unknown(state.errors)} in the last hour",
        "  throttles": f"{unknown(state.throttles)} in the last hour",
    }
    if state.concurrency < LOW_CONCURRENCY:
        rows["  concurrency"] = (
            f"the account may run {number_of(state.concurrency, 'invocation')} at a time, for all its functions "
            f'together: set compute:maximumConcurrency to {state.concurrency} at most, and raise the quota "Concurrent '
            f'executions" of AWS Lambda in Service Quotas'
        )
    if state.alarm_email:
        rows[pipeline.alarm_topic_name] = alarms_in_words(pipeline, state.alarm_email)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))  # an error is no markup
    return table


def alarms_in_words(pipeline: Pipeline, subscription: Subscription) -> str:
    """Return whether alarms are mailed, and what to do if they aren't."""
    return {
        "confirmed": f"mails alarms to {pipeline.alarm_email}",
        "pending": f"mails nothing yet: {pipeline.alarm_email} must follow the link in AWS's mail "
        "within 48 hours of the deployment",
        "gone": f"mails nothing: {pipeline.alarm_email} has not confirmed the subscription, or has ended it. "
        f"Ask again with 'xfarm deploy {pipeline.stack} --refresh'",
    }[subscription]


def in_words(times: Times | None) -> str:
    """Return how many files were processed, and how long that took."""
    if times is None:
        return "none in the last hour"
    period = "hour" if times.minutes == PERIOD / timedelta(minutes=1) else f"{times.minutes} minutes"
    rate = times.files / times.minutes
    return (
        f"{times.files:,} in the last {period} ({rate:,.3g} a minute), from upload to result "
        f"{times.p50:.3g} s (p50), {times.p95:.3g} s (p95), {times.p99:.3g} s (p99)"
    )


def unknown(value: float | None, unit: str = "") -> str:
    """Return a number with its unit, or "unknown" if there is none."""
    return "unknown" if value is None else f"{value:g}{unit}"
