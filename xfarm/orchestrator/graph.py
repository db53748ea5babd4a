"""The graph of the projects: which depends on the outputs of which."""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import CycleError, TopologicalSorter

from xfarm.errors import UserError
from xfarm.paths import STACKS

Graph = Mapping[str, Iterable[str]]
"""Each project, and the projects that come before it."""


def dependencies() -> dict[str, list[str]]:
    """Return each project with those whose outputs it reads, as declared in `stacks/stacks.toml`.

    Raises:
        UserError: It can't be read, names a project that it doesn't declare, or projects that need each other.
    """
    try:
        graph: dict[str, list[str]] = tomllib.loads((STACKS / "stacks.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not TOML, or not UTF-8
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"stacks/stacks.toml can't be read: {reason}.") from error
    for project, needs in graph.items():
        if not isinstance(needs, list) or not all(isinstance(each, str) for each in needs):
            raise UserError(
                f"stacks/stacks.toml has no list of names for '{project}': write {project} = [] if it needs no others."
            )
    for project, needs in graph.items():
        if unknown := sorted(set(needs) - graph.keys()):
            raise UserError(
                f"stacks/stacks.toml has no project '{unknown[0]}', which '{project}' needs: add a line for it."
            )
    try:
        order(graph)
    except CycleError as error:
        cycle = " needs ".join(f"'{project}'" for project in reversed(error.args[1]))
        raise UserError(
            f"the projects in stacks/stacks.toml need each other ({cycle}): remove one of these dependencies."
        ) from error
    return graph


def dependents(graph: Graph) -> dict[str, list[str]]:
    """Return `graph` with every edge reversed: each project and the projects that read its outputs."""
    return {project: [other for other, needs in graph.items() if project in needs] for project in graph}


def subgraph(graph: Graph, projects: Iterable[str]) -> Graph:
    """Return `graph` with only `projects` in it."""
    kept = set(projects)
    return {project: [other for other in graph[project] if other in kept] for project in graph if project in kept}


def with_dependents(graph: Graph, project: str) -> set[str]:
    """Return `project` and all projects that depend on it, directly or not."""
    found = {project}
    for other in order(graph):
        if found.intersection(graph[other]):
            found.add(other)
    return found


def order(graph: Graph) -> list[str]:
    """Return the projects in order: each after the projects that it depends on.

    Raises:
        graphlib.CycleError: The graph has a cycle.
    """
    return list(TopologicalSorter(graph).static_order())


def walk(graph: Graph, action: Callable[[str], bool]) -> set[str]:
    """Call `action` for each project after the projects that it depends on, and in parallel where possible.

    An action runs an engine and mostly waits. So the executor's default limit applies: the number of cores plus four.

    Args:
        graph: The projects.
        action: Returns whether the projects that depend on this one may follow. If not, they are left out, and so are
            those that depend on them; all others continue.

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
