"""Runs Pulumi's engine on one stack at a time, by the Automation API, and says in a sentence what went wrong."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

from pulumi.automation import (
    CommandError,
    ConcurrentUpdateError,
    EngineEvent,
    LocalWorkspace,
    PulumiCommand,
    Stack,
    StackNotFoundError,
)

from orchestrator.graph import STACKS, dependencies, order
from shared.errors import UserError

Operation = Literal["deploy", "preview", "destroy", "drift"]
"""`drift` compares what is really there with the state, as ``pulumi refresh --preview-only`` does."""
OnEvent = Callable[[str, EngineEvent], None]

CHANGES = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
"""The engine's operations that change a resource, and what has been done to it afterwards."""


@dataclass
class Report:
    """What an operation did to one stack."""

    project: str
    outcome: Literal["done", "failed", "left out", "absent"] = "done"
    reason: str = ""
    changes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def changed(self) -> int:
        """How many resources were, or would be, created, updated, replaced or deleted."""
        return sum(self.changes.get(operation, 0) for operation in CHANGES)


class Engine:
    """Pulumi, for the stacks of one name: ``storage/dev``, ``messaging/dev`` and so on."""

    def __init__(self, stack: str, on_event: OnEvent) -> None:
        self._stack = stack
        self._on_event = on_event
        self._command = PulumiCommand()

    def open(self, project: str, *, create: bool) -> Stack | None:
        """Return the stack of a project, or nothing where it does not exist and is not to be created.

        Raises:
            UserError: The stacks' state can't be reached.
        """
        workspace = LocalWorkspace(work_dir=str(STACKS / project), pulumi_command=self._command)
        try:
            return Stack.select(self._stack, workspace)
        except StackNotFoundError:
            return Stack.create(self._stack, workspace) if create else None
        except CommandError as error:
            raise UserError(f"{project}: {explain(error)}.") from error

    def resources(self, project: str) -> int:
        """Return how many resources of a project are deployed."""
        stack = self.open(project, create=False)
        if stack is None:
            return 0
        deployment = stack.export_stack().deployment or {}
        resources = deployment.get("resources", [])
        return sum(not resource["type"].startswith("pulumi:") for resource in resources)

    def run(self, project: str, operation: Operation, *, refresh: bool = False) -> Report:
        """Deploy, preview or destroy one stack, or look for drift in it.

        Args:
            project: The name of the project, which is that of its folder.
            operation: What to do.
            refresh: Whether to look first at what is really there, rather than trust the state.
        """
        report = Report(project)
        started = monotonic()
        shown = False

        def on_event(event: EngineEvent) -> None:
            nonlocal shown
            if event.summary_event:
                report.changes = {str(operation): n for operation, n in event.summary_event.resource_changes.items()}
            if event.diagnostic_event and event.diagnostic_event.severity == "error":
                shown = True
            self._on_event(project, event)

        try:
            stack = self.open(project, create=operation in {"deploy", "preview"})
            if stack is None:
                report.outcome = "absent"
            elif operation == "deploy":
                stack.up(on_event=on_event, refresh=refresh)
            elif operation == "preview":
                stack.preview(on_event=on_event, refresh=refresh)
            elif operation == "destroy":
                stack.destroy(on_event=on_event, refresh=refresh)
            else:
                stack.preview_refresh(on_event=on_event)
        except CommandError as error:
            report.outcome = "failed"
            report.reason = "see the errors above" if shown else explain(error)
        report.seconds = monotonic() - started
        return report


def exports(stack: str) -> dict[str, dict[str, Any] | None]:
    """Return what each project's stack of this name exports, or nothing where it was never made.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    command = PulumiCommand()

    def read(project: str) -> dict[str, Any] | None:
        try:
            answer = command.run(["stack", "output", "--json", "--stack", stack], str(STACKS / project), {})
        except StackNotFoundError:
            return None
        except CommandError as error:
            raise UserError(f"{project}: {explain(error)}.") from error
        return json.loads(answer.stdout)

    projects = order(dependencies())
    with ThreadPoolExecutor() as pool:
        return dict(zip(projects, pool.map(read, projects), strict=True))


def explain(error: CommandError) -> str:
    """Return in a sentence why Pulumi failed."""
    text = str(error)
    if isinstance(error, ConcurrentUpdateError):
        lock = re.search(r"created by (?P<who>.+) \(pid (?P<pid>\d+)\) at (?P<when>\S+)", text)
        holder = f" by {lock['who']} (process {lock['pid']}) since {lock['when']}" if lock else ""
        return (
            f"the stack is locked{holder}, and nothing was changed: wait for that update to end, "
            "or, where it no longer runs, release the lock with 'pulumi cancel'"
        )
    said = re.findall(r"error: (.+)", text)
    return " ".join(said) or text
