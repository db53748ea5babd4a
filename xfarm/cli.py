"""The command line: all commands, and the place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from xfarm import credentials
from xfarm.errors import UserError
from xfarm.paths import ROOT

if TYPE_CHECKING:
    from xfarm.operations.pipeline import Exports, Pipeline
    from xfarm.orchestrator.engine import Operation

LOCAL: Final = "local"
CHANGING: Final = {"deploy", "destroy", "bootstrap", "send", "redrive"}
"""The commands that change something in AWS."""
OURS: Final = {"lambda_code", "shared", "xfarm"}
"""The packages of this project."""
SYSTEM: Final = os.name
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Program(click.Group):
    """The group of all commands, in the order of their declaration."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as in the base class
        """Return the names of the commands."""
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in the base class
        """Run the program, and report output that can't be written, even if the error comes at the end."""
        credentials.guard_output()
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                credentials.release_output()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE} or error.filename is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where Python writes the rest when it ends
            if error.errno != errno.EPIPE:  # as in `xfarm status | head`
                UserError(f"the output can't be written: {error.strerror}.").show()
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in the base class
        """Run a command, and turn errors of AWS and Ctrl-C into a `UserError`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            going_on = ": what has started in AWS continues there" if ctx.invoked_subcommand in CHANGING else ""
            raise UserError(f"interrupted{going_on}.") from None
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in OURS:
                raise
            raise UserError(
                f"the package '{package}' is not installed in {sys.prefix}: "
                f"run {sys.executable} -m pip install -c constraints.txt -e '.[local]' in the project's folder."
            ) from error
        except Exception as error:
            from xfarm.aws_errors import explain

            if message := explain(error, ctx.obj):
                raise UserError(message) from error
            raise


def _stacks(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from xfarm.orchestrator.targets import known_stacks

    return [stack for stack in known_stacks() if stack.startswith(incomplete)]


def _projects(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from xfarm.orchestrator.graph import dependencies

    return [project for project in dependencies() if project.startswith(incomplete)]


_stack = click.argument("stack", default=LOCAL, shell_complete=_stacks)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation; for `local`, no command asks.")
_refresh = click.option("--refresh", is_flag=True, help="First update the state from what exists in AWS.")


def _selection(command: _Command) -> _Command:
    """Add the options that select projects to a command."""
    command = click.option(
        "--from", "first", metavar="PROJECT", shell_complete=_projects, help="This project and all that need it."
    )(command)
    return click.option("--only", metavar="PROJECT", shell_complete=_projects, help="Only this project.")(command)


class Time(click.ParamType[datetime]):
    """A time, as S3 and `xfarm audit --json` print it, in UTC if it has no time zone; or how long ago, as in `2h`."""

    name = "time"
    units: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401 - as in the base class
        """Return the time."""
        ago = re.fullmatch(r"([0-9]{1,5})([smhdw])", str(value))
        try:
            if ago:
                return datetime.now(UTC) - timedelta(**{self.units[ago[2]]: int(ago[1])})
            time = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"'{value}' is not a time such as 2026-11-26, 2026-11-26T08:30:00Z, or 2h for 2 hours ago.", param, ctx
            )
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        if time > datetime.now(UTC):
            self.fail(f"{value} is in the future.", param, ctx)
        return time


_since = click.option(
    "--since", type=Time(), metavar="TIME", help="Only since then: a time in UTC, or an age such as 30m, 2h or 7d."
)


def _notify(message: str) -> None:
    """Print a message that is not part of the command's output."""
    click.echo(message, err=True)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 there is drift, or a change that --exit-code asks for.",
)
@click.version_option(package_name="xfarm-pipeline", message="%(version)s")
def xfarm() -> None:
    """Deploy and operate the pipeline.

    STACK is `local` by default, the AWS emulator on this machine.
    """
    if SYSTEM != "posix":
        raise UserError("xfarm runs on Linux and macOS: on Windows, use WSL.")
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a closed one is None
        # Print characters that the terminal's encoding lacks as escapes.
        stream.reconfigure(errors="backslashreplace")  # pyrefly: ignore[missing-attribute]


def _operate(operation: Operation, stack: str, **options: Any) -> None:  # noqa: ANN401 - options of several commands
    from xfarm.orchestrator import commands

    sys.exit(commands.operate(operation, stack, **options))


