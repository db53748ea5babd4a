"""Runs Pulumi's engine on one stack at a time, with the Automation API, and explains its errors in one sentence."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Literal, cast

from pulumi.automation import (
    CommandError,
    ConcurrentUpdateError,
    EngineEvent,
    LocalWorkspace,
    OutputMap,
    PulumiCommand,
    Stack,
    UpdateSummary,
)
from pulumi.automation._stack import StackInitMode

from xfarm.errors import UserError
from xfarm.orchestrator import changes, locks, protection, recovery, refusals, scratch, states
from xfarm.orchestrator.changes import CHANGES, Change, PropertyChange, Steps
from xfarm.orchestrator.locks import Claim
from xfarm.orchestrator.pulumi_cli import PulumiCli
from xfarm.orchestrator.scratch import Outputs
from xfarm.paths import STACKS

Operation = Literal["deploy", "preview", "destroy", "drift"]
"""`drift` compares the resources in AWS with the state, as `pulumi refresh --preview-only` does."""

OnEvent = Callable[[EngineEvent], None]
"""Called with each event of the engine."""

OnStackEvent = Callable[[str, EngineEvent], None]
"""Called with the name of the project and each event of the engine on its stack."""


@dataclass
class Report:
    """The result of an operation on one stack."""

    project: str
    outcome: Literal["done", "failed", "stopped", "left out", "absent", "outdated"] = "done"
    reason: str = ""
    changes: dict[str, int] = field(default_factory=dict)
    steps: list[Change] = field(default_factory=list)
    outputs: list[PropertyChange] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def changed(self) -> int:
        """How many resources were, or would be, created, updated, replaced or deleted."""
        return sum(self.changes.get(operation, 0) for operation in CHANGES)


@dataclass
class Preview:
    """The result of a preview of one stack.

    Attributes:
        report: What the operation would do.
        events: The engine's events.
        outputs: The planned outputs of the stack.
        notes: Messages for the user.
        exports: The outputs of the other stacks that the preview used.
        sources: The digest of the program and settings that were previewed.
    """

    report: Report
    events: list[EngineEvent]
    outputs: Outputs
    notes: list[str]
    exports: Mapping[str, Outputs | None]
    sources: str


class _Workspace(LocalWorkspace):
    """A project's folder. Each command names its stack, so no stack has to be selected."""

    def __init__(self, project: str, command: PulumiCommand, options: tuple[str, ...], backend: Path | None) -> None:
        elsewhere = {"PULUMI_BACKEND_URL": backend.as_uri()} if backend else {}
        super().__init__(work_dir=str(STACKS / project), pulumi_command=command, env_vars=elsewhere)
        self._options = options

    def serialize_args_for_op(self, stack_name: str) -> list[str]:  # noqa: ARG002 - as in the base class
        """Return options for every operation that the Automation API has no parameter for."""
        return list(self._options)

    def select_stack(self, stack_name: str) -> None:
        """Do nothing: it would start the CLI once more."""


class _Stack(Stack):
    """A stack without the queries after each update, whose results nobody reads: each one starts the CLI once more."""

    def __init__(
        self, name: str, project: str, command: PulumiCommand, *options: str, backend: Path | None = None
    ) -> None:
        super().__init__(name, _Workspace(project, command, options, backend), StackInitMode.SELECT)

    def outputs(self) -> OutputMap:
        """Return no outputs; `exports` returns them."""
        return {}

    def info(self, show_secrets: bool = True) -> UpdateSummary:  # noqa: ARG002, FBT001, FBT002 - as in the base class
        """Return an empty summary: the events contain all of it."""
        return UpdateSummary("", datetime.now(UTC), "", {}, {}, "")


