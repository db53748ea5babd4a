"""A pipeline that is not deployed, for what needs no more than its names."""

from typing import Final

from xfarm.operations.pipeline import Pipeline

PIPELINE: Final = Pipeline(
    stack="dev",
    bucket_name="bucket",
    input_prefix="inputs/",
    output_prefix="outputs/",
    main_queue_url="https://queue/main",
    dead_letter_queue_arn="arn:aws:sqs:eu-west-1:000000000000:dead",
    dead_letter_queue_url="https://queue/dead",
    function_name="function",
    log_group_name="group",
    event_source_mapping_id="mapping",
    alarm_topic_arn="arn:aws:sns:eu-west-1:000000000000:topic",
)