@xfarm.command()
@_stack
@_selection
@_refresh
@_yes
@_json
def deploy(stack: str, **options: Any) -> None:  # noqa: ANN401 - see `_operate`
    """Create or update the stacks."""
    _operate("deploy", stack, **options)


@xfarm.command()
@_stack
@_selection
@_refresh
@_json
@click.option("--exit-code", is_flag=True, help="Exit with 3 if anything would change.")
def preview(stack: str, **options: Any) -> None:  # noqa: ANN401 - see `_operate`
    """Show what `deploy` would change."""
    _operate("preview", stack, **options)


@xfarm.command()
@_stack
@_selection
@_refresh
@_yes
@_json
def destroy(stack: str, **options: Any) -> None:  # noqa: ANN401 - see `_operate`
    """Delete the stacks and everything in them, files included."""
    _operate("destroy", stack, **options)


@xfarm.command()
@_stack
@_selection
@_json
def drift(stack: str, **options: Any) -> None:  # noqa: ANN401 - see `_operate`
    """Show what was changed by hand. The exit code is 3 if anything was."""
    _operate("drift", stack, **options)


@xfarm.command()
@_stack
@_json
def outputs(stack: str, *, as_json: bool) -> None:
    """Show the stacks' outputs."""
    from xfarm.orchestrator import commands

    commands.show_outputs(stack, as_json=as_json)


@xfarm.command()
@_stack
@_yes
def unlock(stack: str, *, yes: bool) -> None:
    """Release the locks that a killed deployment left."""
    from xfarm.orchestrator.unlock import unlock as operation

    operation(stack, yes=yes)


@xfarm.command()
@_stack
def bootstrap(stack: str) -> None:
    """Create the bucket for Pulumi's state. Needed once for each AWS account and region."""
    from xfarm.orchestrator import targets

    targets.bootstrap(stack, _notify)


@xfarm.command(name="new-stack")
@click.argument("name")
def new_stack(name: str) -> None:
    """Write the settings of a new stack, a copy of those of `dev`."""
    from xfarm.orchestrator import new_stack as operation

    operation.create(name, _notify)


def _number(_context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Return the value of an option, which `click.FloatRange` accepts even if it is "nan"."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("'nan' is not a number.", param=parameter)
    return value


@xfarm.command()
@_stack
def check(stack: str) -> None:
    """Show what would stop a deployment."""
    from xfarm.orchestrator import targets

    sys.exit(targets.check(stack, _notify))


@xfarm.command()
@click.argument("paths", metavar="[STACK] FILE...", nargs=-1, required=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    callback=_number,
    metavar="SECONDS",
    help="How long to follow the files; by default, long enough for one retry.",
)
@click.option("--no-wait", "timeout", flag_value=0.0, type=float, help="Upload only.")
def send(paths: tuple[str, ...], timeout: float | None) -> None:
    """Upload files or folders, and follow each file to its result."""
    from xfarm.operations.send import send as send_files

    stack, files = _stack_and(paths, "file or folder")
    if not all(files) or not files:
        raise click.UsageError(f"name the files to send to '{stack}'; an empty name is not one.")
    _end_like_ctrl_c()
    send_files(_deployed(stack), map(Path, files), _console(), timeout=timeout)


@xfarm.command()
@click.argument("paths", metavar="[STACK] [FILE]...", nargs=-1, shell_complete=_stacks)
def develop(paths: tuple[str, ...]) -> None:
    """Deploy each change of the function's code, and process files."""
    from xfarm.operations.develop import develop as operation

    stack, files = _stack_and(paths, "file or folder")
    _end_like_ctrl_c()
    operation(_deployed(stack), ROOT / "lambda_code", tuple(map(Path, files)) or (ROOT / "examples",), _console())


@xfarm.command()
@_stack
@_json
def status(stack: str, *, as_json: bool) -> None:
    """Show what is deployed, and the messages in the queues. The exit code is 1 if a part is missing in AWS."""
    from xfarm.operations import status as operation
    from xfarm.operations.pipeline import NotDeployedError, deployed
    from xfarm.orchestrator.states import outputs

    found = _states(stack)
    try:
        pipeline = deployed(stack, outputs(found))
    except NotDeployedError as error:
        pipeline = error
    sys.exit(0 if operation.show(stack, operation.stack_states(found), pipeline, _console(), as_json=as_json) else 1)


@xfarm.command()
@_stack
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8347, help="The port of the page; by default, it is 8347."
)
def watch(stack: str, port: int) -> None:
    """Serve a live page of the pipeline. For `local`, you can drop files on it."""
    from xfarm.watch.server import run

    run(_deployed(stack), port=port, writable=stack == LOCAL)


