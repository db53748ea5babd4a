"""The common shape of all alarms: quiet without data, and sent to the alarm topic."""

from collections.abc import Mapping
from typing import Final

import pulumi
import pulumi_aws as aws

from shared import names
from shared.tags import tags

PERIOD_S: Final = 300
"""The period of a metric, in seconds. SQS reports metrics every minute, so one late report makes no difference."""


def alarm(  # noqa: PLR0913 - all are keyword arguments, as in the resource
    name: str,
    *,
    description: str,
    namespace: str,
    metric: str,
    statistic: str,
    dimensions: Mapping[str, pulumi.Input[str]],
    threshold: int,
    topic_arn: pulumi.Input[str],
) -> aws.cloudwatch.MetricAlarm:
    """Declare an alarm that goes off when `metric` reaches `threshold` within five minutes.

    Missing data is not breaching: SQS reports no metrics for a queue that has been empty for six hours, and Lambda
    reports none for a function that is not called ("Available CloudWatch metrics for Amazon SQS").
    """
    return aws.cloudwatch.MetricAlarm(
        names.of_stack(name),  # Pulumi makes the alarm's name of it
        alarm_description=description,
        namespace=namespace,
        metric_name=metric,
        statistic=statistic,
        dimensions=dimensions,
        period=PERIOD_S,
        evaluation_periods=1,
        comparison_operator="GreaterThanOrEqualToThreshold",
        threshold=threshold,
        treat_missing_data="notBreaching",
        alarm_actions=[topic_arn],
        ok_actions=[topic_arn],
        tags=tags(),
    )
