"""The commands deploy, preview, destroy, drift and outputs."""

import json
import signal
import sys
import threading
from dataclasses import asdict
from typing import Final

import click
from rich.console import Console

from xfarm.errors import UserError
from xfarm.orchestrator import graph, targets
from xfarm.orchestrator.display import Display, summary
from xfarm.orchestrator.engine import Engine, Operation, Report, exports

DRIFT: Final = 3
"""The exit code if something was changed by hand."""


def operate(  # noqa: PLR0913 - each is an option of the command line
    operation: Operation,
    stack: str,
    *,
    only: str | None = None,
    first: str | None = None,
    refresh: bool = False,
    yes: bool = False,
    as_json: bool = False,
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

    Returns:
        The exit code: 0 if all is done, 1 if something failed, `DRIFT` if something was changed by hand.

    Raises:
        UserError: The operation was not started.
    """
    console = Console(soft_wrap=True, stderr=as_json)
    selected = _select(graph.dependencies(), only, first)
    targets.activate(stack, Console(stderr=True, soft_wrap=True, highlight=False).print, engines=True)
    if operation in _DONE and stack != targets.LOCAL and not yes:
        _confirm(operation, stack, console)
    reports = _run_all(operation, stack, selected, console, refresh=refresh)
    succeeded = all(report.outcome in {"done", "absent"} for report in reports)
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2))
    else:
        console.print(summary(reports, operation))
        if operation == "destroy" and succeeded and not any(report.changes for report in reports):
            console.print(f"Nothing to destroy: '{stack}' has no resources.")
    if not succeeded:
        return 1
    return DRIFT if operation == "drift" and any(report.changed for report in reports) else 0


def _run_all(operation: Operation, stack: str, selected: set[str], console: Console, *, refresh: bool) -> list[Report]:
    """Run an operation on the selected projects in dependency order, and return their reports in that order."""
    everything = graph.dependencies()
    reports: dict[str, Report] = {}

    with Display(console, operation) as display:
        interrupted = threading.Event()
        engine = Engine(stack, display.event, display.notify, interrupted)
        _refuse_gaps(engine, operation, everything, selected)
        _handle_interrupt(console, interrupted)

        def run(project: str) -> bool:
            if interrupted.is_set():
                reports[project] = Report(project, outcome="left out")
                return False
            display.start(project)
            reports[project] = engine.run(project, operation, refresh=refresh)
            if interrupted.is_set() and reports[project].outcome == "failed":
                reports[project].outcome = "stopped"
            display.finish(reports[project])
            return reports[project].outcome != "failed"

        needs = graph.subgraph(everything, selected)
        order = graph.order(needs)
        if operation == "destroy":
            needs = graph.dependents(needs)
            order.reverse()
        elif operation == "deploy":
            engine.create_missing(selected)
        else:
            # A preview reads the outputs that are deployed, not those that other previews plan. So all run at the same
            # time, once every stack that is referred to exists.
            if operation == "preview":
                engine.create_missing(everything)
            needs = dict.fromkeys(needs, ())
        for project in graph.walk(needs, run):
            reports[project] = Report(project, outcome="left out")
    return [reports[project] for project in order]


def _select(everything: graph.Graph, only: str | None, first: str | None) -> set[str]:
    if only and first:
        raise click.UsageError("--only and --from exclude each other: give one of them.")
    named = only or first
    if named and named not in everything:
        raise UserError(f"there is no project '{named}': choose one of {', '.join(graph.order(everything))}.")
    if only:
        return {only}
    return graph.with_dependents(everything, first) if first else set(everything)


def _refuse_gaps(engine: Engine, operation: Operation, everything: graph.Graph, selected: set[str]) -> None:
    """Refuse to deploy a project before those that it needs, or to destroy it before those that need it.

    Raises:
        UserError: The selection leaves out a project that has to come first.
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


_DONE: Final = {"deploy": "deployed", "destroy": "destroyed"}


def _confirm(operation: Operation, stack: str, console: Console) -> None:
    if not sys.stdin.isatty():
        raise UserError(f"{operation} of '{stack}' needs --yes if there is no terminal to confirm it at.")
    expected, what = (stack, " and all files in it") if operation == "destroy" else ("yes", "")
    if console.input(f"Type '{expected}' to {operation} '{stack}'{what}: ").strip() != expected:
        raise UserError(f"that was not '{expected}', so nothing was done.")


def _handle_interrupt(console: Console, interrupted: threading.Event) -> None:
    """On Ctrl-C, start no more operations; the engines get the signal too, and finish those in progress."""

    def handle(_number: int, _frame: object) -> None:
        if not interrupted.is_set():
            console.print("Stopping once the operations in progress are done; press Ctrl-C again to stop at once.")
        interrupted.set()

    signal.signal(signal.SIGINT, handle)


def show_outputs(stack: str, *, as_json: bool) -> None:
    """Show the outputs of the stacks of one name.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    targets.activate(stack, Console(stderr=True, soft_wrap=True, highlight=False).print)
    exported = exports(stack)
    if as_json:
        print(json.dumps(exported, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    for project, values in exported.items():
        console.print(f"[bold]{project}[/]" + ("" if values else ": not deployed"))
        for name, value in (values or {}).items():
            console.print(f"  {name} = {value}")