@xfarm.command(name="dead-letters")
@_stack
@_json
def dead_letters(stack: str, *, as_json: bool) -> None:
    """List the files that could not be processed, by their causes."""
    from xfarm.operations import dead_letters as operation

    _end_like_ctrl_c()
    operation.show(_deployed(stack), _console(stderr=as_json), as_json=as_json)


@xfarm.command()
@_stack
@click.option("--cause", metavar="NUMBER", help="Only the dead letters of this cause, as `dead-letters` numbers it.")
@click.option("--key", metavar="KEY", help="Only this file.")
@click.option("--limit", type=click.IntRange(min=1), metavar="COUNT", help="At most this many.")
@click.option("--rate", type=click.IntRange(1, 500), help="Files a second at most.")
@click.option("--no-trial", is_flag=True, help="Move all at once, without trying one first.")
@click.option("--discard", is_flag=True, help="Move them to a file in the current folder instead.")
@_yes
def redrive(stack: str, *, discard: bool, yes: bool, rate: int | None, no_trial: bool, **choice: Any) -> None:  # noqa: ANN401 - passed on
    """Move the dead letters back to the main queue."""
    from xfarm.operations.discard import discard as to_file
    from xfarm.operations.redrive import redrive as operation

    if discard and (rate or no_trial):
        raise click.UsageError("--discard moves nothing to the main queue, so it takes no --rate or --no-trial.")
    _end_like_ctrl_c()
    if discard:
        to_file(_deployed(stack), _console(), Path.cwd(), **choice, ask=not yes and stack != LOCAL)
    else:
        operation(_deployed(stack), _console(), **choice, rate=rate, trial=not no_trial)


_prefix = click.argument("words", metavar="[STACK] [PREFIX]", nargs=-1, shell_complete=_stacks)


def _stack_and_prefix(words: tuple[str, ...]) -> tuple[str, str]:
    """Return the stack and the prefix that were given, `local` and "" by default."""
    stack, prefixes = _stack_and(words, "prefix such as inputs/2026/")
    if prefixes[1:]:
        raise click.UsageError("give one prefix.")
    return stack, "".join(prefixes)


@xfarm.command()
@_prefix
@click.option(
    "--thorough", is_flag=True, help="Compare each result's recorded ETag with its file; by default, compare times."
)
@_json
def audit(words: tuple[str, ...], *, thorough: bool, as_json: bool) -> None:
    """Show which files have no result, and why. The exit code is 1 if any is lost."""
    from xfarm.operations import audit as operation

    stack, prefix = _stack_and_prefix(words)
    complete = operation.audit(_deployed(stack), prefix, _console(stderr=as_json), thorough=thorough, as_json=as_json)
    sys.exit(0 if complete else 1)


@xfarm.command()
@_prefix
@click.option("--missing", is_flag=True, help="Only files that `audit` finds lost.")
@_since
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Only the keys in this file, a line each."
)
@click.option("--after", metavar="KEY", help="Go on after this key, where an interrupted command ended.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    default=10,
    show_default=True,
    help="Files a second at most.",
)
@click.option("--dry-run", is_flag=True, help="Show the files, and change nothing.")
def reprocess(words: tuple[str, ...], since: datetime | None, **options: Any) -> None:  # noqa: ANN401 - passed on
    """Process files again that are in the bucket."""
    from xfarm.operations.reprocess import reprocess as operation

    if sum((bool(since), bool(options["source"]), options["missing"])) > 1:
        raise click.UsageError("--missing, --since and --from exclude each other: give one of them.")
    stack, prefix = _stack_and_prefix(words)
    _end_like_ctrl_c()
    operation(_deployed(stack), _console(), prefix=prefix, since=since, **options)