class Engine:
    """Pulumi, for the stacks of one name: `storage/dev`, `messaging/dev` and so on.

    Args:
        stack: The name of the stacks.
        on_event: Called with each event of the engine.
        notify: Called with each message for the user.
        stopping: Set once no further operation may start.

    Raises:
        UserError: The stacks' state can't be reached.
    """

    def __init__(
        self, stack: str, on_event: OnStackEvent, notify: Callable[[str], None], stopping: Event | None = None
    ) -> None:
        self._stack = stack
        self._stopping = stopping or Event()
        self._on_event = on_event
        self._notify = notify
        self._command = PulumiCli()
        # All states at once, in parallel, rather than several commands for each stack later.
        self._states = states.states(stack)

    def create_missing(self, projects: Iterable[str]) -> None:
        """Create the stacks that don't exist, so that they can be deployed and other stacks can refer to them.

        Raises:
            UserError: The stacks' state can't be reached.
        """

        def create(project: str) -> None:
            try:
                with self._claiming(project) as claim:
                    _Stack(self._stack, project, self._command.under(claim)).workspace.create_stack(self._stack)
            except CommandError as error:
                raise UserError(f"{project}: {explain(error)}.") from error
            except UserError as error:
                raise UserError(f"{project}: {error}") from error
            self._states[project] = {}

        with ThreadPoolExecutor() as pool:
            list(pool.map(create, [project for project in projects if self._states[project] is None]))

    @property
    def previews_in_place(self) -> bool:
        """Whether stacks are previewed in their own backend: Pulumi Cloud, if it has all of them."""
        return not scratch.usable() and None not in self._states.values()

    def resources(self, project: str) -> int:
        """Return how many resources of a project were deployed when this engine was created."""
        return states.managed(scratch.deployment(self._states[project]).get("resources") or [])

    def deployed(self, projects: Iterable[str]) -> list[tuple[str, str]]:
        """Return the types and ids of the resources of projects that were deployed when this engine was created."""
        states = [scratch.resources(self._states[project]) for project in projects]
        return [(resource["type"], resource["id"]) for state in states for resource in state if resource.get("id")]

    def pending(self, project: str) -> set[str]:
        """Return the URNs of the resources of a project whose creation was interrupted."""
        operations = scratch.deployment(self._states[project]).get("pending_operations") or []
        return {operation["resource"]["urn"] for operation in operations if operation["type"] == "creating"}

    def regions(self) -> set[str]:
        """Return the regions that resources were deployed in when this engine was created."""
        found = (scratch.region(resource) for state in self._states.values() for resource in scratch.resources(state))
        return {region for region in found if region}

    def exports(self) -> dict[str, Outputs | None]:
        """Return each project's outputs when this engine was created; None for a stack that was not deployed."""
        return {project: scratch.exported(state) for project, state in self._states.items()}

    def run(self, project: str, operation: Operation, *, refresh: bool = False) -> Report:
        """Deploy or destroy one stack, or compare it with AWS.

        A lock and pending creations that a killed update left behind are resolved first.

        Args:
            project: The project's name, which is also its folder's.
            operation: The operation.
            refresh: Whether to update the state from AWS first.
        """

        def act(on_event: OnEvent) -> None:
            if operation == "drift":
                _Stack(self._stack, project, self._command).preview_refresh(on_event=on_event)
                return
            with self._claiming(project) as claim:
                if claim.released:
                    self._states[project] = vars(_Stack(self._stack, project, self._command).export_stack())
                self._update(project, claim, on_event, destroying=operation == "destroy", refresh=refresh)

        if self._states[project] is None:
            return Report(project, "absent")
        drift = operation == "drift"
        report = _report(project, act, lambda event: self._on_event(project, event), refreshing=drift)
        # Pulumi reports a destruction that Ctrl-C ended early as done.
        if operation == "destroy" and report.outcome == "done" and self._stopping.is_set() and self._remains(project):
            report.outcome = "stopped"
        return report

    def _remains(self, project: str) -> bool:
        return states.managed(scratch.resources(states.states(self._stack, [project])[project])) > 0

    def redirect(self, on_event: OnStackEvent, notify: Callable[[str], None]) -> None:
        """Replace the callbacks for events and messages."""
        self._on_event, self._notify = on_event, notify

    def changed_since(self, preview: Preview, needs: Iterable[str]) -> list[str]:
        """Return what changed since a stack's preview: its state, its program or settings, or outputs that it reads.

        Args:
            preview: The preview.
            needs: The projects whose outputs the stack reads; each of them is deployed already.

        Raises:
            UserError: The stacks' state can't be reached.
        """
        project, needs = preview.report.project, list(needs)
        now = states.states(self._stack, [project, *needs])
        changed = []
        if scratch.resources(now[project]) != scratch.resources(self._states[project]):
            changed.append("its state")
        if scratch.sources(project) != preview.sources:
            changed.append("its program or settings")
        for other in needs:
            planned, actual = preview.exports[other] or {}, scratch.exported(now[other]) or {}
            changed += [
                f"{other}.{output.path}"
                for output in changes.outputs(scratch.known(planned), actual)
                if not scratch.is_unknown(planned.get(output.path))
            ]
        return changed

    def preview(
        self,
        project: str,
        exports: Mapping[str, Outputs | None],
        *,
        refresh: bool = False,
        destroying: bool = False,
    ) -> Preview:
        """Preview the deployment or destruction of one stack, without writing to any state.

        Args:
            project: The project's name, which is also its folder's.
            exports: The outputs of every other project at that time; None for a stack that is not deployed.
            refresh: Whether to read the resources from AWS first.
            destroying: Whether to preview a destruction.
        """
        outputs = scratch.exported(self._states[project]) or {}
        preview = Preview(Report(project), [], outputs, [], exports, scratch.sources(project))
        if destroying and self._states[project] is None:
            preview.report.outcome = "absent"
            return preview
        plan: scratch.Json = {}

        def recover(stack: Stack) -> bool:
            """Change the copy of the state as a deployment would first change the state."""
            if self._recover_interrupted_update(project, stack, lambda _: None, destroying=destroying) is None:
                return False
            preview.notes.append(
                f"{project}: the last update was interrupted or still runs. The plan shows what remains to be done."
            )
            return True

        def act(on_event: OnEvent) -> None:
            in_place = self.previews_in_place
            with nullcontext() if in_place else scratch.backend(self._stack, project, self._states, exports) as folder:
                stack = _Stack(self._stack, project, self._command, backend=folder)
                refreshing = (folder is not None and recover(stack)) or refresh
                if destroying:
                    stack = _Stack(self._stack, project, self._command, "--ignore-protect", backend=folder)
                    stack.preview_destroy(on_event=on_event, refresh=refreshing)
                    return
                with self._protecting(project, on_event) as watch:
                    path = str(folder / "plan.json") if folder else None
                    stack.preview(on_event=watch, refresh=refreshing, plan=path)
                if path:
                    plan.update(json.loads(Path(path).read_text(encoding="utf-8")))

        preview.report = _report(project, act, preview.events.append)
        if plan:
            now = self.exports()
            steps = Steps()
            for event in preview.events:
                steps.record(event)
            preview.outputs = changes.hide(scratch.planned(plan), steps.generated_names)
            changed = {other: changes.outputs(now[other] or {}, exports[other] or {}) for other in exports}
            preview.report.steps = changes.caused(preview.report.steps, plan, changed)
            preview.report.outputs = changes.outputs(now[project] or {}, preview.outputs)
        return preview

    def _update(self, project: str, claim: Claim, on_event: OnEvent, *, destroying: bool, refresh: bool) -> None:
        command = self._command.under(claim)
        stack = _Stack(self._stack, project, command)

        def record_lock(_event: EngineEvent) -> None:
            claim.locked()

        if (names := self._recover_interrupted_update(project, stack, record_lock, destroying=destroying)) is not None:
            refresh = True
            what = ", ".join(names)
            self._notify(f"{project}: the last update was interrupted. Looking for what it did{what and ' to '}{what}.")
        if destroying:
            stack = _Stack(self._stack, project, command, "--ignore-protect")
        elif protection.unprotected(scratch.deployment(self._states[project])):
            with self._protecting(project, _errors_only(on_event)) as watch:
                stack.preview(on_event=watch, refresh=refresh)

        def update(record: OnEvent, again: bool) -> None:  # noqa: FBT001
            def on_each(event: EngineEvent) -> None:
                record_lock(event)
                record(event)
                on_event(event)

            if destroying:
                stack.destroy(on_event=on_each, refresh=refresh or again)
                return
            with self._protecting(project, on_each) as watch:
                stack.up(on_event=watch, refresh=refresh or again)

        refusals.update_with_retries(project, stack, update, self._notify, self._stopping)

    def _protecting(self, project: str, on_event: OnEvent) -> AbstractContextManager[OnEvent]:
        """Refuse an update of a stack that would delete what holds files or messages."""
        return protection.refusing(scratch.deployment(self._states[project]), project, self._stack, on_event)

    @contextmanager
    def _claiming(self, project: str) -> Iterator[Claim]:
        """Claim a project's stack, and say which locks of dead owners were released.

        Raises:
            UserError: The stack is locked, and its owner runs, or may still run.
        """
        with locks.claim(os.environ.get("PULUMI_BACKEND_URL", ""), project, self._stack, self._notify) as claim:
            for lock in claim.released:
                self._notify(f"{project}: released the lock of {lock}, as its owner has ended.")
            yield claim

    def _recover_interrupted_update(
        self, project: str, stack: Stack, on_event: OnEvent, *, destroying: bool
    ) -> list[str] | None:
        """Resolve the pending operations of an interrupted update.

        Args:
            project: The stack's project.
            stack: The stack.
            on_event: Called with each event of the refresh.
            destroying: Whether the stack is about to be destroyed, so that no resource may be forgotten.

        Returns:
            The names of the resources that a refresh has to look for; None if no operation was pending.
        """
        if not scratch.deployment(self._states[project]).get("pending_operations"):
            return None
        # It takes the stack's lock, so no other update is running. Only creations are pending afterwards.
        stack.refresh(on_event=on_event)
        state = stack.export_stack()
        names = recovery.resolve_pending_creates(cast("dict[str, Any]", state.deployment), destroying=destroying)
        stack.import_stack(state)
        return names


