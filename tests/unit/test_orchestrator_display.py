"""The lines and counts for recorded events of the engine."""

import io
from collections.abc import Iterable

import pytest
from pulumi.automation import CommandError, EngineEvent
from pulumi.automation._cmd import CommandResult
from pulumi.automation.errors import create_command_error
from rich.console import Console

from xfarm.orchestrator.changes import tally
from xfarm.orchestrator.display import Display, summary
from xfarm.orchestrator.engine import Operation, Report, explain

PRE, OUTPUTS = "resourcePreEvent", "resOutputsEvent"
TYPES = {
    "beta-local": "pulumi:pulumi:Stack",
    "default": "pulumi:providers:aws",
    "organization/alpha/local": "pulumi:pulumi:StackReference",
    "topic": "aws:sns/topic:Topic",
    "role": "aws:iam/role:Role",
    "policy": "aws:iam/rolePolicy:RolePolicy",
    "function": "aws:lambda/function:Function",
}

Recorded = Iterable[tuple[str, str, str]]

REPLACEMENT: Recorded = [
    (PRE, "same", "beta-local"),
    (PRE, "same", "default"),
    (OUTPUTS, "same", "default"),
    (PRE, "read", "organization/alpha/local"),
    (OUTPUTS, "read", "organization/alpha/local"),
    (PRE, "same", "topic"),
    (OUTPUTS, "same", "topic"),
    (PRE, "create-replacement", "role"),
    (OUTPUTS, "create-replacement", "role"),
    (PRE, "replace", "role"),
    (OUTPUTS, "replace", "role"),
    (PRE, "create", "policy"),
    (PRE, "update", "function"),
    (OUTPUTS, "create", "policy"),
    (OUTPUTS, "update", "function"),
    (PRE, "delete-replaced", "role"),
    (OUTPUTS, "delete-replaced", "role"),
    (OUTPUTS, "same", "beta-local"),
]
DRIFT: Recorded = [
    (PRE, "refresh", "beta-local"),
    (OUTPUTS, "same", "beta-local"),
    (PRE, "refresh", "topic"),
    (PRE, "refresh", "role"),
    (PRE, "refresh", "function"),
    (OUTPUTS, "delete", "topic"),
    (OUTPUTS, "same", "role"),
    (OUTPUTS, "update", "function"),
]


def event(kind: str, operation: str, name: str) -> EngineEvent:
    """Return an event, parsed from JSON as the engine sends it."""
    diffs = ["timeout"] if operation == "update" else None
    urn = f"urn:pulumi:local::beta::{TYPES[name]}::{name}"
    metadata = {"op": operation, "type": TYPES[name], "urn": urn, "provider": "", "diffs": diffs}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, kind: {"metadata": metadata}})


def diagnostic(severity: str, message: str) -> EngineEvent:
    content = {"severity": severity, "message": message, "color": "never", "urn": "urn:pulumi:local::beta::t::role"}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, "diagnosticEvent": content})


def shown(
    operation: Operation, events: Iterable[EngineEvent], report: Report | None = None, *, terminal: bool = False
) -> str:
    """Return what a display prints for events of one stack."""
    text = io.StringIO()
    with Display(Console(file=text, soft_wrap=True, width=200, force_terminal=terminal), operation) as display:
        display.start("beta")
        for one in events:
            display.event("beta", one)
        if terminal:
            display._progress.refresh()  # noqa: SLF001 - rich itself refreshes the bar ten times a second only
        display.finish(report or Report("beta"))
    return text.getvalue()


def lines(operation: Operation, recorded: Recorded) -> list[list[str]]:
    return [line.split() for line in shown(operation, (event(*one) for one in recorded)).splitlines()]


def test_without_a_terminal_each_change_is_a_line_once_it_is_done() -> None:
    printed = lines("deploy", REPLACEMENT)
    assert [line[:3] for line in printed] == [
        ["±", "beta", "role"],
        ["+", "beta", "policy"],
        ["~", "beta", "function"],
        ["-", "beta", "role"],
    ]
    assert printed[2][4] == "[timeout]"
    assert all(line[-1] == "s" for line in printed)


def test_drift_shows_each_resource_that_was_changed() -> None:
    assert [line[:3] for line in lines("drift", DRIFT)] == [["-", "beta", "topic"], ["~", "beta", "function"]]


def test_a_terminal_shows_how_many_resources_are_done_and_which_are_in_progress() -> None:
    started = list(REPLACEMENT)[:13]
    printed = shown("deploy", (event(*one) for one in started), terminal=True)
    assert "2/4" in printed
    assert "waiting for policy, function" in printed


def test_a_failed_resource_is_not_in_progress_and_may_be_refreshed_before_the_next_attempt() -> None:
    failed = [event(PRE, "create", "role"), event("resOpFailedEvent", "create", "role")]
    assert "waiting for" not in shown("deploy", failed, terminal=True)
    again = [
        (PRE, "refresh", "role"),
        (OUTPUTS, "refresh", "role"),
        (PRE, "update", "role"),
        (OUTPUTS, "update", "role"),
    ]
    printed = shown("deploy", [*failed, *(event(*one) for one in again)])
    assert [line.split()[:3] for line in printed.splitlines()] == [["~", "beta", "role"]]


