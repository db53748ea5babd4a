"""The commands deploy, preview, destroy, drift and outputs."""

import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from xfarm.console import make_console
from xfarm.credentials import blank
from xfarm.errors import UserError, WrongUsageError
from xfarm.orchestrator import existing, graph, planning, targets
from xfarm.orchestrator.display import Display, summary
from xfarm.orchestrator.engine import Engine, Operation, Preview, Report
from xfarm.orchestrator.pulumi_cli import stop_engines
from xfarm.orchestrator.states import exports
from xfarm.paths import ROOT

DIFFERENT: Final = 3
"""The exit code if something was changed by hand or, with `--exit-code`, would be changed."""

_NOTHING: Final[dict[Operation, str]] = {"destroy": "destroy", "drift": "compare with AWS"}
"""What can't be done with a stack that has no resources, for the operations that it is said after."""

_STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
"""The variable with the path of the file for a step's summary ("Workflow commands", GitHub Actions)."""


def operate(  # noqa: PLR0913 - each is an option of the command line
    operation: Operation,
    stack: str,
    *,
    only: str | None = None,
    first: str | None = None,
    refresh: bool = False,
    yes: bool = False,
    as_json: bool = False,
    exit_code: bool = False,
) -> int:
    """Run an operation on the stacks of one name, and show the result.

    Args:
        operation: The operation.
        stack: The name of the stacks.
        only: The only project to operate on, or None.
        first: A project to operate on together with all that need it, or None.
        refresh: Whether to update the state from AWS first.
        yes: Whether to skip the confirmation.
        as_json: Whether to print JSON.
        exit_code: Whether the exit code of a preview is `DIFFERENT` if anything would be changed.

    Returns:
        The exit code: 0 if all is done, 1 if something failed, `DIFFERENT` if something was changed by hand or, if
        `exit_code` is set, would be changed.

    Raises:
        UserError: The operation was not started.
    """
    console = make_console(_Console, stderr=as_json, record=_STEP_SUMMARY in os.environ)
    notices = Console(
        stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False, record=_STEP_SUMMARY in os.environ
    )
    selected = _select(graph.dependencies(), only, first)
    with _step_summary(notices, console):
        targets.activate(stack, notices.print, engines=True, preview=operation == "preview")
        reports = _Session(operation, stack, console, refresh=refresh, yes=yes).run(selected)
        succeeded = all(report.outcome in {"done", "absent"} for report in reports)
        refreshed = operation == "destroy" or (operation == "deploy" and refresh)
        everything = not (only or first)
        if as_json:
            print(json.dumps([asdict(report) for report in reports], indent=2))
        else:
            console.print(summary(reports, operation))
            if everything and operation in _NOTHING and succeeded and not any(report.changes for report in reports):
                console.print(f"Nothing to {_NOTHING[operation]}: '{stack}' has no resources.")
        if stack == targets.LOCAL:
            from xfarm.orchestrator import local_environment  # noqa: PLC0415 - needed for `local` only

            if succeeded and refreshed and everything:
                local_environment.forget_losses(ROOT)
            elif not succeeded and not local_environment.emulator(ROOT).running():
                notices.print("The AWS emulator ended meanwhile: run the same command again, which starts it.")
    if not succeeded:
        return 1
    different = any(report.changed or report.outputs for report in reports)
    return DIFFERENT if different and (exit_code or operation == "drift") else 0


