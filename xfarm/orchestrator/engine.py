"""Runs Pulumi's engine on one stack at a time, by the Automation API, and says in a sentence what went wrong."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Literal, cast

from pulumi.automation import (
    CommandError,
    ConcurrentUpdateError,
    Deployment,
    EngineEvent,
    LocalWorkspace,
    OutputMap,
    PulumiCommand,
    Stack,
    StackNotFoundError,
    UpdateSummary,
)
from pulumi.automation._stack import StackInitMode
from pulumi.automation.errors import InvalidVersionError
from semver import VersionInfo

from xfarm.errors import UserError
from xfarm.orchestrator import changes, locks, protection, recovery, refusals, scratch
from xfarm.orchestrator.changes import CHANGES, Change, PropertyChange, Steps
from xfarm.orchestrator.graph import dependencies, order
from xfarm.orchestrator.locks import Claim
from xfarm.orchestrator.pulumi_cli import PulumiCli
from xfarm.orchestrator.scratch import Outputs
from xfarm.paths import STACKS

Operation = Literal["deploy", "preview", "destroy", "drift"]
Hear = Callable[[EngineEvent], None]
"""`drift` compares what is really there with the state, as `pulumi refresh --preview-only` does."""
OnEvent = Callable[[str, EngineEvent], None]


@dataclass
class Report:
    """What an operation did to one stack."""

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
    """What a preview of one stack found.

    Attributes:
        report: What would be done.
        events: What the engine said.
        outputs: What the stack will export.
        notes: What was done besides, in lines for people.
        exports: What it took the other stacks to export.
        sources: The digest of the program and the settings that it was made of.
    """

    report: Report
    events: list[EngineEvent]
    outputs: Outputs
    notes: list[str]
    exports: Mapping[str, Outputs | None]
    sources: str


class _Workspace(LocalWorkspace):
    """A project's folder; every command run in it names its stack, so that none has to be selected."""

    def __init__(self, project: str, command: PulumiCommand, options: tuple[str, ...], backend: Path | None) -> None:
        elsewhere = {"PULUMI_BACKEND_URL": backend.as_uri()} if backend else {}
        super().__init__(work_dir=str(STACKS / project), pulumi_command=command, env_vars=elsewhere)
        self._options = options

    def serialize_args_for_op(self, stack_name: str) -> list[str]:  # noqa: ARG002 - as in the base class
        """Return the options that every operation is given, besides those that the Automation API knows."""
        return list(self._options)

    def select_stack(self, stack_name: str) -> None:
        """Do without: it would start the CLI once more."""


class _Stack(Stack):
    """A stack that is not asked after each update what nobody reads here: each question starts the CLI once more."""

    def __init__(
        self, name: str, project: str, command: PulumiCommand, *options: str, backend: Path | None = None
    ) -> None:
        super().__init__(name, _Workspace(project, command, options, backend), StackInitMode.SELECT)

    def outputs(self) -> OutputMap:
        """Return none of the outputs; `exports` has them."""
        return {}

    def info(self, show_secrets: bool = True) -> UpdateSummary:  # noqa: ARG002, FBT001, FBT002 - as in the base class
        """Return an empty summary: the events have said it all."""
        return UpdateSummary("", datetime.now(UTC), "", {}, {}, "")