def test_the_engine_s_errors_are_shown_without_interpreting_markup() -> None:
    printed = shown("deploy", [diagnostic("error", "creating [/red] failed\n"), diagnostic("debug", "ignored")])
    assert printed.split() == ["beta", "role", "creating", "[/red]", "failed"]


def test_what_a_program_prints_and_logs_is_shown() -> None:
    content = {"severity": "info#err", "message": "[bold] printed\n", "color": "never"}
    printed = EngineEvent.from_json({"sequence": 1, "timestamp": 1, "diagnosticEvent": content})
    assert shown("deploy", [printed, diagnostic("info", "logged")]) == "  beta [bold] printed\n  beta role logged\n"


def test_an_error_without_a_resource_is_shown_with_its_project() -> None:
    content = {"severity": "error", "message": "no such setting\n", "color": "never"}
    error = EngineEvent.from_json({"sequence": 1, "timestamp": 1, "diagnosticEvent": content})
    assert shown("deploy", [error]) == "  beta no such setting\n"


def test_a_failed_stack_is_shown_with_its_reason() -> None:
    assert "beta failed: the [/] lock." in shown("deploy", [], Report("beta", "failed", "the [/] lock"))


def counted(recorded: Recorded) -> dict[str, int]:
    steps: dict[str, set[str]] = {}
    for kind, operation, name in recorded:
        if kind == OUTPUTS and not TYPES[name].startswith("pulumi:"):
            steps.setdefault(name, set()).add(operation)
    return tally(steps)


def test_a_replacement_is_counted_once() -> None:
    assert counted(REPLACEMENT) == {"replace": 1, "create": 1, "update": 1, "same": 1}


def test_drift_is_counted_by_the_result_of_the_refresh() -> None:
    assert counted(DRIFT) == {"delete": 1, "same": 1, "update": 1}


def test_deleting_the_rest_of_a_replacement_is_counted_as_a_deletion() -> None:
    assert tally({"role": {"same", "delete-replaced"}, "topic": {"refresh"}}) == {"delete": 1}


def test_a_replacement_is_counted_without_its_third_step() -> None:
    assert tally({"role": {"create-replacement", "delete-replaced"}}) == {"replace": 1}


def table(operation: Operation, *reports: Report) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(summary(reports, operation))
    return text.getvalue()


def test_the_summary_has_a_row_for_each_stack() -> None:
    done = Report("beta", changes={"create": 1, "replace": 2, "delete": 3, "update": 4, "same": 5}, seconds=61.25)
    rows = table("deploy", done, Report("gamma", "failed"), Report("delta", "left out"), Report("alpha"))
    header, *printed = (line.split() for line in rows.splitlines())
    assert header == ["stack", "outcome", "created", "updated", "replaced", "deleted", "unchanged", "seconds"]
    assert printed[0] == ["beta", "done", "1", "4", "2", "3", "5", "61.2"]
    assert printed[1] == ["gamma", "failed", "0", "0", "0", "0", "0", "0.0"]
    assert printed[2][:3] == ["delta", "left", "out"]
    assert printed[3][:3] == ["alpha", "no", "change"]


def test_the_headings_of_a_preview_s_summary_are_verbs() -> None:
    assert " ".join(table("preview").split()) == "stack outcome create update replace delete unchanged seconds"


def failure(stderr: str) -> CommandError:
    return create_command_error(CommandResult(stdout="", stderr=stderr, code=255))


LOCKED = (
    "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete the "
    "lock file with `pulumi cancel`.\n  file:///s/l.json: created by anna@host (pid 7) at 2026-11-24T12:00Z"
)


@pytest.mark.parametrize(
    ("stderr", "wanted"),
    [
        (LOCKED, "the stack is locked by anna@host (process 7) since 2026-11-24T12:00Z, and nothing was changed"),
        ("error: [409] Conflict: Another update is currently in progress.", "the stack is locked, and nothing was"),
        ("error: could not read current project\nerror: no Pulumi.yaml", "could not read current project no Pulumi"),
        (
            'error: could not load: yaml: unmarshal errors:\n  line 4: mapping key "a" already defined at line 2\n\nx',
            'could not load: yaml: unmarshal errors: line 4: mapping key "a" already defined at line 2',
        ),
        ("panic: what is this", "panic: what is this"),
    ],
)
def test_an_error_of_pulumi_becomes_a_sentence(stderr: str, wanted: str) -> None:
    message = explain(failure(stderr))
    assert wanted in message
    assert "\n" not in message or "error: " not in stderr
    assert ("run 'xfarm unlock s'" in message) is ("locked" in stderr)
    assert ("run 'pulumi cancel'" in message) is ("409" in stderr)