class _Console(Console):
    """A console whose reader may go away, as in `xfarm deploy | head`: the operation goes on without it."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


@contextlib.contextmanager
def _step_summary(*consoles: Console) -> Iterator[None]:
    """Add what consoles have shown to the summary of the step, in a workflow of GitHub.

    A pipe to `tee` would do so too, but then the signals of a cancelled run would not arrive.
    """
    failure = ""
    try:
        yield
    except UserError as error:
        failure = f"error: {error}\n"
        raise
    finally:
        if path := os.environ.get(_STEP_SUMMARY):
            text = "".join(console.export_text() for console in consoles) + failure
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            try:
                with Path(path).open("a", encoding="utf-8") as file:
                    file.write(blank(f"{fence}text\n{text}{fence}\n"))
            except OSError as error:
                print(f"{_STEP_SUMMARY} names a file that can't be written: {error.strerror}.", file=sys.stderr)


class _Session:
    """One run of a command: an operation on the stacks, whose plan the user may have to confirm."""

    def __init__(self, operation: Operation, stack: str, console: Console, *, refresh: bool, yes: bool) -> None:
        self._operation: Operation = operation
        self._stack = stack
        self._console = console
        self._refresh = refresh
        self._planned = operation in _DONE and stack != targets.LOCAL
        self._asking = self._planned and not yes
        self._nothing = "nothing"
        if self._asking and not sys.stdin.isatty():
            raise WrongUsageError(f"{operation} of '{stack}' needs --yes if there is no terminal to confirm it at.")

    def run(self, selected: set[str]) -> list[Report]:
        """Run the operation on the selected projects, and return their reports in the order of the stacks.

        Raises:
            UserError: The operation was not started.
        """
        everything = graph.dependencies()
        reports: dict[str, Report] = {}
        remaining = selected
        while remaining:
            reports |= self._round(everything, remaining)
            outdated = any(reports[project].outcome == "outdated" for project in remaining)
            again = {project for project in remaining if reports[project].outcome in {"outdated", "left out"}}
            remaining = again if outdated and self._asking else set()
            self._nothing = "nothing more"
        in_order = graph.order(graph.subgraph(everything, selected))
        return [reports[project] for project in (reversed(in_order) if self._operation == "destroy" else in_order)]

    def _round(self, everything: graph.Graph, selected: set[str]) -> dict[str, Report]:
        """Read the states, show the plan if there is one, ask for confirmation, and run the operation."""
        interrupted = threading.Event()
        needs = graph.subgraph(everything, selected)
        with Display(self._console, "preview" if self._planned else self._operation) as display:
            engine = Engine(self._stack, display.event, display.notify, interrupted)
            _refuse_other_region(engine, self._stack)
            _refuse_gaps(engine, self._operation, everything, selected)
            if self._operation in {"deploy", "preview"} and (missing := _missing(engine, everything, selected)):
                display.notify(f"{missing}: refreshing first, as AWS may have deleted more with it.")
                self._refresh = True
            planned = self._planned or self._has_strangers(engine)
            with _handling_interrupt(self._console, interrupted):
                run = _Run(engine, display, interrupted, refresh=self._refresh)
                if planned or self._operation == "preview":
                    run.plan(needs, destroying=self._operation == "destroy")
                else:
                    for loss in self._losses(engine, needs):
                        display.notify(f"Deletes {loss}.")
                    run.update(self._operation, needs)
        if not planned:
            return run.reports
        if interrupted.is_set():
            raise UserError(f"interrupted by Ctrl-C, so {self._nothing} was {_DONE[self._operation]}.")
        self._confirm_plan(run.reports, self._losses(engine, needs))
        with Display(self._console, self._operation) as display, _handling_interrupt(self._console, interrupted):
            engine.redirect(display.event, display.notify)
            update = _Run(engine, display, interrupted, refresh=self._refresh, plan=run.previews)
            update.update(self._operation, needs)
        return update.reports

    def _has_strangers(self, engine: Engine) -> bool:
        """Return whether `local` needs a plan, too, because its account has resources and its state has none."""
        deployed = any(map(engine.resources, graph.dependencies()))
        return self._operation == "deploy" and not self._planned and not deployed and existing.anything()

    def _losses(self, engine: Engine, needs: graph.Graph) -> list[str]:
        """Return a line for each resource with files or messages that would be deleted."""
        if self._operation != "destroy":
            return []
        from xfarm.orchestrator.losses import losses  # noqa: PLC0415 - slow to import, rarely needed

        return losses(engine.deployed(needs))

    def _confirm_plan(self, plan: dict[str, Report], losses: list[str]) -> None:
        """Show a summary of the plan and what would be lost, and ask for confirmation.

        Raises:
            UserError: The user declined, or the plan is incomplete.
        """
        self._console.print(summary(plan.values(), "preview"))
        if not all(report.outcome in {"done", "absent"} for report in plan.values()):
            raise UserError(f"the plan is incomplete (see above), so {self._nothing} was {_DONE[self._operation]}.")
        for loss in losses:
            self._console.print(f"Deletes {loss}.", highlight=False, markup=False)
        if self._asking and any(report.changed or report.outputs for report in plan.values()):
            _confirm(self._operation, self._stack, self._console, self._nothing)


class _Run:
    """One run through the stacks, and its results.

    Args:
        engine: Runs Pulumi on each stack.
        display: Shows its progress.
        interrupted: Set once no further operation may start.
        refresh: Whether to update the state from AWS first.
        plan: The previews of the confirmed plan, by project; None without a plan.
    """

    def __init__(
        self,
        engine: Engine,
        display: Display,
        interrupted: threading.Event,
        *,
        refresh: bool,
        plan: Mapping[str, Preview] | None = None,
    ) -> None:
        self.reports: dict[str, Report] = {}
        self.previews: dict[str, Preview] = {}
        self._engine = engine
        self._display = display
        self._interrupted = interrupted
        self._refresh = refresh
        self._plan = plan or {}

    def plan(self, needs: graph.Graph, *, destroying: bool) -> None:
        """Preview each project with the planned outputs of the projects that it needs."""
        if self._engine.previews_in_place:
            self._display.notify(
                "The state is in Pulumi Cloud: each stack is shown with the current outputs of the others."
            )

        def preview(project: str, exports: planning.Exports) -> Preview:
            self._display.start(project)
            return self._engine.preview(project, exports, refresh=self._refresh, destroying=destroying)

        def show(preview: Preview) -> bool:
            self._mark_stopped(preview.report)
            self._display.plan(preview)
            report = preview.report
            self.previews[report.project] = preview
            if report.outcome != "done" or destroying:
                return self._end(report)
            if conflicts := existing.conflicts(report.steps, self._engine.pending(report.project)):
                report.outcome, report.reason = "failed", "; ".join(conflicts)
            self._end(report)
            return True  # with a conflict, the projects after it can be shown all the same

        if destroying:
            needs = dict.fromkeys(needs, ())  # a destruction reads no outputs
        planner = planning.Planner(needs, self._engine.exports(), preview, show, self._interrupted)
        self._leave_out(planner.walk())

    def update(self, operation: Operation, needs: graph.Graph) -> None:
        """Deploy or destroy the projects in order of dependency, or compare all of them with AWS."""

        def run(project: str) -> bool:
            if self._interrupted.is_set():
                self._leave_out({project})
                return False
            self._display.start(project)
            if project in self._plan and (changed := self._engine.changed_since(self._plan[project], reads[project])):
                reason = f"{' and '.join(changed)} changed after the plan was shown, so this stack was left as it is"
                return self._end(Report(project, "outdated", reason))
            return self._end(self._engine.run(project, operation, refresh=self._refresh))

        reads = needs if operation == "deploy" else dict.fromkeys(needs, ())
        if operation == "deploy":
            self._engine.create_missing(needs)
        elif operation == "destroy":
            needs = graph.dependents(needs)
        else:
            needs = reads  # drift compares each stack with its own state
        self._leave_out(graph.walk(needs, run))

    def _mark_stopped(self, report: Report) -> None:
        if self._interrupted.is_set() and report.outcome == "failed":
            report.outcome = "stopped"

    def _end(self, report: Report) -> bool:
        self._mark_stopped(report)
        self.reports[report.project] = report
        self._display.finish(report)
        return report.outcome not in {"failed", "outdated"}

    def _leave_out(self, projects: set[str]) -> None:
        self.reports |= {project: Report(project, outcome="left out") for project in projects}


def _select(everything: graph.Graph, only: str | None, first: str | None) -> set[str]:
    if only and first:
        raise WrongUsageError("--only and --from exclude each other: give one of them.")
    named = only or first
    if named and named not in everything:
        raise WrongUsageError(f"there is no project '{named}': choose one of {', '.join(graph.order(everything))}.")
    if only:
        return {only}
    return graph.with_dependents(everything, first) if first else set(everything)


def _refuse_other_region(engine: Engine, stack: str) -> None:
    """Refuse to operate on stacks that were deployed in another region: their resources would be replaced.

    Raises:
        UserError: A resource is in another region.
    """
    region = os.environ["AWS_REGION"]
    if others := engine.regions() - {region}:
        raise UserError(
            f"'{stack}' is deployed in {' and '.join(sorted(others))}, and AWS_REGION is {region}: set AWS_REGION to "
            f"the region of the stack, or create a stack of another name with 'xfarm new-stack' for {region}."
        )


def _refuse_gaps(engine: Engine, operation: Operation, everything: graph.Graph, selected: set[str]) -> None:
    """Refuse to deploy a project before those that it needs, or to destroy it before those that need it.

    Raises:
        UserError: The selection lacks a project that has to come first.
    """
    if operation == "deploy":
        neighbours = everything
    elif operation == "destroy":
        neighbours = graph.dependents(everything)
    else:
        return
    for project in graph.order(graph.subgraph(everything, selected)):
        for other in neighbours[project]:
            deployed = engine.resources(other) > 0
            if other not in selected and deployed is (operation == "destroy"):
                reason = (
                    f"'{other}' needs it and is still deployed"
                    if deployed
                    else f"it needs '{other}', which is not deployed"
                )
                raise UserError(
                    f"'{project}' can't be {_DONE[operation]} because {reason}: {operation} '{other}' first."
                )


def _missing(engine: Engine, everything: graph.Graph, selected: set[str]) -> str:
    """Return which project was destroyed while another that needs it is still deployed; an empty string if none was."""
    return next(
        (
            f"'{other}' is not deployed, although '{project}' needs it"
            for project in graph.order(everything)
            for other in everything[project]
            if project in selected and engine.resources(project) and not engine.resources(other)
        ),
        "",
    )


_DONE: Final = {"deploy": "deployed", "destroy": "destroyed"}


def _confirm(operation: Operation, stack: str, console: Console, nothing: str = "nothing") -> None:
    expected, what = (stack, " and all files in it") if operation == "destroy" else ("yes", "")
    if console.input(f"Type '{expected}' to {operation} '{stack}'{what}: ").strip() != expected:
        raise UserError(f"that was not '{expected}', so {nothing} was done.")


@contextlib.contextmanager
def _handling_interrupt(console: Console, interrupted: threading.Event) -> Iterator[None]:
    """Handle Ctrl-C, and SIGTERM alike: start no more operations, and let the engines finish those in progress.

    GitHub sends both to the step's first process when a run is cancelled, 7.5 s apart, and kills all processes 2.5 s
    later ("Workflow cancellation reference", GitHub Actions). The second makes the engines stop at once.
    """

    def handle(_number: int, _frame: object) -> None:
        first = not interrupted.is_set()
        interrupted.set()
        stop_engines()
        if first:
            console.print("Stopping once the operations in progress are done; press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_outputs(stack: str, *, as_json: bool) -> None:
    """Show the outputs of the stacks of one name.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    targets.activate(stack, Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print)
    exported = exports(stack)
    if as_json:
        print(json.dumps(exported, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False, emoji=False, record=_STEP_SUMMARY in os.environ)
    with _step_summary(console):
        for project, values in exported.items():
            console.print(f"[bold]{project}[/]" + ("" if values else ": not deployed"))
            for name, value in (values or {}).items():
                console.print(f"  {name} =", value if isinstance(value, str) else json.dumps(value), markup=False)