class Engine:
    """Pulumi, for the stacks of one name: `storage/dev`, `messaging/dev` and so on.

    Args:
        stack: The name of the stacks.
        on_event: Called with each event of the engine.
        say: Called with each line for the user.
        stopping: Set when nothing more is to be started.

    Raises:
        UserError: The stacks' state can't be reached, or the Pulumi CLI is too old.
    """

    def __init__(
        self, stack: str, on_event: OnEvent, say: Callable[[str], None], stopping: Event | None = None
    ) -> None:
        self._stack = stack
        self._stopping = stopping or Event()
        self._on_event = on_event
        self._say = say
        self._command = _command()
        # One look at all of them, side by side, rather than several at each when its turn comes.
        states = _ask_each(self._command, "stack", "export", "--stack", stack)
        self._exported = states
        self._states = {project: state and (state["deployment"] or {}) for project, state in states.items()}

    def create_missing(self, projects: Iterable[str]) -> None:
        """Create the stacks that are not there yet, so that they can be deployed, and others refer to them.

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

    def resources(self, project: str) -> int:
        """Return how many resources of a project were deployed when this engine was made."""
        resources = (self._states[project] or {}).get("resources", [])
        return sum(not resource["type"].startswith("pulumi:") for resource in resources)

    def deployed(self, projects: Iterable[str]) -> list[tuple[str, str]]:
        """Return the types and ids of the resources of projects that were deployed when this engine was created."""
        states = [scratch.resources(self._exported[project]) for project in projects]
        return [(resource["type"], resource["id"]) for state in states for resource in state if resource.get("id")]

    def exports(self) -> dict[str, Outputs | None]:
        """Return what each project exported when this engine was made; None where it was not deployed."""
        return {project: scratch.exported(state) for project, state in self._exported.items()}

    def run(self, project: str, operation: Operation, *, refresh: bool = False) -> Report:
        """Deploy or destroy one stack, or look for drift in it.

        A lock and unfinished creations that a killed update left behind are dealt with first.

        Args:
            project: The name of the project, which is that of its folder.
            operation: What to do.
            refresh: Whether to look first at what is really there, rather than trust the state.
        """

        def act(hear: Hear) -> None:
            if operation == "drift":
                _Stack(self._stack, project, self._command).preview_refresh(on_event=hear)
                return
            with self._claiming(project) as claim:
                if claim.released:
                    export = _Stack(self._stack, project, self._command).export_stack()
                    self._states[project] = _contents(export)
                self._update(project, claim, hear, destroying=operation == "destroy", refresh=refresh)

        if self._states[project] is None:
            return Report(project, "absent")
        drift = operation == "drift"
        return _reported(project, act, lambda event: self._on_event(project, event), refreshing=drift)

    def tell(self, on_event: OnEvent, say: Callable[[str], None]) -> None:
        """Tell others from now on what the engine does."""
        self._on_event, self._say = on_event, say

    def differing(self, preview: Preview, needs: Iterable[str]) -> list[str]:
        """Return what is no longer as it was when a stack was previewed: its state, its program, what it reads.

        Args:
            preview: What was found.
            needs: The projects whose outputs the stack reads, and which are as they are going to be.

        Raises:
            UserError: The stacks' state can't be reached.
        """
        project, needs = preview.report.project, list(needs)
        with ThreadPoolExecutor() as pool:
            ask = partial(_ask, self._command, ("stack", "export", "--stack", self._stack))
            states = dict(zip((project, *needs), pool.map(ask, (project, *needs)), strict=True))
        found = []
        if scratch.resources(states[project]) != scratch.resources(self._exported[project]):
            found.append("its state")
        if scratch.sources(project) != preview.sources:
            found.append("its program or settings")
        for other in needs:
            planned, actual = preview.exports[other] or {}, scratch.exported(states[other]) or {}
            found += [
                f"{other}.{output.path}"
                for output in changes.outputs(scratch.known(planned), actual)
                if not scratch.is_unknown(planned.get(output.path))
            ]
        return found

    def preview(
        self,
        project: str,
        exports: Mapping[str, Outputs | None],
        *,
        refresh: bool = False,
        destroying: bool = False,
    ) -> Preview:
        """Preview the deployment or the destruction of one stack, and write nothing to any state.

        Args:
            project: The name of the project, which is that of its folder.
            exports: What each other project exports by then; None where it is not deployed.
            refresh: Whether to look first at what is really there, rather than trust the state.
            destroying: Whether the stack is to be destroyed.
        """
        state = self._states[project] or {}
        outputs = scratch.exported(self._exported[project]) or {}
        preview = Preview(Report(project), [], outputs, [], exports, scratch.sources(project))

        def recover(stack: Stack) -> bool:
            """Do to the copy of the state what a deployment would first do to the state."""
            if self._recover_interrupted_update(project, stack, lambda _: None, destroying=destroying) is None:
                return False
            preview.notes.append(f"{project}: an update was cut off, or still runs. Shown is what it leaves to do.")
            return True

        def destroy(hear: Hear) -> None:
            with scratch.backend(self._stack, project, self._exported, exports) as folder:
                stack = _Stack(self._stack, project, self._command, "--ignore-protect", backend=folder)
                unsure = recover(stack)
                stack.preview_destroy(on_event=hear, refresh=refresh or unsure)

        def act(hear: Hear) -> None:
            if not scratch.usable():
                with protection.refusing(state, project, self._stack, hear) as watch:
                    _Stack(self._stack, project, self._command).preview(on_event=watch, refresh=refresh)
                return
            with scratch.backend(self._stack, project, self._exported, exports) as folder:
                stack = _Stack(self._stack, project, self._command, backend=folder)
                unsure = recover(stack)
                with protection.refusing(state, project, self._stack, hear) as watch:
                    stack.preview(on_event=watch, refresh=refresh or unsure, plan=str(folder / "plan.json"))
                plan.update(json.loads((folder / "plan.json").read_text(encoding="utf-8")))

        plan: scratch.Json = {}
        if destroying and self._states[project] is None:
            preview.report.outcome = "absent"
            return preview
        preview.report = _reported(project, destroy if destroying else act, preview.events.append)
        if plan:
            now = self.exports()
            heard = Steps()
            for event in preview.events:
                heard.hear(event)
            preview.outputs = changes.hide(scratch.planned(plan), heard.invented)
            changed = {other: changes.outputs(now[other] or {}, exports[other] or {}) for other in exports}
            preview.report.steps = changes.caused(preview.report.steps, plan, changed)
            preview.report.outputs = changes.outputs(now[project] or {}, preview.outputs)
        return preview

    def _update(self, project: str, claim: Claim, on_event: Hear, *, destroying: bool, refresh: bool) -> None:
        command = self._command.under(claim)
        stack = _Stack(self._stack, project, command)
        state = self._states[project] or {}

        def record(_event: EngineEvent) -> None:
            claim.locked(project, self._stack)

        if (names := self._recover_interrupted_update(project, stack, record, destroying=destroying)) is not None:
            refresh = True
            what = ", ".join(names)
            self._say(f"{project}: the last update was cut off. Looking for what it did{what and ' to '}{what}.")
        if destroying:
            stack = _Stack(self._stack, project, command, "--ignore-protect")
        elif protection.unprotected(state):
            with protection.refusing(state, project, self._stack, _errors_only(on_event)) as watch:
                stack.preview(on_event=watch, refresh=refresh)

        def update(hear: Hear, again: bool) -> None:  # noqa: FBT001
            def on_each(event: EngineEvent) -> None:
                record(event)
                hear(event)
                on_event(event)

            if destroying:
                stack.destroy(on_event=on_each, refresh=refresh or again)
                return
            with protection.refusing(state, project, self._stack, on_each) as watch:
                stack.up(on_event=watch, refresh=refresh or again)

        refusals.update_with_retries(project, stack, update, self._say, self._stopping)

    @contextmanager
    def _claiming(self, project: str) -> Iterator[Claim]:
        """Claim a project's stack, and say which locks of dead owners were released.

        Raises:
            UserError: The stack is locked, and its owner runs, or may still run.
        """
        with locks.claim(os.environ.get("PULUMI_BACKEND_URL", ""), project, self._stack, self._say) as claim:
            for lock in claim.released:
                self._say(f"{project}: released the lock of {lock}, as its owner has ended.")
            yield claim

    def _recover_interrupted_update(
        self, project: str, stack: Stack, record: Hear, *, destroying: bool
    ) -> list[str] | None:
        """Find out what became of the operations that an update of the stack had begun when it was cut off.

        Args:
            project: The stack's project.
            stack: The stack.
            record: Called with each event of the engine that looks.
            destroying: Whether it is to be destroyed, so that nothing may be forgotten.

        Returns:
            The names of what is to be looked for, by a refresh; None where there were no such operations.
        """
        if not (self._states[project] or {}).get("pending_operations"):
            return None
        # As it takes the stack's lock, this also makes sure that nobody is still at it. It leaves only creations open.
        stack.refresh(on_event=record)
        state = stack.export_stack()
        names = recovery.resolve_pending_creates(_contents(state), destroying=destroying)
        stack.import_stack(state)
        return names


def _reported(project: str, act: Callable[[Hear], None], on_event: Hear, *, refreshing: bool = False) -> Report:
    """Do something to a stack, and return what came of it.

    Args:
        project: The stack's project.
        act: Does it, and tells what it is given of the engine's events.
        on_event: Called with each of them too.
        refreshing: Whether what a refresh finds is to be reported.
    """
    report = Report(project)
    started = monotonic()
    steps = Steps(refreshing=refreshing)
    shown = False

    def hear(event: EngineEvent) -> None:
        nonlocal shown
        steps.hear(event)
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            shown = True
        on_event(event)

    try:
        act(hear)
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


def _errors_only(on_event: Hear) -> Hear:
    """Return what tells `on_event` of errors, as what goes well is told when it is done."""

    def tell(event: EngineEvent) -> None:
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            on_event(event)

    return tell


def _contents(state: Deployment) -> dict[str, Any]:
    return cast("dict[str, Any]", state.deployment or {})


def exports(stack: str) -> dict[str, dict[str, Any] | None]:
    """Return what each project's stack of this name exports, or nothing where it was never made.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    return ask_each("stack", "output", "--json", "--stack", stack)


