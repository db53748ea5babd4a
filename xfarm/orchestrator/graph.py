"""The graph of the stacks: which there are, and which must stand before which."""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import CycleError, TopologicalSorter

from xfarm.errors import UserError
from xfarm.paths import STACKS

Graph = Mapping[str, Iterable[str]]
"""Each project's name, and the names of the projects that must be dealt with before it."""


def dependencies() -> dict[str, list[str]]:
    """Return each project with those whose outputs it reads, as declared in `stacks/stacks.toml`.

    Raises:
        UserError: It names a stack that it doesn't declare, or stacks that need each other.
    """
    graph: dict[str, list[str]] = tomllib.loads((STACKS / "stacks.toml").read_text(encoding="utf-8"))
    for project, needs in graph.items():
        if unknown := sorted(set(needs) - graph.keys()):
            raise UserError(
                f"stacks/stacks.toml has no stack '{unknown[0]}', which '{project}' needs: add a line for it."
            )
    try:
        order(graph)
    except CycleError as error:
        cycle = " needs ".join(f"'{project}'" for project in reversed(error.args[1]))
        raise UserError(f"the stacks in stacks/stacks.toml need each other ({cycle}): remove one of these.") from error
    return graph


def dependents(graph: Graph) -> dict[str, list[str]]:
    """Return ``graph`` with every arrow turned round: each project with those that read its outputs."""
    return {project: [other for other, needs in graph.items() if project in needs] for project in graph}


def part(graph: Graph, projects: Iterable[str]) -> Graph:
    """Return ``graph`` with no others than ``projects``."""
    kept = set(projects)
    return {project: [other for other in graph[project] if other in kept] for project in graph if project in kept}


def with_dependents(graph: Graph, project: str) -> set[str]:
    """Return ``project`` and all that needs it, directly or not."""
    found = {project}
    for other in order(graph):
        if found.intersection(graph[other]):
            found.add(other)
    return found


def order(graph: Graph) -> list[str]:
    """Return the projects in an order in which each comes after those it needs.

    Raises:
        graphlib.CycleError: There is no such order.
    """
    return list(TopologicalSorter(graph).static_order())


def walk(graph: Graph, action: Callable[[str], bool]) -> set[str]:
    """Call ``action`` for each project, side by side where nothing stands between them.

    At most four more than the machine has cores run at once, the executor's own measure for what mostly waits: each is
    an engine, with a program to run.

    ``action`` answers whether what needs the project may go on. Where it answers no, all that needs the project,
    directly or not, is left out; what does not need it goes on.

    Returns:
        The projects that were left out.
    """
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    running: dict[Future[bool], str] = {}
    left_out = set(graph)
    with ThreadPoolExecutor() as pool:
        while True:
            for project in sorter.get_ready():
                left_out.discard(project)
                running[pool.submit(action, project)] = project
            if not running:
                return left_out
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                project = running.pop(done)
                if done.result():
                    sorter.done(project)
