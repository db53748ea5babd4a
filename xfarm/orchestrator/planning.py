"""Previews the stacks in order of dependency, each with the planned outputs of the stacks before it."""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event

from xfarm.orchestrator.engine import Preview
from xfarm.orchestrator.graph import Graph, order
from xfarm.orchestrator.scratch import Outputs

Exports = Mapping[str, Outputs | None]
"""The outputs of each project; None for a stack that is not deployed."""


class Planner:
    """Previews each project with the planned outputs of the projects that it needs.

    A project doesn't wait for deployed projects, as most changes leave their outputs as they are. If their outputs do
    change, it is previewed again.

    Args:
        graph: The projects, each with those whose outputs it reads.
        deployed: The current outputs of all projects, including those that are not in `graph`.
        preview: Previews a project, given the outputs of the others.
        show: Shows the preview of a project, after those of the projects that it needs; returns whether the project can
            be deployed.
        stopping: Set once no further preview may start.
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
        self._previews: dict[str, tuple[Exports, Preview]] = {}
        self._deployable: set[str] = set()
        self._shown: set[str] = set()

    def walk(self) -> set[str]:
        """Preview and show the projects; return those left out because they need one that can't be deployed."""
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
                    self._previews[project] = done.result()
                    self._exports[project] = self._previews[project][1].outputs

    def _run(self, project: str, exports: Exports) -> tuple[Exports, Preview]:
        return exports, self._preview(project, exports)

    def _up_to_date(self, project: str) -> bool:
        """Return whether a project was previewed with the outputs that the projects it needs are now known to have."""
        if project not in self._previews:
            return False
        used = self._previews[project][0]
        return all(used[other] == self._exports[other] for other in self._graph[project])

    def _settled(self, project: str) -> bool:
        return self._graph[project] <= self._deployable and self._up_to_date(project)

    def _worthwhile(self, project: str) -> bool:
        """Return whether to preview a project now: the outputs that it reads are planned, or likely to stay."""
        waiting_for = self._graph[project] - self._deployable
        failed = waiting_for & self._shown
        deployed = all(self._exports[other] is not None for other in waiting_for)
        return deployed and not failed and not self._up_to_date(project)

    def _end(self, project: str) -> None:
        self._shown.add(project)
        if self._show(self._previews[project][1]):
            self._deployable.add(project)