def ask_each(*arguments: str) -> dict[str, Any]:
    """Ask Pulumi the same of every project, side by side; return the JSON that each answers.

    It is nothing where the project has no stack of the name that is asked for.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    return _ask_each(_command(), *arguments)


def _command() -> PulumiCli:
    """Return the Pulumi CLI.

    Raises:
        UserError: It is too old for `--ignore-protect`, which Pulumi 3.256.0 introduced.
    """
    try:
        return PulumiCli(version=VersionInfo(3, 256, 0))
    except InvalidVersionError as error:
        raise UserError(f"the Pulumi CLI on your PATH can't be used. {error}") from error


def _ask_each(command: PulumiCommand, *arguments: str) -> dict[str, Any]:
    projects = order(dependencies())
    with ThreadPoolExecutor() as pool:
        return dict(zip(projects, pool.map(partial(_ask, command, arguments), projects), strict=True))


def _ask(command: PulumiCommand, arguments: tuple[str, ...], project: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        answer = command.run(list(arguments), str(STACKS / project), {})
    except StackNotFoundError:
        return None
    except CommandError as error:
        raise UserError(f"{project}: {explain(error)}.") from error
    return json.loads(answer.stdout)


def explain(error: CommandError) -> str:
    """Return in a sentence why Pulumi failed."""
    text = str(error)
    if isinstance(error, ConcurrentUpdateError):
        return locks.conflict(text)
    if "incorrect passphrase" in text:
        names = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
        name = next((name for name in names if os.environ.get(name)), names[0])
        return f"{name} holds another passphrase than the stacks have, an empty one unless you changed it: unset {name}"
    said = re.findall(r"error: (.+)", text)
    return " ".join(said) or text
