"""The names that a stack's resources have, and the partition that their ARNs are in."""

import json
import re
from typing import Any

import pulumi
import pytest

from shared import names
from tests.support import stack_program
from tests.support.stack_program import UPSTREAM, Program
from xfarm.orchestrator import existing
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT

NAMED_BY = ("name", "bucket", "queueUrl", "role", "functionName", "topic")
"""The properties that identify a resource in AWS: its own name, or the resource that it belongs to."""


def programs(stack: str, answers: stack_program.Answers | None = None) -> dict[str, Program]:
    """Return the programs of a stack, each with the outputs of the others."""
    run: dict[str, Program] = {}
    for project in dependencies():
        outputs = {name: program.outputs for name, program in run.items()}
        settings = {"bucketName": f"files-{stack}"} if project == "storage" else {"alarmEmail": "ops@example.org"}
        run[project] = stack_program.run(project, settings, upstream=outputs, stack=stack, answers=answers)
    return run


def test_every_resource_of_another_stack_has_the_stack_s_name_in_its_own() -> None:
    found = {
        name: [name, *(str(resource[key]) for key in NAMED_BY if key in resource)]
        for program in programs("prod").values()
        for name, resource in program.resources.items()
    }
    assert len(found) > 20
    assert {name: parts for name, parts in found.items() if "prod" not in "".join(parts)} == {}


def test_no_two_stacks_have_a_name_in_common() -> None:
    def own(stack: str) -> set[str]:
        return {
            resource.get("name") or resource["bucket"]
            for program in programs(stack).values()
            for kind, resource in zip(program.types.values(), program.resources.values(), strict=True)
            if "name" in resource or kind == "aws:s3/bucket:Bucket"
        }

    assert len(own("prod")) == 7
    assert own("prod").isdisjoint(own("dev"))
    assert own("prod").isdisjoint(own("prod-us"))


@pytest.mark.parametrize("stack", ["dev", "local"])
def test_dev_and_local_have_the_plain_names(stack: str) -> None:
    run = programs(stack)
    assert run["messaging"].resources["main-queue"]["name"] == "xFarmMainQueue"
    assert run["messaging"].resources["dead-letter-queue"]["name"] == "xFarmDeadLetterSqs"
    assert run["compute"].resources["function"]["name"] == "xFarmLambdaFunction"
    assert run["compute"].resources["role"]["name"] == "xFarmLambdaRole"
    assert run["compute"].resources["log-group"]["name"] == "/aws/lambda/xFarmLambdaFunction"


def test_the_longest_name_of_a_stack_fits_everywhere() -> None:
    stack = "a" * 40
    assert names.fits(stack)
    assert not names.fits(stack + "a")
    limits = {"main-queue": 80, "dead-letter-queue": 80, "alarms": 256, "function": 64, "role": 64, "log-group": 512}
    declared = {name: resource for program in programs(stack).values() for name, resource in program.resources.items()}
    assert {name: len(declared[name]["name"]) <= limit for name, limit in limits.items()} == dict.fromkeys(limits, True)


@pytest.mark.parametrize("stack", ["", "Prod", "pro_d", "prod.eu", "1prod", "prod-", "a" * 41])
@pytest.mark.parametrize("project", ["messaging", "compute"])
def test_a_stack_name_that_does_not_fit_is_refused(project: str, stack: str) -> None:
    assert not names.fits(stack)
    if stack:
        with pytest.raises(pulumi.RunError, match=f"the stack's name '{stack}' is part of .* must be a lower-case"):
            stack_program.run(project, upstream=UPSTREAM, stack=stack)


class China(stack_program.Answers):
    partition = "aws-cn"


def test_every_arn_is_in_the_partition_of_the_account() -> None:
    texts = [json.dumps(_plain(program.resources)) for program in programs("dev", China()).values()]
    partitions = re.findall(r"\barn:([\w-]*):", "".join(texts))
    assert set(partitions) == {"aws-cn"}
    assert "arn:aws-cn:iam::aws:policy/AmazonS3FullAccess" in "".join(texts)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any property
    """Return `value` without what JSON can't hold."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else str(value)


def test_no_source_has_an_arn_of_one_partition() -> None:
    sources = [path for room in ("stacks", "shared", "xfarm", "lambda_code") for path in (ROOT / room).rglob("*.py")]
    assert [path.name for path in sources if "arn:aws:" in path.read_text(encoding="utf-8")] == []
    assert [path.name for path in sources if "aws.iam.ManagedPolicy" in _code(path.read_text(encoding="utf-8"))] == []


def _code(source: str) -> str:
    return re.sub(r"#.*", "", source)


def test_every_name_can_be_looked_up_before_a_deployment() -> None:
    named = {
        kind
        for program in programs("prod").values()
        for kind, resource in zip(program.types.values(), program.resources.values(), strict=True)
        if "name" in resource
    }
    missing = named - existing.KINDS.keys()
    assert not missing, f"add {missing} to KINDS and _LOOKUPS in xfarm/orchestrator/existing.py"
    assert existing.KINDS.keys() <= existing._LOOKUPS.keys()  # noqa: SLF001 - what the message names
