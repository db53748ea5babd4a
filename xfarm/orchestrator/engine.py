"""Runs Pulumi's engine on one stack at a time, by the Automation API, and says in a sentence what went wrong."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from xfarm.orchestrator import protection, recovery, refusals
from xfarm.orchestrator.graph import dependencies, order
from xfarm.paths import STACKS

Operation = Literal["deploy", "preview", "destroy", "drift"]
"""`drift` compares what is really there with the state, as ``pulumi refresh --preview-only`` does."""
OnEvent = Callable[[str, EngineEvent], None]

CHANGES = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
"""The engine's operations that change a resource, and what has been done to it afterwards."""


@dataclass
class Report:
    """What an operation did to one stack."""

    project: str
    outcome: Literal["done", "failed", "stopped", "left out", "absent"] = "done"
    reason: str = ""
    changes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def changed(self) -> int:
        """How many resources were, or would be, created, updated, replaced or deleted."""
        return sum(self.changes.get(operation, 0) for operation in CHANGES)


class _Workspace(LocalWorkspace):
    """A project's folder; every command run in it names its stack, so that none has to be selected."""

    def __init__(self, project: str, command: PulumiCommand, options: tuple[str, ...]) -> None:
        super().__init__(work_dir=str(STACKS / project), pulumi_command=command)
        self._options = options

    def serialize_args_for_op(self, stack_name: str) -> list[str]:  # noqa: ARG002  as in the base class
        """Return the options that every operation is given, besides those that the Automation API knows."""
        return list(self._options)

    def select_stack(self, stack_name: str) -> None:
        """Do without: it would start the CLI once more."""


class _Stack(Stack):
    """A stack that is not asked after each update what nobody reads here: each question starts the CLI once more."""

    def __init__(self, name: str, project: str, command: PulumiCommand, *options: str) -> None:
        super().__init__(name, _Workspace(project, command, options), StackInitMode.SELECT)

    def outputs(self) -> OutputMap:
        """Return none of the outputs; `exports` has them."""
        return {}

    def info(self, show_secrets: bool = True) -> UpdateSummary:  # noqa: ARG002, FBT001, FBT002  as in the base class
        """Return an empty summary: the events have said it all."""
        return UpdateSummary("", datetime.now(UTC), "", {}, {}, "")


