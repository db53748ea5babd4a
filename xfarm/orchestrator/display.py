"""Shows the progress of an operation, and its result as a table."""

import json
import os
from collections.abc import Iterable, Iterator
from threading import Lock
from time import monotonic
from typing import Any, Final, Self

from pulumi.automation import EngineEvent
from pulumi.automation.events import StepEventMetadata
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from xfarm.orchestrator.changes import CHANGES, PropertyChange
from xfarm.orchestrator.engine import Operation, Preview, Report
from xfarm.waiting import announced

SIGNS: Final = {
    "create": "[green]+",
    "update": "[yellow]~",
    "delete": "[red]-",
    # A replacement has these two steps, and a third, "replace", that does nothing.
    "create-replacement": "[magenta]±",
    "delete-replaced": "[red]-",
}
"""The signs in front of resources by the engine's steps; they are in the first column, as in a diff."""

_KINDS: Final = {"add": "create", "update": "update", "delete": "delete"}
"""The operations whose signs the changes of properties have."""

_COLOURS: Final = {"error": "red", "warning": "yellow"}
"""The colours of the sources of the engine's messages. Other messages are what programs print and log."""


class Display:
    """A line for each resource that changes, and at a terminal a progress bar for each stack."""

    def __init__(self, console: Console, operation: Operation) -> None:
        self._console = console
        self._operation = operation
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[waiting]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, dict[str, float]] = {}
        self._registered: dict[str, set[str]] = {}
        self._done: dict[str, set[str]] = {}
        self._lock = Lock()
        self._announced = announced(self._waiting, unless=console.is_terminal)

    def __enter__(self) -> Self:
        self._progress.start()
        self._announced.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._announced.__exit__(None, None, None)
        self._progress.stop()

    def start(self, project: str) -> None:
        """Add a progress bar for a stack, unless it has one."""
        with self._lock:
            if project not in self._tasks:
                self._tasks[project] = self._progress.add_task(project, total=None, waiting="")
        self._started[project] = {}
        self._registered[project] = set()
        self._done[project] = set()

    def finish(self, report: Report) -> None:
        """Remove the progress bar of a stack, and show why it failed, if it did."""
        self._progress.remove_task(self._tasks.pop(report.project))
        if report.outcome == "outdated":
            self._console.print(f"[bold yellow]{report.project}[/]:", _plain(report.reason) + ".", highlight=False)
        if report.outcome == "failed":
            self._console.print(f"[bold red]{report.project}[/] failed:", _plain(report.reason) + ".", highlight=False)

    def plan(self, preview: Preview) -> None:
        """Show the result of a stack's preview, with the engine's warnings and errors."""
        for note in preview.notes:
            self.notify(note)
        for event in preview.events:
            if event.diagnostic_event and preview.report.outcome != "stopped":
                self.event(preview.report.project, event)
        for line in plan(preview.report):
            self._console.print(line, highlight=False)

    def notify(self, message: str) -> None:
        """Show a message between the lines of the engine."""
        self._console.print(_plain(message), highlight=False)

    def event(self, project: str, event: EngineEvent) -> None:
        """Show an event of the engine."""
        with self._lock:
            if event.resource_pre_event:
                self._start_resource(project, event.resource_pre_event.metadata)
            elif event.res_outputs_event:
                self._finish_resource(project, event.res_outputs_event.metadata)
            elif event.res_op_failed_event:
                self._started[project].pop(event.res_op_failed_event.metadata.urn, None)
                self._show_progress(project)
            elif event.diagnostic_event and event.diagnostic_event.severity != "debug":
                message = event.diagnostic_event.message.strip()
                source = f"{project} {_name(event.diagnostic_event.urn or '')}".rstrip()
                colour = _COLOURS.get(event.diagnostic_event.severity, "dim")
                self._console.print(f"  [{colour}]{source}[/]", _plain(message), highlight=False)

    def _start_resource(self, project: str, step: StepEventMetadata) -> None:
        if step.type.startswith("pulumi:"):
            return
        self._registered[project].add(step.urn)
        if step.op.value in SIGNS:
            self._started[project][step.urn] = monotonic()
        self._show_progress(project)

    def _finish_resource(self, project: str, step: StepEventMetadata) -> None:
        if step.type.startswith("pulumi:"):
            return
        self._done[project].add(step.urn)
        started = self._started[project].pop(step.urn, None)
        if started is not None:
            self._show_line(project, step, f"{monotonic() - started:.1f} s")
        elif self._operation == "drift" and step.op.value in SIGNS:
            # A refresh starts as "refresh"; only its end shows what has changed.
            self._show_line(project, step)
        self._show_progress(project)

    def _waiting(self) -> str:
        """Return which resources are in progress."""
        with self._lock:
            names = [f"{project} {_name(urn)}" for project, started in self._started.items() for urn in started]
        return f"waiting for {', '.join(names)}" if names else ""

    def _show_progress(self, project: str) -> None:
        """Show how many of the resources that the program has registered so far are done."""
        names = ", ".join(_name(urn) for urn in self._started[project])
        self._progress.update(
            self._tasks[project],
            completed=len(self._done[project]),
            total=len(self._registered[project]),
            waiting=f"waiting for {names}" if names else "",
        )

    def _show_line(self, project: str, step: StepEventMetadata, duration: str = "") -> None:
        details = f"[{', '.join(step.diffs or ())}] {duration}" if step.op.value == "update" else duration
        self._console.print(
            f"{SIGNS[step.op.value]}[/] {project:10} {_name(step.urn)} [dim]{step.type}[/]",
            _plain(details),
            highlight=False,
        )


