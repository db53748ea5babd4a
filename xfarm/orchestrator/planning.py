"""Previews the stacks in such an order that each is shown against what the stacks before it will export."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from xfarm.orchestrator.engine import Preview
from xfarm.orchestrator.graph import Graph, order
from xfarm.orchestrator.scratch import Outputs

Exports = Mapping[str, Outputs | None]
"""What each project exports, or None where it is not deployed."""


class Planner:
    """Previews each project against the planned outputs of those before it.

    Where those are deployed, a project doesn't wait for them: most changes leave what a stack exports as it is. If they
    turn out to export something else, it is previewed again.

    Args:
        graph: The projects, each with those whose outputs it reads.
        deployed: What every project exports now, also those that are not in `graph`.
        preview: Previews one against what the others export.
        show: Shows what was found, of each project after those it needs; returns whether it can be deployed.
        stopping: Set when nothing more is to be started.
    """

    def __init__(
        self,
        graph: Graph,
        deployed: Exports,
        preview: Callable[[str, Exports], Preview],
        show: Callable[[Preview], bool],
        stopping: Event,
    ) -> None:
        self._graph = {project: set(needs) for project, needs in graph.items()}
        self._exports = dict(deployed)
        self._preview = preview
        self._show = show
        self._stopping = stopping
        self._found: dict[str, tuple[Exports, Preview]] = {}
        self._good: set[str] = set()
        self._shown: set[str] = set()

    def walk(self) -> set[str]:
        """Preview and show all projects that can be; return the others, which need one that can't be deployed."""
        running: dict[Future[tuple[Exports, Preview]], str] = {}
        with ThreadPoolExecutor() as pool:
            while True:
                for project in order(self._graph):
                    if project in self._shown or project in running.values():
                        continue
                    if self._settled(project):
                        self._end(project)
                    elif self._worthwhile(project) and not self._stopping.is_set():
                        running[pool.submit(self._run, project, dict(self._exports))] = project
                if not running:
                    return self._graph.keys() - self._shown
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    project = running.pop(done)
                    self._found[project] = done.result()
                    self._exports[project] = self._found[project][1].outputs

    def _run(self, project: str, exports: Exports) -> tuple[Exports, Preview]:
        return exports, self._preview(project, exports)

    def _up_to_date(self, project: str) -> bool:
        """Return whether a project was previewed against what those that it needs are now known to export."""
        if project not in self._found:
            return False
        used = self._found[project][0]
        return all(used[other] == self._exports[other] for other in self._graph[project])

    def _settled(self, project: str) -> bool:
        return self._graph[project] <= self._good and self._up_to_date(project)

    def _worthwhile(self, project: str) -> bool:
        """Return whether there is something to find: those that it needs are certain, or likely to stay as they are."""
        waiting_for = self._graph[project] - self._good
        failed = waiting_for & self._shown
        deployed = all(self._exports[other] is not None for other in waiting_for)
        return deployed and not failed and not self._up_to_date(project)

    def _end(self, project: str) -> None:
        self._shown.add(project)
        if self._show(self._found[project][1]):
            self._good.add(project)
