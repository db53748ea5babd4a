"""The function that processes the files, its role and what feeds it."""

from pathlib import Path
from typing import Final

import pulumi
import pulumi_aws as aws

from shared import names, settings
from shared.alarms import alarm
from shared.json_document import json_document
from shared.outputs import ComputeOutputs, MessagingOutputs, StorageOutputs
from shared.tags import tags

# Relative, as Pulumi keeps the paths in its state: so a different checkout shows no change.
LAMBDA_CODE: Final = Path("../../lambda_code")

settings.refuse("timeout", "timeoutSeconds", "consumerTimeoutSeconds", instead="messaging:consumerTimeoutSeconds")
full_access = settings.choice("s3Access", ("full", "scoped")) == "full"
kms_keys = settings.kms_keys("kmsKeyArns")
log_retention_days = settings.log_retention_days("logRetentionDays")
memory_size = settings.whole_number("memorySize", at_least=128, at_most=10240)
# More than ten messages would require a batching window, which delays every file ("CreateEventSourceMapping").
batch_size = settings.whole_number("batchSize", at_least=1, at_most=10)
maximum_concurrency = settings.maximum("maximumConcurrency", at_least=2, at_most=1000)
error_alarm_count = settings.whole_number("errorAlarmCount", at_least=1, at_most=1_000_000)
throttle_alarm_count = settings.whole_number("throttleAlarmCount", at_least=1, at_most=1_000_000)

storage = StorageOutputs.read()
messaging = MessagingOutputs.read()

# `aws.iam.ManagedPolicy` has the ARNs of the partition `aws` only, not those of AWS China and AWS GovCloud (US).
managed_policies = pulumi.Output.concat("arn:", aws.get_partition_output().partition, ":iam::aws:policy/")

role = aws.iam.Role(
    "role",
    name=names.of_stack(names.FUNCTION_ROLE),
    assume_role_policy=json_document(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        }
    ),
    tags=tags(),
)

# The managed policy below lets Lambda create the log group, and Lambda writes some lines late: after `destroy`, the log
# group would be back. This policy denies it, from before the managed policy is attached until after it is detached.
no_log_groups = aws.iam.RolePolicy(
    "role-makes-no-log-groups",
    role=role.name,
    policy=json_document(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Deny", "Action": "logs:CreateLogGroup", "Resource": "*"}],
        }
    ),
)

basic_execution = aws.iam.RolePolicyAttachment(
    "role-basic-execution",
    role=role.name,
    policy_arn=pulumi.Output.concat(managed_policies, "service-role/AWSLambdaBasicExecutionRole"),
    opts=pulumi.ResourceOptions(depends_on=[no_log_groups]),
)

s3_access: pulumi.Resource
if full_access:
    s3_access = aws.iam.RolePolicyAttachment(
        "role-s3-full-access",
        role=role.name,
        policy_arn=pulumi.Output.concat(managed_policies, "AmazonS3FullAccess"),
    )
else:
    # Not only the input folder: after a change of its name, the queue still has messages about files under the old one.
    objects = pulumi.Output.concat(storage.bucket_arn, "/*")
    outputs = pulumi.Output.concat(storage.bucket_arn, "/", storage.output_prefix, "*")
    s3_access = aws.iam.RolePolicy(
        "role-s3-scoped-access",
        role=role.name,
        policy=json_document(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:GetObjectVersion"], "Resource": objects},
                    {"Effect": "Allow", "Action": "s3:PutObject", "Resource": outputs},
                    # Without it, S3 answers 403 and not 404 for a deleted object ("GetObject", S3 API Reference).
                    {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": storage.bucket_arn},
                ],
            }
        ),
    )

if kms_keys:
    aws.iam.RolePolicy(
        "role-decrypt",
        role=role.name,
        policy=json_document(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": kms_keys}],
            }
        ),
    )

consume_queue = aws.iam.RolePolicy(
    "role-consume-queue",
    role=role.name,
    policy=json_document(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                    "Resource": messaging.main_queue_arn,
                }
            ],
        }
    ),
)

log_group = aws.cloudwatch.LogGroup(
    "log-group",
    name=f"/aws/lambda/{names.of_stack(names.FUNCTION)}",
    retention_in_days=log_retention_days,
    tags=tags(),
)

function = aws.lambda_.Function(
    "function",
    name=names.of_stack(names.FUNCTION),
    role=role.arn,
    runtime=aws.lambda_.Runtime.PYTHON3D12,
    handler="lambda_function.handler",
    # File by file, so that `__pycache__` is not part of the code.
    code=pulumi.AssetArchive(
        {
            source.relative_to(LAMBDA_CODE).as_posix(): pulumi.FileAsset(source.as_posix())
            for source in sorted(LAMBDA_CODE.rglob("*.py"))
        }
    ),
    memory_size=memory_size,
    timeout=messaging.consumer_timeout_seconds,
    environment={
        "variables": {
            "INPUT_PREFIX": storage.input_prefix,
            "OUTPUT_PREFIX": storage.output_prefix,
        }
    },
    tags=tags(),
    opts=pulumi.ResourceOptions(
        depends_on=[log_group, basic_execution, s3_access],
        # Lambda gives the role a KMS grant to read the environment. A role that is deleted and created again has the
        # same ARN but no grant, so every call fails until the function is replaced ("Resource: aws_lambda_function" in
        # the provider's documentation).
        replacement_trigger=role.unique_id,
        delete_before_replace=True,
    ),
)

event_source_mapping = aws.lambda_.EventSourceMapping(
    "event-source-mapping",
    event_source_arn=messaging.main_queue_arn,
    function_name=function.name,
    # A slow file uses up receives of the others in its batch (docs/batches.md).
    batch_size=batch_size,
    # A throttled message uses up a receive when its visibility timeout has passed. With a maximum concurrency, Lambda
    # receives no more than it can process ("Configuring scaling behavior for SQS event source mappings").
    scaling_config=aws.lambda_.EventSourceMappingScalingConfigArgs(maximum_concurrency=maximum_concurrency)
    if maximum_concurrency
    else None,
    function_response_types=["ReportBatchItemFailures"],
    # Lambda refuses to create the mapping before the role may read the queue.
    opts=pulumi.ResourceOptions(depends_on=[consume_queue]),
)

alarm(
    "error-alarm",
    description="The function crashes or runs out of time",
    namespace="AWS/Lambda",
    metric="Errors",
    statistic="Sum",
    dimensions={"FunctionName": function.name},
    threshold=error_alarm_count,
    topic_arn=messaging.alarm_topic_arn,
)

alarm(
    "throttle-alarm",
    description="The function may not run as often as there are files: the account's concurrency is used up",
    namespace="AWS/Lambda",
    metric="Throttles",
    statistic="Sum",
    dimensions={"FunctionName": function.name},
    threshold=throttle_alarm_count,
    topic_arn=messaging.alarm_topic_arn,
)

ComputeOutputs(
    function_name=function.name,
    log_group_name=log_group.name,
    event_source_mapping_id=event_source_mapping.uuid,
).export()