def plan(report: Report) -> Iterator[str]:
    """Return the result of a stack's preview in lines with markup: what changes, how, and why."""
    for change in report.steps:
        sign = SIGNS["create-replacement" if change.operation == "replace" else change.operation]
        note = f"[yellow]may be {CHANGES[change.operation]}[/]" if change.may else ""
        yield f"{sign}[/] {report.project:10} {change.resource} [dim]{change.type}[/] {note}".rstrip()
        if change.operation != "create":
            yield from (f"    {_sign(each)} {_difference(each)}" for each in change.properties)
        if change.operation == "replace" and not any(each.replaces for each in change.properties):
            yield "      because something that it depends on is replaced"
    for output in report.outputs:
        yield f"{_sign(output)} {report.project:10} output {_difference(output)}"


def _sign(change: PropertyChange) -> str:
    return f"{SIGNS[_KINDS[change.kind]]}[/]"


def _difference(change: PropertyChange) -> str:
    old, new = (_plain(text) for text in _texts(change.old, change.new))
    text = f"{_plain(change.path)}: "
    if change.unknown:
        new = "[yellow]not known yet[/]"
    if change.kind == "add":
        text += f"[green]{new}[/]"
    elif change.kind == "delete":
        text += f"[red]{old}[/]"
    else:
        text += f"[red]{old}[/] [dim]->[/] [green]{new}[/]"
    if change.replaces:
        text += " [magenta]forces replacement[/]"
    return text + (f" [dim]from {', '.join(change.causes)}[/]" if change.causes else "")


_LONGEST: Final = 60
"""The length in characters up to which a value is shown in full."""
_AROUND: Final = 20
"""The number of characters of a longer value that are shown before and after the difference."""


def _texts(old: Any, new: Any) -> tuple[str, str]:  # noqa: ANN401 - any JSON
    """Return two values as text, each shortened to the part around the difference."""
    texts = (json.dumps(old, ensure_ascii=False), json.dumps(new, ensure_ascii=False))
    start = len(os.path.commonprefix(texts))  # noqa: RUF071 - of characters, as is meant
    end = len(os.path.commonprefix([text[start:][::-1] for text in texts]))  # noqa: RUF071 - likewise
    return _cut(texts[0], start, end), _cut(texts[1], start, end)


def _cut(text: str, start: int, end: int) -> str:
    if len(text) <= _LONGEST:
        return text
    first, last = max(start - _AROUND, 0), min(len(text) - end + _AROUND, len(text))
    middle = text[first:last]
    if len(middle) > 2 * _LONGEST:
        middle = f"{middle[:_LONGEST]}...{middle[-_LONGEST:]}"
    return ("..." if first else "") + middle + ("..." if last < len(text) else "")


def summary(reports: Iterable[Report], operation: Operation) -> Table:
    """Return a table of the changes, made or planned, in each stack."""
    done = operation in {"deploy", "destroy"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stack", "outcome"):
        table.add_column(heading)
    for heading in (*(CHANGES.values() if done else CHANGES), "unchanged", "seconds"):
        table.add_column(heading, justify="right")
    for report in reports:
        changed = report.changed or report.outputs
        outcome = report.outcome if changed or report.outcome != "done" else "no change"
        counts = [str(report.changes.get(operation, 0)) for operation in (*CHANGES, "same")]
        table.add_row(report.project, outcome, *counts, f"{report.seconds:.1f}")
    return table


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
