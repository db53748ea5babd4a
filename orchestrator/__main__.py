"""The command line of the orchestrator: ``python -m orchestrator COMMAND [STACK]``."""

import argparse
import json
import signal
import sys
import threading
from dataclasses import asdict

from rich.console import Console

from orchestrator import graph, targets
from orchestrator.display import Display, summary
from orchestrator.engine import Engine, Operation, Report, exports
from shared.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say and return the exit code: 0 where all of it was done, and, for drift, none is there."""
    options = _parser().parse_args(arguments)
    say = Console(stderr=True, soft_wrap=True, highlight=False).print
    try:
        if options.command == "bootstrap":
            targets.bootstrap(options.stack, say)
            return 0
        targets.enter(options.stack, say, engines=options.command != "outputs")
        if options.command == "outputs":
            return _outputs(options)
        return _operate(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted before anything was begun.", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orchestrator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("deploy", "create or update the stacks, each after those it needs"),
        ("preview", "show what deploy would do"),
        ("destroy", "delete the stacks, each before those it needs"),
        ("drift", "show what was changed by hand; exit code 1 where anything was"),
        ("outputs", "show what the stacks export"),
        ("bootstrap", "prepare the place where an AWS account keeps the stacks' state"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("stack", nargs="?", default=targets.LOCAL, help="which stack (default: %(default)s)")
        if name in {"deploy", "destroy"}:
            command.add_argument("--yes", action="store_true", help="do not ask")
        if name in {"deploy", "preview", "destroy"}:
            command.add_argument("--refresh", action="store_true", help="look first at what is really there")
        if name not in {"outputs", "bootstrap"}:
            which = command.add_mutually_exclusive_group()
            which.add_argument("--only", metavar="PROJECT", help="this project alone")
            which.add_argument("--from", metavar="PROJECT", dest="first", help="this project and all that need it")
        if name != "bootstrap":
            command.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _operate(options: argparse.Namespace) -> int:
    operation: Operation = options.command
    console = Console(soft_wrap=True, stderr=options.json)
    everything = graph.dependencies()
    chosen = _chosen(options, everything)
    _confirm(options, console)
    reports: dict[str, Report] = {}

    with Display(console, operation) as display:
        interrupted = threading.Event()
        engine = Engine(options.stack, display.event, display.say, interrupted)
        _refuse_gaps(engine, operation, everything, chosen)
        _stop_at_a_safe_point(console, interrupted)

        def run(project: str) -> bool:
            if interrupted.is_set():
                reports[project] = Report(project, outcome="left out")
                return False
            display.start(project)
            reports[project] = engine.run(project, operation, refresh=getattr(options, "refresh", False))
            if interrupted.is_set() and reports[project].outcome == "failed":
                reports[project].outcome = "stopped"
            display.finish(reports[project])
            return reports[project].outcome != "failed"

        needs = graph.part(everything, chosen)
        in_order = graph.order(needs)
        if operation == "destroy":
            needs = graph.dependents(needs)
            in_order.reverse()
        elif operation == "deploy":
            engine.create_missing(chosen)
        else:
            # A preview reads what is deployed, not what other previews plan: none has to wait for another, once all
            # are there to be referred to.
            if operation == "preview":
                engine.create_missing(everything)
            needs = dict.fromkeys(needs, ())
        for project in graph.walk(needs, run):
            reports[project] = Report(project, outcome="left out")

    return _show([reports[project] for project in in_order], options, console)


def _show(in_turn: list[Report], options: argparse.Namespace, console: Console) -> int:
    """Show what was done, and return the exit code that it comes to."""
    operation: Operation = options.command
    good = all(report.outcome in {"done", "absent"} for report in in_turn)
    if options.json:
        print(json.dumps([asdict(report) for report in in_turn], indent=2))
    else:
        console.print(summary(in_turn, operation))
        if operation == "destroy" and good and not any(report.changes for report in in_turn):
            console.print(f"Nothing is there: '{options.stack}' has no resources.")
    drifted = operation == "drift" and any(report.changed for report in in_turn)
    return 0 if good and not drifted else 1


def _chosen(options: argparse.Namespace, everything: graph.Graph) -> set[str]:
    named = options.only or options.first
    if named and named not in everything:
        raise UserError(f"there is no project '{named}': name one of {', '.join(graph.order(everything))}.")
    if options.only:
        return {options.only}
    return graph.with_dependents(everything, options.first) if options.first else set(everything)


def _refuse_gaps(engine: Engine, operation: Operation, everything: graph.Graph, chosen: set[str]) -> None:
    """Refuse to deploy upon what is not there, and to destroy what others stand on.

    Raises:
        UserError: The projects that were named leave out one that would have to come first.
    """
    if operation == "deploy":
        around, wanted, advice = everything, False, "deploy it first"
    elif operation == "destroy":
        around, wanted, advice = graph.dependents(everything), True, "destroy it first"
    else:
        return
    for project in graph.order(graph.part(everything, chosen)):
        for other in around[project]:
            if other not in chosen and (engine.resources(other) > 0) is wanted:
                state = "still deployed and needs it" if wanted else "not deployed, and it needs that"
                raise UserError(f"'{project}' can't be {_DONE[operation]}: '{other}' is {state}. So {advice}.")


_DONE = {"deploy": "deployed", "destroy": "destroyed"}


def _confirm(options: argparse.Namespace, console: Console) -> None:
    if options.command not in _DONE or options.stack == targets.LOCAL or options.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{options.command} of '{options.stack}' needs --yes where nobody can be asked.")
    wanted = options.stack if options.command == "destroy" else "yes"
    if console.input(f"Type '{wanted}' to {options.command} '{options.stack}': ").strip() != wanted:
        raise UserError(f"that was not '{wanted}', so nothing was done.")


def _stop_at_a_safe_point(console: Console, interrupted: threading.Event) -> None:
    """Make Ctrl-C let the engine, which hears it too, finish what it is doing, and nothing else be begun."""

    def note(_number: int, _frame: object) -> None:
        if not interrupted.is_set():
            console.print("Stopping as soon as what has been begun is done; Ctrl-C again stops at once.")
        interrupted.set()

    signal.signal(signal.SIGINT, note)


def _outputs(options: argparse.Namespace) -> int:
    exported = exports(options.stack)
    if options.json:
        print(json.dumps(exported, indent=2))
        return 0
    console = Console(soft_wrap=True, highlight=False)
    for project, values in exported.items():
        console.print(f"[bold]{project}[/]" + ("" if values else ": not deployed"))
        for name, value in (values or {}).items():
            console.print(f"  {name} = {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
