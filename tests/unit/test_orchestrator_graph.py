"""The order of the projects, and which of them are left out if one fails."""

import re
import threading
from graphlib import CycleError
from pathlib import Path

import pytest

from xfarm.errors import UserError
from xfarm.orchestrator import graph

DIAMOND = {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"], "alone": []}


def test_each_project_comes_after_those_it_depends_on() -> None:
    order = graph.order(DIAMOND)
    assert sorted(order) == sorted(DIAMOND)
    for project, needs in DIAMOND.items():
        assert all(order.index(other) < order.index(project) for other in needs)


def test_a_cycle_has_no_order() -> None:
    with pytest.raises(CycleError):
        graph.order({"hen": ["egg"], "egg": ["hen"]})


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (
            'hen = ["egg"]\negg = ["hen"]\n',
            "need each other ('hen' needs 'egg' needs 'hen'): remove one of these dependencies.",
        ),
        ("hen = [", "stacks/stacks.toml can't be read: "),
        ("h\0n = []", "stacks/stacks.toml can't be read: "),
        ('hen = "egg"', "has no list of names for 'hen': write hen = [] if it needs no others."),
        ("hen = 1", "has no list of names for 'hen': write hen = []"),
        ("[hen]\negg = []", "has no list of names for 'hen': write hen = []"),
        ("hen = [1]", "has no list of names for 'hen': write hen = []"),
        ('hen = ["cock"]\n', "has no project 'cock', which 'hen' needs: add a line for it."),
    ],
)
def test_stacks_that_cannot_be_put_in_order_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str, sentence: str
) -> None:
    monkeypatch.setattr(graph, "STACKS", tmp_path)
    (tmp_path / "stacks.toml").write_text(declared, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(sentence)):
        graph.dependencies()


@pytest.mark.parametrize("content", [None, b"hen = []\xff"])
def test_a_declaration_of_the_stacks_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(graph, "STACKS", tmp_path)
    if content:
        (tmp_path / "stacks.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"stacks/stacks\.toml can't be read: .+\."):
        graph.dependencies()


def test_the_real_stacks_are_what_their_folders_say() -> None:
    declared = graph.dependencies()
    assert set(declared) == {path.parent.name for path in graph.STACKS.glob("*/Pulumi.yaml")}
    order = graph.order(declared)
    assert [project for project in order if project in {"storage", "messaging", "compute"}] == [
        "storage",
        "messaging",
        "compute",
    ]


def test_dependents_are_the_reversed_dependencies() -> None:
    assert graph.dependents(DIAMOND) == {
        "top": ["left", "right"],
        "left": ["bottom"],
        "right": ["bottom"],
        "bottom": [],
        "alone": [],
    }
    assert graph.dependents(graph.dependents(DIAMOND)) == DIAMOND


def test_a_subgraph_has_no_edge_to_a_project_outside_of_it() -> None:
    assert graph.subgraph(DIAMOND, ["left", "bottom"]) == {"left": [], "bottom": ["left"]}


@pytest.mark.parametrize(
    ("project", "wanted"),
    [("top", {"top", "left", "right", "bottom"}), ("left", {"left", "bottom"}), ("alone", {"alone"})],
)
def test_dependents_include_indirect_ones(project: str, wanted: set[str]) -> None:
    assert graph.with_dependents(DIAMOND, project) == wanted


def test_a_walk_visits_every_project_in_order() -> None:
    seen: list[str] = []

    def action(project: str) -> bool:
        seen.append(project)
        return True

    assert graph.walk(DIAMOND, action) == set()
    assert sorted(seen) == sorted(DIAMOND)
    assert seen.index("top") < min(seen.index("left"), seen.index("right"))
    assert seen[-1] == "bottom" or seen[-2:] == ["bottom", "alone"]


@pytest.mark.parametrize(
    ("failing", "left_out"),
    [("top", {"left", "right", "bottom"}), ("left", {"bottom"}), ("alone", set()), ("bottom", set())],
)
def test_only_dependents_of_a_failed_project_are_left_out(failing: str, left_out: set[str]) -> None:
    seen: list[str] = []

    def action(project: str) -> bool:
        seen.append(project)
        return project != failing

    assert graph.walk(DIAMOND, action) == left_out
    assert set(seen) == set(DIAMOND) - left_out


def test_independent_projects_run_in_parallel() -> None:
    together = threading.Barrier(2)

    def action(project: str) -> bool:
        if project in {"left", "right"}:
            together.wait(timeout=10)
        return True

    assert graph.walk(DIAMOND, action) == set()


def test_an_error_in_an_action_is_raised() -> None:
    def action(project: str) -> bool:
        raise RuntimeError(project)

    with pytest.raises(RuntimeError, match="top"):
        graph.walk({"top": []}, action)


def test_a_walk_of_an_empty_graph_ends() -> None:
    assert graph.walk({}, lambda _: True) == set()