@xfarm.command()
@_stack
@click.option("--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--key", metavar="KEY", help="Only this file.")
@click.option("--errors", is_flag=True, help="Only failures.")
@_since
@_json
def logs(stack: str, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - passed on
    """Show the function's log: the attempts at each file. By default, of the last hour."""
    from xfarm.operations import logs as operation

    operation.show(_deployed(stack), _console(), as_json=as_json, **options)


@xfarm.command()
@click.argument("words", metavar="[STACK] KEY|MESSAGE-ID|FILE", nargs=-1, required=True)
@click.option("--pdb", is_flag=True, help="Start Python's debugger where an error is raised.")
def reproduce(words: tuple[str, ...], *, pdb: bool) -> None:
    """Process a file on this machine, and compare the result."""
    from xfarm.operations.reproduce import reproduce as operation

    stack, *what = words if words[1:] else (LOCAL, *words)
    if len(what) != 1:
        raise click.UsageError("name one stack, and one key, message or file.")
    _end_like_ctrl_c()
    operation(_deployed(stack), what[0], _console(), debug=pdb)


@xfarm.command()
def env() -> None:
    """Print shell commands that set the environment of `local`. Starts the emulator."""
    from xfarm.orchestrator import local_environment

    commands = shell_commands(dict(os.environ), local_environment.prepare(ROOT, _notify))
    click.echo(os.fsencode("\n".join(commands)))  # paths may not be UTF-8


def shell_commands(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the shell commands that turn the environment `before` into `after`."""
    unset = [f"unset {name}" for name in sorted(before.keys() - after.keys())]
    changed = sorted(name for name, value in after.items() if before.get(name) != value)
    return unset + [f"export {name}={shlex.quote(after[name])}" for name in changed]


@xfarm.command()
@click.argument("action", type=click.Choice(["start", "stop", "status"]))
def emulator(action: str) -> None:
    """Start or stop the AWS emulator, or show whether it runs. It keeps its data."""
    from xfarm.orchestrator import local_environment
    from xfarm.waiting import announced

    account = local_environment.emulator(ROOT)
    with local_environment.os_errors_as_user_errors(ROOT):
        if action == "start":
            local_environment.start(account, _notify)
        if action == "stop":
            with announced(lambda: "Waiting for the AWS emulator to save its data and stop."):
                account.stop()
        running = account.current()
    ended = "is stopped" if action == "stop" else "is not running"
    _notify(f"The AWS emulator {f'runs at {running.endpoint}' if running else ended}.")
    sys.exit(0 if running or action == "stop" else 1)


def _stack_and(words: tuple[str, ...], others: str) -> tuple[str, tuple[str, ...]]:
    """Return the stack that the first word names, `local` if it names none, and the other words.

    Raises:
        UserError: The first word looks like a stack's name, but is not one, nor a file's.
    """
    from xfarm.orchestrator import targets

    known = targets.known_stacks()
    if not words:
        return LOCAL, ()
    if words[0] in known:
        return words[0], words[1:]
    if re.fullmatch(r"[\w-]+", words[0]) and not os.path.lexists(words[0]):
        raise UserError(f"'{words[0]}' is neither a stack (only {', '.join(known)}), nor a {others}.")
    return LOCAL, words


def _end_like_ctrl_c() -> None:
    """Let a closed terminal and `kill` end this process like Ctrl-C.

    It makes received messages visible again, puts the deployed code back, or says how to go on.
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in `nohup`
            signal.signal(number, signal.default_int_handler)


def _states(stack: str) -> dict[str, Any]:
    from xfarm.orchestrator import targets
    from xfarm.orchestrator.states import states

    targets.activate(stack, _notify)
    click.get_current_context().find_root().obj = stack  # what AWS reports missing from now on is a part of it
    return states(stack)


def _exports(stack: str) -> Exports:
    from xfarm.orchestrator.states import outputs

    return outputs(_states(stack))


def _deployed(stack: str) -> Pipeline:
    from xfarm.operations.pipeline import deployed

    return deployed(stack, _exports(stack))


def _console(*, stderr: bool = False) -> Any:  # noqa: ANN401 - the type is imported below
    from xfarm.console import make_console

    return make_console(stderr=stderr)