class Engine:
    """Pulumi, for the stacks of one name: ``storage/dev``, ``messaging/dev`` and so on.

    Args:
        stack: The name of the stacks.
        on_event: Is told what the engine does.
        say: Is told, in lines for people, what is done besides.
        stopping: Is set where nothing more is to be begun.

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
        self._states = {project: state and (state["deployment"] or {}) for project, state in states.items()}

    def create_missing(self, projects: Iterable[str]) -> None:
        """Create the stacks that are not there yet, so that they can be deployed, and others refer to them.

        Raises:
            UserError: The stacks' state can't be reached.
        """

        def create(project: str) -> None:
            try:
                _Stack(self._stack, project, self._command).workspace.create_stack(self._stack)
            except CommandError as error:
                raise UserError(f"{project}: {explain(error)}.") from error
            self._states[project] = {}

        with ThreadPoolExecutor() as pool:
            list(pool.map(create, [project for project in projects if self._states[project] is None]))

    def resources(self, project: str) -> int:
        """Return how many resources of a project were deployed when this engine was made."""
        resources = (self._states[project] or {}).get("resources", [])
        return sum(not resource["type"].startswith("pulumi:") for resource in resources)

    def run(self, project: str, operation: Operation, *, refresh: bool = False) -> Report:
        """Deploy, preview or destroy one stack, or look for drift in it.

        A lock and unfinished creations that a killed update of this host left behind are dealt with first.

        Args:
            project: The name of the project, which is that of its folder.
            operation: What to do.
            refresh: Whether to look first at what is really there, rather than trust the state.
        """
        report = Report(project)
        started = monotonic()
        steps: dict[str, set[str]] = {}
        shown = False

        def on_event(event: EngineEvent) -> None:
            nonlocal shown
            if event.res_outputs_event:
                step = event.res_outputs_event.metadata
                if not step.type.startswith("pulumi:"):
                    steps.setdefault(step.urn, set()).add(step.op.value)
            if event.diagnostic_event and event.diagnostic_event.severity == "error":
                shown = True
            self._on_event(project, event)

        try:
            if self._states[project] is None:
                report.outcome = "absent"
            else:
                stack = _Stack(self._stack, project, self._command)
                self._unlocking(project, stack, lambda: self._act(project, stack, operation, on_event, refresh=refresh))
        except CommandError as error:
            report.outcome = "failed"
            report.reason = "see the errors above" if shown else explain(error)
        except UserError as error:
            report.outcome = "failed"
            report.reason = str(error)
        report.changes = tally(steps)
        report.seconds = monotonic() - started
        return report

    def _act(
        self,
        project: str,
        stack: Stack,
        operation: Operation,
        on_event: Callable[[EngineEvent], None],
        *,
        refresh: bool,
    ) -> None:
        if operation == "drift":
            stack.preview_refresh(on_event=on_event)
            return
        state = self._states[project] or {}
        if operation == "preview":
            with protection.refusing(state, project, self._stack, on_event) as watch:
                stack.preview(on_event=watch, refresh=refresh)
            return
        destroying = operation == "destroy"
        refresh = self._recover_interrupted_update(project, stack, destroying=destroying) or refresh
        if destroying:
            stack = _Stack(self._stack, project, self._command, "--ignore-protect")
        elif protection.unprotected(state):
            with protection.refusing(state, project, self._stack, _errors_only(on_event)) as watch:
                stack.preview(on_event=watch, refresh=refresh)

        def update(hear: Callable[[EngineEvent], None], again: bool) -> None:  # noqa: FBT001
            def on_each(event: EngineEvent) -> None:
                hear(event)
                on_event(event)

            if destroying:
                stack.destroy(on_event=on_each, refresh=refresh or again)
                return
            with protection.refusing(state, project, self._stack, on_each) as watch:
                stack.up(on_event=watch, refresh=refresh or again)

        refusals.update_with_retries(project, stack, update, self._say, self._stopping)

    def _unlocking(self, project: str, stack: Stack, action: Callable[[], None]) -> None:
        """Call ``action``, and once more if a lock stood in its way that a dead process of this host had taken."""
        try:
            action()
        except ConcurrentUpdateError as error:
            if not (dead := recovery.release(str(error))):
                raise
            self._say(f"{project}: released the lock of process {', '.join(dead)}, which was killed.")
            self._states[project] = _contents(stack.export_stack())
            action()

    def _recover_interrupted_update(self, project: str, stack: Stack, *, destroying: bool) -> bool:
        """Find out what became of the operations that an update of the stack had begun when it was cut off.

        Args:
            project: The stack's project.
            stack: The stack.
            destroying: Whether it is to be destroyed, so that nothing may be forgotten.

        Returns:
            Whether there were any, so that only a refresh makes the state true.
        """
        if not (self._states[project] or {}).get("pending_operations"):
            return False
        # As it takes the stack's lock, this also makes sure that nobody is still at it. It leaves only creations open.
        stack.refresh()
        state = stack.export_stack()
        names = ", ".join(recovery.resolve_pending_creates(_contents(state), destroying=destroying))
        self._say(f"{project}: the last update was cut off. Looking for what it did{names and ' to '}{names}.")
        stack.import_stack(state)
        return True


def _errors_only(on_event: Callable[[EngineEvent], None]) -> Callable[[EngineEvent], None]:
    """Return what tells ``on_event`` of errors, as what goes well is told when it is done."""

    def tell(event: EngineEvent) -> None:
        if event.diagnostic_event and event.diagnostic_event.severity == "error":
            on_event(event)

    return tell


def _contents(state: Deployment) -> dict[str, Any]:
    return cast("dict[str, Any]", state.deployment or {})


def tally(steps: Mapping[str, set[str]]) -> dict[str, int]:
    """Return how many resources were, by what the engine did to each, created, updated and so on.

    Args:
        steps: The engine's operations on each resource, by its URN; a replacement takes three.
    """
    kinds = ("replace", "create", "update", "delete", "same")
    of_a_replacement = {"create-replacement": "replace", "delete-replaced": "delete"}
    done = ({of_a_replacement.get(step, step) for step in resource} for resource in steps.values())
    return dict(Counter(next((kind for kind in kinds if kind in one), "") for one in done if one.intersection(kinds)))


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


def _command() -> PulumiCommand:
    """Return the Pulumi CLI.

    Raises:
        UserError: It is too old for ``--ignore-protect``, which the release notes of Pulumi 3.256.0 tell of.
    """
    try:
        return PulumiCommand(version=VersionInfo(3, 256, 0))
    except InvalidVersionError as error:
        raise UserError(f"the Pulumi CLI on your PATH can't be used. {error}") from error


def _ask_each(command: PulumiCommand, *arguments: str) -> dict[str, Any]:

    def ask(project: str) -> Any:  # noqa: ANN401  any JSON
        try:
            answer = command.run(list(arguments), str(STACKS / project), {})
        except StackNotFoundError:
            return None
        except CommandError as error:
            raise UserError(f"{project}: {explain(error)}.") from error
        return json.loads(answer.stdout)

    projects = order(dependencies())
    with ThreadPoolExecutor() as pool:
        return dict(zip(projects, pool.map(ask, projects), strict=True))


def explain(error: CommandError) -> str:
    """Return in a sentence why Pulumi failed."""
    text = str(error)
    if isinstance(error, ConcurrentUpdateError):
        lock = recovery.LOCK.search(text)
        holder = f" by {lock['user']}@{lock['host']} (process {lock['pid']}) since {lock['when']}" if lock else ""
        place = re.search(r"/([^/]+)/([^/]+)/[^/]+\.json", lock["url"]) if lock else None
        by_hand = f"'pulumi cancel {place[2]}' in stacks/{place[1]}" if place else "'pulumi cancel'"
        return (
            f"the stack is locked{holder}, and nothing was changed: wait for that update to end, "
            f"or, where you are sure that it no longer runs on any machine, release the lock with {by_hand} "
            "(see docs/deploying.md)"
        )
    if "incorrect passphrase" in text:
        names = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
        name = next((name for name in names if os.environ.get(name)), names[0])
        return f"{name} holds another passphrase than the stacks have, an empty one unless you changed it: unset {name}"
    said = re.findall(r"error: (.+)", text)
    return " ".join(said) or text
