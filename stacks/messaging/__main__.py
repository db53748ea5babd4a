"""The queue between the bucket and the function, its dead-letter queue, and the bucket's notification."""

from typing import Final

import pulumi
import pulumi_aws as aws

from shared import names, settings
from shared.alarms import alarm
from shared.json_document import json_document
from shared.outputs import MessagingOutputs, StorageOutputs
from shared.tags import tags

DAY_S: Final = 24 * 60 * 60
RETENTION_S: Final = 4 * DAY_S
# The longest that SQS allows ("Amazon SQS message quotas"). It counts from the upload, not from the move to the
# dead-letter queue ("Setting-up dead-letter queue retention in Amazon SQS").
DEAD_LETTER_RETENTION_S: Final = 14 * DAY_S

# 900 s is the longest that a Lambda function may run ("Lambda quotas").
consumer_timeout = settings.whole_number("consumerTimeoutSeconds", at_least=1, at_most=900)
# Six times the function's timeout: with less, a message that is throttled or still being processed is delivered again
# ("Creating and configuring an Amazon SQS event source mapping").
visibility_timeout = 6 * consumer_timeout
# AWS advises five or more, so that throttling alone moves no message (same page). SQS allows 1,000. All of them have to
# fit into the retention, less a day in which the message waits: or it would expire, and be no dead letter.
max_receive_count = settings.whole_number(
    "maxReceiveCount", at_least=1, at_most=min(1000, (RETENTION_S - DAY_S) // visibility_timeout)
)
email = settings.email("alarmEmail")
dead_letter_alarm_count = settings.whole_number("deadLetterAlarmCount", at_least=1, at_most=120_000)
# In a dead-letter queue this age counts from the move ("Available CloudWatch metrics for Amazon SQS"), but the
# retention from the upload, up to `RETENTION_S` earlier. The maximum leaves a day to act.
dead_letter_age_alarm_s = settings.whole_number(
    "deadLetterAgeAlarmSeconds", at_least=1, at_most=DEAD_LETTER_RETENTION_S - RETENTION_S - DAY_S
)
oldest_message_alarm_s = settings.whole_number("oldestMessageAlarmSeconds", at_least=1, at_most=RETENTION_S)

storage = StorageOutputs.read()

# The policies are resources of their own, so that both queues are created at the same time: the provider waits 25 s for
# each new queue, and for each policy created or deleted. With `deleted_with`, deleting a policy takes no time.
dead_letter_queue = aws.sqs.Queue(
    "dead-letter-queue",
    name=names.of_stack(names.DEAD_LETTER_QUEUE),
    message_retention_seconds=DEAD_LETTER_RETENTION_S,
    sqs_managed_sse_enabled=True,
    tags=tags(),
    # Another name is another queue: without this, a change of it would delete every message.
    opts=pulumi.ResourceOptions(protect=True),
)

main_queue = aws.sqs.Queue(
    "main-queue",
    name=names.of_stack(names.MAIN_QUEUE),
    message_retention_seconds=RETENTION_S,
    receive_wait_time_seconds=20,
    visibility_timeout_seconds=visibility_timeout,
    sqs_managed_sse_enabled=True,
    tags=tags(),
    opts=pulumi.ResourceOptions(protect=True),
)

aws.sqs.RedrivePolicy(
    "main-queue-redrive-policy",
    queue_url=main_queue.url,
    redrive_policy=json_document({"deadLetterTargetArn": dead_letter_queue.arn, "maxReceiveCount": max_receive_count}),
    opts=pulumi.ResourceOptions(deleted_with=main_queue),
)

aws.sqs.RedriveAllowPolicy(
    "dead-letter-queue-redrive-allow-policy",
    queue_url=dead_letter_queue.url,
    redrive_allow_policy=json_document({"redrivePermission": "byQueue", "sourceQueueArns": [main_queue.arn]}),
    opts=pulumi.ResourceOptions(deleted_with=dead_letter_queue),
)

main_queue_policy = aws.sqs.QueuePolicy(
    "main-queue-policy",
    queue_url=main_queue.url,
    policy=json_document(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "BucketSends",
                    "Effect": "Allow",
                    "Principal": {"Service": "s3.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": main_queue.arn,
                    "Condition": {
                        "ArnEquals": {"aws:SourceArn": storage.bucket_arn},
                        # A bucket's ARN names no account: after a deletion, another account can take the name.
                        "StringEquals": {"aws:SourceAccount": aws.get_caller_identity_output().account_id},
                    },
                }
            ],
        }
    ),
    opts=pulumi.ResourceOptions(deleted_with=main_queue),
)

aws.s3.BucketNotification(
    "bucket-notification",
    bucket=storage.bucket_name,
    queues=[
        {
            "queue_arn": main_queue.arn,
            "events": ["s3:ObjectCreated:*"],
            "filter_prefix": storage.input_prefix,
        }
    ],
    # S3 sends a test message first, and refuses the notification if the queue does not accept it.
    opts=pulumi.ResourceOptions(depends_on=[main_queue_policy]),
)

alarms = aws.sns.Topic("alarms", name=names.of_stack(names.ALARM_TOPIC), tags=tags())

if email:
    aws.sns.TopicSubscription("alarm-email", topic=alarms.arn, protocol="email", endpoint=email)

alarm(
    "dead-letter-alarm",
    description="Files could not be processed and wait in the dead-letter queue",
    namespace="AWS/SQS",
    metric="ApproximateNumberOfMessagesVisible",
    statistic="Maximum",
    dimensions={"QueueName": dead_letter_queue.name},
    threshold=dead_letter_alarm_count,
    topic_arn=alarms.arn,
)

alarm(
    "dead-letter-age-alarm",
    description="Files in the dead-letter queue will soon be deleted from it",
    namespace="AWS/SQS",
    metric="ApproximateAgeOfOldestMessage",
    statistic="Maximum",
    dimensions={"QueueName": dead_letter_queue.name},
    threshold=dead_letter_age_alarm_s,
    topic_arn=alarms.arn,
)

alarm(
    "oldest-message-alarm",
    description="Files wait longer to be processed than they should",
    namespace="AWS/SQS",
    metric="ApproximateAgeOfOldestMessage",
    statistic="Maximum",
    dimensions={"QueueName": main_queue.name},
    threshold=oldest_message_alarm_s,
    topic_arn=alarms.arn,
)

MessagingOutputs(
    main_queue_arn=main_queue.arn,
    main_queue_url=main_queue.url,
    dead_letter_queue_arn=dead_letter_queue.arn,
    dead_letter_queue_url=dead_letter_queue.url,
    alarm_topic_arn=alarms.arn,
    alarm_email=pulumi.Output.from_input(email),
    consumer_timeout_seconds=pulumi.Output.from_input(consumer_timeout),
).export()