def _report(project: str, act: Callable[[OnEvent], None], on_event: OnEvent, *, refreshing: bool = False) -> Report:
    """Run an operation on a stack, and return its result.

    Args:
        project: The stack's project.
        act: Runs the operation. Its argument is a callback for the engine's events.
        on_event: Called with each event too.
        refreshing: Whether to report the changes that a refresh finds.
    """
    report = Report(project)
    started = monotonic()
    steps = Steps(refreshing=refreshing)
    shown = False

    def record(event: EngineEvent) -> None:
        nonlocal shown
        steps.record(event)
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            shown = True
        on_event(event)

    try:
        act(record)
    except CommandError as error:
        report.outcome = "failed"
        report.reason = "see the errors above" if shown else explain(error)
    except UserError as error:
        report.outcome = "failed"
        report.reason = str(error).removesuffix(".")
    report.changes = steps.tally
    report.steps = steps.changes
    report.seconds = monotonic() - started
    return report


def _errors_only(on_event: OnEvent) -> OnEvent:
    """Return a callback that calls `on_event` with errors only."""

    def on_error(event: EngineEvent) -> None:
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            on_event(event)

    return on_error


def explain(error: CommandError) -> str:
    """Return why Pulumi failed, as one sentence."""
    text = str(error)
    if isinstance(error, ConcurrentUpdateError):
        return locks.conflict(text)
    if "incorrect passphrase" in text:
        names = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
        name = next((name for name in names if os.environ.get(name)), names[0])
        return f"{name} holds another passphrase than the stacks have, an empty one unless you changed it: unset {name}"
    # The lines of a list of errors are indented, for instance those about a file that is not YAML.
    errors = re.findall(r"error: (.+(?:\n[ \t]+.+)*)", text)
    return " ".join(" ".join(errors).split()) or text
