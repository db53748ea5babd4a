"""A deployment of the pipeline does what its plan shows."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support import stress
from tests.support.checkout import Checkout
from tests.support.planned import Counts, check


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("plan"))
    stress.finish(checkout, "deploy")
    yield checkout
    checkout.emulator.stop()


def changed(checkout: Checkout) -> dict[tuple[str, str], tuple[str, list[str], bool]]:
    """Return for each resource in a preview: the operation, the properties, and whether a value is unknown."""
    reports = json.loads(stress.finish(checkout, "preview", "--json"))
    return {
        (report["project"], step["resource"]): (
            step["operation"],
            [change["path"] for change in step["properties"]],
            any(change["unknown"] for change in step["properties"]),
        )
        for report in reports
        for step in report["steps"]
    }


def test_another_prefix_is_shown_in_every_stack_that_reads_it_and_nothing_is_unknown(pipeline: Checkout) -> None:
    before = {path: path.read_bytes() for path in (pipeline.root / ".local/state").rglob("*") if path.is_file()}
    pipeline.configure("storage", "local", inputPrefix="drop/")
    assert changed(pipeline) == {
        ("messaging", "bucket-notification"): ("update", ["queues[0].filterPrefix"], False),
        ("compute", "function"): ("update", ["environment.variables.INPUT_PREFIX"], False),
    }
    after = {path: path.read_bytes() for path in (pipeline.root / ".local/state").rglob("*") if path.is_file()}
    assert after == before
    pipeline.configure("storage", "local", inputPrefix="inputs/")
    assert changed(pipeline) == {}


def test_another_bucket_name_is_refused_and_the_other_stacks_are_left_out(pipeline: Checkout) -> None:
    pipeline.configure("storage", "local", bucketName="xfarm-bucket-02")
    refused = pipeline.run("preview", "--json")
    pipeline.configure("storage", "local", bucketName="xfarm-bucket-01")
    assert refused.returncode == 1
    assert {report["project"]: report["outcome"] for report in json.loads(refused.stdout)} == {
        "storage": "failed",
        "messaging": "left out",
        "compute": "left out",
    }
    assert "the bucket 'xfarm-bucket-01' and all files in it would be deleted" in refused.stderr


def test_a_stack_alone_is_shown_with_the_current_outputs_of_the_others(pipeline: Checkout) -> None:
    pipeline.configure("storage", "local", inputPrefix="drop/")
    reports = json.loads(stress.finish(pipeline, "preview", "--only", "compute", "--json"))
    assert [(report["project"], report["steps"]) for report in reports] == [("compute", [])]
    reports = json.loads(stress.finish(pipeline, "preview", "--from", "messaging", "--json"))
    assert [(report["project"], report["steps"]) for report in reports] == [("messaging", []), ("compute", [])]
    pipeline.configure("storage", "local", inputPrefix="inputs/")


@dataclass(frozen=True)
class Case:
    """A change, and the options for the commands."""

    name: str
    make: Callable[[Checkout], object]
    options: tuple[str, ...] = ()


def setting(project: str, **settings: object) -> Case:
    return Case(f"{project}: {settings}", lambda checkout: checkout.configure(project, "local", **settings))


def code(path: str, pattern: str, replacement: str) -> Case:
    def make(checkout: Checkout) -> None:
        file = checkout.root / path
        text, number = re.subn(pattern, replacement, file.read_text(encoding="utf-8"))
        assert number, path
        file.write_text(text, encoding="utf-8")

    return Case(f"{path}: {replacement}", make)


def several(*cases: Case) -> Case:
    return Case(" and ".join(case.name for case in cases), lambda checkout: [case.make(checkout) for case in cases])


def memory_by_hand(checkout: Checkout) -> None:
    checkout.client("lambda").update_function_configuration(FunctionName="xFarmLambdaFunction", MemorySize=512)


def alarm_by_hand(checkout: Checkout) -> None:
    alarms = checkout.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (name,) = [alarm["AlarmName"] for alarm in alarms if alarm["AlarmName"].startswith("throttle-alarm")]
    checkout.client("cloudwatch").delete_alarms(AlarmNames=[name])


def notification_by_hand(checkout: Checkout) -> None:
    checkout.client("s3").put_bucket_notification_configuration(Bucket="xfarm-bucket-01", NotificationConfiguration={})


CASES = [
    setting("storage", inputPrefix="drop/"),
    setting("storage", outputPrefix="results/"),
    setting("messaging", maxReceiveCount=7),
    setting("messaging", deadLetterAlarmCount=2),
    setting("messaging", oldestMessageAlarmSeconds=600),
    setting("messaging", alarmEmail="anna@example.com"),
    setting("compute", memorySize=2048),
    setting("compute", batchSize=2),
    setting("compute", maximumConcurrency=0),
    setting("compute", s3Access="scoped"),
    setting("compute", kmsKeyArns=["arn:aws:kms:eu-west-1:123456789012:key/1"]),
    setting("compute", logRetentionDays=30),
    code("lambda_code/process.py", r"\Z", "# another line\n"),
    code("shared/names.py", "xFarmLambdaFunction", "xFarmLambdaFunction2"),
    code("shared/names.py", "xFarmLambdaFunction2", "xFarmLambdaFunction"),
    several(
        setting("storage", inputPrefix="inputs/"),
        setting("messaging", consumerTimeoutSeconds=30),
        setting("compute", memorySize=1024),
    ),
    Case("memory by hand", memory_by_hand, ("--refresh",)),
    Case("an alarm deleted by hand", alarm_by_hand, ("--refresh",)),
    Case("the notification removed by hand", notification_by_hand, ("--refresh",)),
]

MAYS = 3
"""The maximum number of changes with an operation that is shown as "may"."""


def test_each_change_does_what_its_plan_shows(pipeline: Checkout) -> None:
    counts = Counts()
    for case in CASES:
        case.make(pipeline)
        check(pipeline, counts, case.name, *case.options)
    print(counts)
    assert counts.mismatches == []
    assert counts.changes_with_mays <= MAYS
    assert counts.steps >= len(CASES)
