"""The command line of the orchestrator: ``python -m orchestrator COMMAND [STACK]``."""

import argparse
import json
import sys

from rich.console import Console

from orchestrator import graph, targets
from orchestrator.display import Display, summary
from orchestrator.engine import Engine, Operation, Report, exports
from shared.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say and return the exit code: 0 where all of it was done."""
    options = _parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        if options.command == "bootstrap":
            targets.bootstrap(options.stack, say=console.print)
            return 0
        targets.enter(options.stack, say=Console(stderr=True, soft_wrap=True).print)
        if options.command == "outputs":
            return _outputs(options, console)
        _confirm(options, console)
        return _operate(options, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orchestrator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("deploy", "create or update the stacks, each after those it needs"),
        ("preview", "show what deploy would do"),
        ("destroy", "delete the stacks, each before those it needs"),
        ("outputs", "show what the stacks export"),
        ("bootstrap", "prepare the place where an AWS account keeps the stacks' state"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("stack", nargs="?", default=targets.LOCAL, help="which stack (default: %(default)s)")
        if name in {"deploy", "destroy"}:
            command.add_argument("--yes", action="store_true", help="do not ask")
        if name == "outputs":
            command.add_argument("--json", action="store_true", help="as JSON")
        elif name != "bootstrap":
            command.add_argument("--refresh", action="store_true", help="look first at what is really there")
    return parser


def _confirm(options: argparse.Namespace, console: Console) -> None:
    if options.command == "preview" or options.stack == targets.LOCAL or options.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{options.command} of '{options.stack}' needs --yes where nobody can be asked.")
    wanted = options.stack if options.command == "destroy" else "yes"
    if console.input(f"Type '{wanted}' to {options.command} '{options.stack}': ").strip() != wanted:
        raise UserError(f"that was not '{wanted}', so nothing was done.")


def _operate(options: argparse.Namespace, console: Console) -> int:
    operation: Operation = options.command
    planning = operation == "preview"
    reports: dict[str, Report] = {}
    needs: graph.Graph = graph.dependencies()
    in_order = graph.order(needs)

    with Display(console, planning=planning) as display:
        engine = Engine(options.stack, display.event)

        def run(project: str) -> bool:
            display.start(project)
            reports[project] = engine.run(project, operation, refresh=options.refresh)
            display.finish(reports[project])
            return reports[project].outcome != "failed"

        if operation == "destroy":
            needs = graph.dependents(needs)
            in_order.reverse()
        if planning:
            # A preview reads what is deployed, not what other previews plan: none has to wait, once all are there
            # to be referred to.
            for project in in_order:
                engine.open(project, create=True)
            needs = dict.fromkeys(needs, ())
        for project in graph.walk(needs, run):
            reports[project] = Report(project, outcome="left out")

    console.print(summary((reports[project] for project in in_order), planning=planning))
    if operation == "destroy" and not any(report.changes for report in reports.values()):
        console.print(f"Nothing is there: '{options.stack}' has no resources.")
    return 0 if all(report.outcome in {"done", "absent"} for report in reports.values()) else 1


def _outputs(options: argparse.Namespace, console: Console) -> int:
    exported = exports(options.stack)
    if options.json:
        print(json.dumps(exported, indent=2))
        return 0
    for project, values in exported.items():
        console.print(f"[bold]{project}[/]" + ("" if values else ": not deployed"))
        for name, value in (values or {}).items():
            console.print(f"  {name} = {value}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
