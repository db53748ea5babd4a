"""The one shape of all alarms: quiet while nothing is wrong, and told to the topic that people subscribe to."""

from collections.abc import Mapping

import pulumi
import pulumi_aws as aws

from shared.tags import tags

PERIOD_SECONDS = 300
"""Length of one evaluation, in seconds: SQS reports its metrics every minute, and one late report is no alarm."""


def alarm(  # noqa: PLR0913  all named, as in the resource itself
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
    """Declare an alarm that goes off when ``metric`` reaches ``threshold`` within five minutes.

    Missing data is not breaching: SQS stops reporting a queue that has been empty for six hours, and Lambda reports
    nothing of a function that is not called ("Available CloudWatch metrics for Amazon SQS").
    """
    return aws.cloudwatch.MetricAlarm(
        name,
        alarm_description=description,
        namespace=namespace,
        metric_name=metric,
        statistic=statistic,
        dimensions=dimensions,
        period=PERIOD_SECONDS,
        evaluation_periods=1,
        comparison_operator="GreaterThanOrEqualToThreshold",
        threshold=threshold,
        treat_missing_data="notBreaching",
        alarm_actions=[topic_arn],
        ok_actions=[topic_arn],
        tags=tags(),
    )
