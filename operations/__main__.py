"""The command line of the operator: ``python -m operations send|status|dead-letters|redrive [STACK] ...``."""

import argparse
import sys
from pathlib import Path

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from operations import dead_letters, status
from operations.pipeline import deployed, explain
from operations.redrive import redrive
from operations.send import send
from orchestrator import targets
from orchestrator.engine import exports
from shared.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say and return the exit code: 0 where all went well."""
    options = _parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        _run(options, console)
    except UserError as error:
        return _complain(str(error))
    except (ClientError, BotoCoreError, Boto3Error) as error:
        return _complain(explain(error))
    except KeyboardInterrupt:
        print("interrupted: what was begun in AWS goes on there.", file=sys.stderr)
        return 130
    return 0


def _complain(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="operations", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "upload files, or the files of a folder, and follow each to its result"
    command = commands.add_parser("send", help=text, description=text, usage="operations send [STACK] FILE...")
    command.add_argument("files", nargs="+", metavar="FILE", help="a file or a folder")
    follow = command.add_mutually_exclusive_group()
    follow.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="follow for so many seconds (default: until a file that fails once has been tried again, which is the "
        "visibility timeout of the queue and the timeout of the function: 420, as the stacks come)",
    )
    follow.add_argument("--no-wait", dest="timeout", action="store_const", const=0, help="upload only")

    for name, text in (
        ("status", "say what is deployed, and how it is doing"),
        ("dead-letters", "show what is in the dead-letter queue, and leave it there"),
        ("redrive", "move what is in the dead-letter queue back into the main queue"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("stack", nargs="?", default=targets.LOCAL, help="which stack (default: %(default)s)")
        if name != "redrive":
            command.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.command == "send":
        stack, options.files = split(options.files, targets.known_stacks())
        if not options.files:
            raise UserError(f"name the files to send to '{stack}'.")
    else:
        stack = options.stack
    targets.enter(stack, say=_aside)
    exported = exports(stack)
    match options.command:
        case "send":
            send(deployed(stack, exported), map(Path, options.files), console, timeout=options.timeout)
        case "status":
            pipeline = deployed(stack, exported) if all(exported.values()) else None
            status.show(stack, status.stack_states(stack), pipeline, console, as_json=options.json)
        case "dead-letters":
            dead_letters.show(deployed(stack, exported), console, as_json=options.json)
        case "redrive":
            redrive(deployed(stack, exported), console)


def split(arguments: list[str], stacks: list[str]) -> tuple[str, list[str]]:
    """Return the stack that the first argument names, or else `local`, and the other arguments."""
    if arguments[0] in stacks:
        return arguments[0], arguments[1:]
    return targets.LOCAL, arguments


def _aside(line: str) -> None:
    """Say something that is no part of the answer."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
