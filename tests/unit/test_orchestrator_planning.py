"""The order of previews: each uses the planned outputs of the stacks before it, in as few previews as possible."""

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from xfarm.orchestrator.engine import Preview, Report
from xfarm.orchestrator.planning import Exports, Planner
from xfarm.orchestrator.scratch import Outputs

CHAIN = {"top": [], "middle": ["top"], "bottom": ["top", "middle"]}


class Stacks:
    """Fake stacks, whose planned outputs a test sets; some include the outputs of others."""

    def __init__(self, graph: dict[str, list[str]], deployed: dict[str, Outputs | None]) -> None:
        self.graph = graph
        self.deployed = deployed
        self.own: dict[str, str] = {}
        self.copies: set[str] = set()
        self.failing: set[str] = set()
        self.stopping = threading.Event()
        self.previews: Counter[str] = Counter()
        self.shown: dict[str, Outputs] = {}

    def outputs(self, project: str, exports: Exports) -> Outputs:
        own = self.own.get(project, "old")
        return (
            {"own": own, "read": {other: exports[other] for other in self.graph[project]}}
            if (project in self.copies)
            else {"own": own}
        )

    def preview(self, project: str, exports: Exports) -> Preview:
        self.previews[project] += 1
        report = Report(project, "failed" if project in self.failing else "done")
        outputs = (self.deployed[project] or {}) if project in self.failing else self.outputs(project, exports)
        return Preview(report, [], outputs, [str(exports[other]) for other in self.graph[project]], exports, "")

    def show(self, found: Preview) -> bool:
        project = found.report.project
        assert project not in self.shown
        assert set(self.graph[project]) <= self.shown.keys()
        assert found.notes == [str(self.shown[other]) for other in self.graph[project]]
        self.shown[project] = found.outputs
        return found.report.outcome != "failed"

    def plan(self) -> set[str]:
        return Planner(self.graph, self.deployed, self.preview, self.show, self.stopping).walk()


def deployed(graph: dict[str, list[str]]) -> dict[str, Outputs | None]:
    return {project: {"own": "old"} for project in graph}


def test_without_changes_each_stack_is_previewed_once() -> None:
    stacks = Stacks(CHAIN, deployed(CHAIN))
    assert stacks.plan() == set()
    assert stacks.previews == {"top": 1, "middle": 1, "bottom": 1}


def test_deployed_stacks_are_previewed_in_parallel() -> None:
    together = threading.Barrier(3)

    class Together(Stacks):
        def preview(self, project: str, exports: Exports) -> Preview:
            together.wait(timeout=10)
            return super().preview(project, exports)

    assert Together(CHAIN, deployed(CHAIN)).plan() == set()


def test_a_changed_output_reaches_every_stack_that_reads_it() -> None:
    stacks = Stacks(CHAIN, deployed(CHAIN))
    stacks.own["top"] = "new"
    assert stacks.plan() == set()
    assert stacks.previews["top"] == 1
    assert {stacks.previews["middle"], stacks.previews["bottom"]} <= {1, 2}


def test_a_stack_waits_for_those_never_deployed() -> None:
    stacks = Stacks(CHAIN, dict.fromkeys(CHAIN))
    assert stacks.plan() == set()
    assert stacks.previews == {"top": 1, "middle": 1, "bottom": 1}


def test_stacks_that_need_a_failed_one_are_left_out_and_the_others_shown() -> None:
    graph = {**CHAIN, "alone": []}
    stacks = Stacks(graph, deployed(graph))
    stacks.failing = {"middle"}
    assert stacks.plan() == {"bottom"}
    assert stacks.shown.keys() == {"top", "middle", "alone"}


def test_after_ctrl_c_no_preview_starts() -> None:
    stacks = Stacks(CHAIN, deployed(CHAIN))
    stacks.stopping.set()
    assert stacks.plan() == set(CHAIN)
    assert not stacks.previews


def test_a_stack_alone_is_previewed_with_current_outputs() -> None:
    stacks = Stacks({"bottom": []}, {"top": {"own": "old"}, "bottom": None})
    assert stacks.plan() == set()


NAMES = [str(number) for number in range(6)]


@given(st.data())
def test_each_stack_is_shown_once_with_the_outputs_that_were_shown_before(data: st.DataObject) -> None:
    graph = {
        name: data.draw(st.lists(st.sampled_from(NAMES[:number]), unique=True)) if number else []
        for number, name in enumerate(NAMES)
    }
    before = {name: data.draw(st.sampled_from([None, {"own": "old"}])) for name in NAMES}
    stacks = Stacks(graph, before)
    stacks.own = data.draw(st.dictionaries(st.sampled_from(NAMES), st.just("new")))
    stacks.copies = data.draw(st.sets(st.sampled_from(NAMES)))
    stacks.failing = data.draw(st.sets(st.sampled_from(NAMES), max_size=2))
    left_out = stacks.plan()
    reached = {name for name in NAMES if name not in left_out}
    assert reached == stacks.shown.keys()
    for name in NAMES:
        blocked = any(other in left_out or other in stacks.failing for other in graph[name])
        assert (name in left_out) is blocked
