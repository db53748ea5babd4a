"""What the stacks are compared with, and what is said to have taken the time."""

import re
from collections import Counter

from benchmarks.deployment import PEER, Deployed, critical_path
from tests.support import stack_program
from xfarm.orchestrator.graph import dependencies
from xfarm.toolchain.aws_types import terraform_name

ALARMS = 5
"""One block of the peer's, for each of five."""


def test_the_peer_declares_what_the_stacks_declare() -> None:
    stacks = [stack_program.run(project, upstream=stack_program.UPSTREAM) for project in dependencies()]
    ours = Counter(terraform_name(token) for stack in stacks for token in stack.types.values())
    text = "".join(path.read_text(encoding="utf-8") for path in (PEER / "main.tf", PEER / "same_graph" / "redrive.tf"))
    theirs = Counter(re.findall(r'^resource "(\w+)"', text, re.MULTILINE))
    theirs["aws_cloudwatch_metric_alarm"] *= ALARMS
    assert theirs == ours


def test_the_critical_path_goes_back_from_the_last_by_what_each_waited_for_longest() -> None:
    deployed = Deployed(
        begun=100.0,
        finished={"bucket": 101.0, "queue": 126.0, "topic": 100.5, "policy": 151.0, "alarm": 126.5},
        needs={"bucket": [], "topic": [], "queue": ["bucket"], "policy": ["queue", "bucket"], "alarm": ["topic"]},
    )
    assert critical_path(deployed) == [("bucket", 1.0), ("queue", 25.0), ("policy", 25.0)]
