"""A deployment of the pipeline does what its plan shows: changes of `compute`, of the code, and by hand."""

from tests.support.checkout import Checkout
from tests.support.planned import Case, check_all, code, setting, several


def memory_by_hand(checkout: Checkout) -> None:
    checkout.client("lambda").update_function_configuration(FunctionName="xFarmLambdaFunction", MemorySize=512)


def alarm_by_hand(checkout: Checkout) -> None:
    alarms = checkout.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (name,) = [alarm["AlarmName"] for alarm in alarms if alarm["AlarmName"].startswith("throttle-alarm")]
    checkout.client("cloudwatch").delete_alarms(AlarmNames=[name])


def notification_by_hand(checkout: Checkout) -> None:
    checkout.client("s3").put_bucket_notification_configuration(Bucket="xfarm-bucket-01", NotificationConfiguration={})


CASES = [
    setting("compute", batchSize=2, memorySize=2048),
    setting("compute", maximumConcurrency=0),
    setting("compute", s3Access="scoped"),
    setting("compute", kmsKeyArns=["arn:aws:kms:eu-west-1:123456789012:key/1"], logRetentionDays=30),
    code("lambda_code/process.py", r"\Z", "# another line\n"),
    code("shared/names.py", "xFarmLambdaFunction", "xFarmLambdaFunction2"),
    several(
        code("shared/names.py", "xFarmLambdaFunction2", "xFarmLambdaFunction"),
        setting("storage", inputPrefix="drop/"),
        setting("messaging", deadLetterAlarmCount=2),
        setting("compute", memorySize=1024),
    ),
    Case("memory by hand", memory_by_hand, ("--refresh",)),
    Case("an alarm deleted by hand", alarm_by_hand, ("--refresh",)),
    Case("the notification removed by hand", notification_by_hand, ("--refresh",)),
]


def test_each_change_does_what_its_plan_shows(pipeline: Checkout) -> None:
    check_all(pipeline, CASES, changes_with_mays=3)
