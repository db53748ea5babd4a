"""Features of the registry-built AWS plugin that the stacks don't use: no names, code in a folder, more functions."""

import json
import os

import pulumi
import pulumi_aws as aws

if os.environ.get("FAIL"):
    raise ValueError("test failure")


def allow(service: str, action: str, resource: str) -> str:
    """Return a policy document, with the spaces that `json.dumps` writes."""
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": action, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def https_only(arn: str) -> str:
    """Return a bucket policy that allows only HTTPS, as the provider's data source writes it."""
    statement = aws.iam.GetPolicyDocumentStatementArgs(
        effect="Deny",
        actions=["s3:*"],
        resources=[arn, f"{arn}/*"],
        principals=[aws.iam.GetPolicyDocumentStatementPrincipalArgs(type="*", identifiers=["*"])],
        conditions=[
            aws.iam.GetPolicyDocumentStatementConditionArgs(
                test="Bool", variable="aws:SecureTransport", values=["false"]
            )
        ],
    )
    return aws.iam.get_policy_document(statements=[statement]).json


bucket = aws.s3.Bucket("Bucket", force_destroy=True, tags={"kind": "test"})
aws.s3.BucketPolicy("bucketPolicy", bucket=bucket.id, policy=bucket.arn.apply(https_only))

dead = aws.sqs.Queue("dead", message_retention_seconds=1209600)
reports = aws.sqs.Queue("reports")
main = aws.sqs.Queue("main", visibility_timeout_seconds=int(os.environ.get("VISIBILITY", "60")))
aws.sqs.RedrivePolicy(
    "redrive",
    queue_url=main.id,
    redrive_policy=dead.arn.apply(lambda arn: json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})),
)
queue_policy = aws.sqs.QueuePolicy(
    "queuePolicy",
    queue_url=main.id,
    policy=main.arn.apply(lambda arn: allow("s3.amazonaws.com", "sqs:SendMessage", arn)),
)
aws.s3.BucketNotification(
    "notification",
    bucket=bucket.id,
    queues=[{"queue_arn": main.arn, "events": ["s3:ObjectCreated:*"]}],
    opts=pulumi.ResourceOptions(depends_on=[queue_policy]),
)

trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
role = aws.iam.Role("role", assume_role_policy=json.dumps({"Version": "2012-10-17", "Statement": [trust]}))
policy = aws.iam.RolePolicy(
    "policy",
    role=role.id,
    policy=main.arn.apply(
        lambda arn: json.dumps(
            {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["sqs:*"], "Resource": arn}]}
        )
    ),
)
function = aws.lambda_.Function(
    "function",
    role=role.arn,
    runtime="python3.11",
    handler="main.handler",
    timeout=10,
    code=pulumi.FileArchive("code"),
    environment={"variables": {"OWN": "a function's own", "REPORTS": reports.url}},
)
aws.lambda_.EventSourceMapping(
    "mapping",
    event_source_arn=main.arn,
    function_name=function.name,
    batch_size=5,
    function_response_types=["ReportBatchItemFailures"],
    scaling_config={"maximum_concurrency": 2},
    opts=pulumi.ResourceOptions(depends_on=[policy]),
)

topic = aws.sns.Topic("topic")
aws.sns.TopicSubscription("subscription", topic=topic.arn, protocol="sqs", endpoint=dead.arn)
aws.cloudwatch.MetricAlarm(
    "alarm",
    comparison_operator="GreaterThanThreshold",
    evaluation_periods=1,
    metric_name="ApproximateNumberOfMessagesVisible",
    namespace="AWS/SQS",
    period=60,
    statistic="Maximum",
    threshold=0,
    dimensions={"QueueName": dead.name},
    alarm_actions=[topic.arn],
)

pulumi.export("account", aws.get_caller_identity().account_id)
pulumi.export("bucket", bucket.bucket)
pulumi.export("function", function.name)
pulumi.export("policy", policy.name)
pulumi.export("queueRegion", main.region)
pulumi.export("reports", reports.url)
pulumi.export("role", role.name)
