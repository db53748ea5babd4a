"""A deployment of the pipeline does what its plan shows: changes of `storage` and `messaging`."""

import json

from tests.support import stress
from tests.support.checkout import Checkout
from tests.support.planned import check_all, setting


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


CASES = [
    setting("storage", inputPrefix="drop/"),
    setting("storage", outputPrefix="results/"),
    setting("messaging", maxReceiveCount=7),
    setting("messaging", deadLetterAlarmCount=2, oldestMessageAlarmSeconds=600),
    setting("messaging", alarmEmail="anna@example.com"),
    setting("messaging", consumerTimeoutSeconds=30),
]


def test_each_change_does_what_its_plan_shows(pipeline: Checkout) -> None:
    check_all(pipeline, CASES, changes_with_mays=0)
