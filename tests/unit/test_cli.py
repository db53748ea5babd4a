"""The command line: its arguments, messages and exit codes."""

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from click.testing import CliRunner, Result
from rich.console import Console
from rich.table import Table

from xfarm import cli
from xfarm.errors import UserError
from xfarm.operations import audit, discard, logs, pipeline, redrive, reproduce, send, status
from xfarm.orchestrator import commands, states, targets
from xfarm.paths import ROOT
from xfarm.watch import server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.xfarm, arguments)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a dictionary that records the arguments of `send`."""
    called: dict[str, Any] = {}

    def deployed(stack: str) -> None:
        called["stack"] = stack

    def record(_pipeline: object, files: Any, _console: object, *, timeout: float | None) -> None:  # noqa: ANN401 - any iterable
        called.update(files=list(map(str, files)), timeout=timeout)

    monkeypatch.setattr(cli, "_deployed", deployed)
    monkeypatch.setattr(send, "send", record)
    return called


@pytest.mark.parametrize(
    ("arguments", "stack", "files"),
    [
        (["README.md"], "local", ["README.md"]),
        (["dev", "a.csv"], "dev", ["a.csv"]),
        (["a.csv", "dev"], "local", ["a.csv", "dev"]),
        (["./dev"], "local", ["dev"]),
    ],
)
def test_only_a_known_name_before_the_files_is_a_stack(
    arguments: list[str], stack: str, files: list[str], sent: dict[str, Any]
) -> None:
    assert run("send", *arguments).exit_code == 0
    assert (sent["stack"], sent["files"]) == (stack, files)


@pytest.mark.parametrize(
    "arguments",
    [("local", "--timeout", "20", "a.csv"), ("local", "a.csv", "--timeout=20"), ("--timeout", "20", "a.csv")],
)
def test_options_may_be_anywhere(arguments: tuple[str, ...], sent: dict[str, Any]) -> None:
    assert run("send", *arguments).exit_code == 0
    assert sent == {"stack": "local", "files": ["a.csv"], "timeout": 20}


@pytest.mark.parametrize(("option", "timeout"), [((), None), (("--no-wait",), 0), (("--timeout", "0"), 0)])
def test_files_are_followed_unless_the_user_says_otherwise(
    option: tuple[str, ...], timeout: float | None, sent: dict[str, Any]
) -> None:
    assert run("send", "a.csv", *option).exit_code == 0
    assert sent["timeout"] == timeout


def test_send_without_files_is_wrong_usage(sent: dict[str, Any]) -> None:
    result = run("send", "dev")
    assert (result.exit_code, sent) == (2, {})
    assert "name the files to send to 'dev'" in result.stderr


def test_a_name_that_is_neither_a_stack_nor_a_file_is_reported_as_both(sent: dict[str, Any]) -> None:
    result = run("send", "prod", "examples")
    assert (result.exit_code, sent) == (1, {})
    assert result.stderr == "error: 'prod' is neither a stack (only dev, local), nor a file or folder.\n"


@pytest.mark.parametrize("timeout", ["nan", "-1", "soon"])
def test_a_timeout_that_is_not_a_number_of_seconds_is_wrong_usage(timeout: str, sent: dict[str, Any]) -> None:
    assert (run("send", "a.csv", "--timeout", timeout).exit_code, sent) == (2, {})


def test_nox_runs_a_command_in_the_folder_that_it_was_called_in(tmp_path: Path) -> None:
    nox = Path(sys.executable).with_name("nox")
    done = subprocess.run(
        [nox, "-f", ROOT / "noxfile.py", "-s", "send", "--", "docs", "a.csv"],  # the checkout has a folder docs
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'docs' is neither a stack (only dev, local), nor a file or folder." in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["status"], ["drift"]])
def test_columns_cuts_nothing_but_what_is_shown_at_a_terminal(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(_stack: str, _states: object, _pipeline: object, console: Console, **_: object) -> bool:
        console.print(Table("x" * 200))
        return True

    def summary(*_: object) -> Table:
        return Table("x" * 200)

    def no_outputs(_stack: str) -> dict[str, None]:
        return {}

    def nothing(*_: object, **__: object) -> None:
        """Do nothing."""

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(cli, "_states", no_outputs)
    monkeypatch.setattr(pipeline, "deployed", nothing)
    monkeypatch.setattr(status, "show", show)
    monkeypatch.setattr(targets, "activate", nothing)
    monkeypatch.setattr(commands, "_Session", Session)
    monkeypatch.setattr(commands, "summary", summary)
    assert "x" * 200 in run(*command).stdout


@pytest.mark.parametrize(
    ("command", "repairs"),
    [
        ("deploy", False),
        ("deploy --refresh", True),
        ("deploy --refresh --only storage", False),
        ("deploy dev --refresh", False),
        ("preview --refresh", False),
        ("destroy", True),
        ("drift", False),
    ],
)
def test_only_a_refresh_or_a_destruction_of_all_stacks_repairs_what_the_emulator_lost(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, repairs: bool
) -> None:
    def nothing(*_: object, **__: object) -> None:
        """Do nothing."""

    unsaved = tmp_path / ".local" / "emulator" / "unsaved"
    unsaved.parent.mkdir(parents=True)
    unsaved.touch()
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    monkeypatch.setattr(targets, "activate", nothing)
    monkeypatch.setattr(commands, "_Session", Session)
    run(*command.split())
    assert unsaved.exists() is not repairs


class Session:
    """A session in which nothing is done."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def run(self, _selected: object) -> list[object]:
        return []


DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "not for you"}}, "GetObject")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("fix it."), "error: fix it.\n"),
        (DENIED, "error: AWS refused GetObject: not for you (AccessDenied).\n"),
        (NoCredentialsError(), "error: Unable to locate credentials.\n"),
        (
            EndpointConnectionError(endpoint_url="http://x"),
            'error: Could not connect to the endpoint URL: "http://x".\n',
        ),
    ],
)
@pytest.mark.parametrize("command", ["status", "redrive", "deploy", "watch"])
def test_an_error_that_the_user_can_fix_is_one_sentence(
    command: str, error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(targets, "activate", fail)
    result = run(command)
    assert (result.exit_code, result.stderr) == (1, message)


@pytest.mark.parametrize(
    "command",
    ["deploy", "destroy", "bootstrap", "redrive", "preview", "drift", "outputs", "status", "watch", "dead-letters"],
)
def test_ctrl_c_stops_what_the_command_does_in_aws_only_if_it_does_something(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(targets, "activate", interrupt)
    monkeypatch.setattr(targets, "bootstrap", interrupt)
    changing = command in {"deploy", "destroy", "bootstrap", "redrive"}
    message = "interrupted: what has started in AWS continues there." if changing else "interrupted."
    assert run(command).stderr.splitlines()[-1] == f"error: {message}"


def test_any_other_error_is_a_bug_and_has_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(targets, "activate", fail)
    assert isinstance(run("status").exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["deploy", "--no-such-option"], ["nonsense"], ["deploy", "local", "more"]])
def test_wrong_usage_has_an_exit_code_of_its_own(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "nope"], "there is no project 'nope': choose one of storage, messaging, compute."),
        (["--from", "nope"], "there is no project 'nope': choose one of storage, messaging, compute."),
        (["--only", "storage", "--from", "compute"], "--only and --from exclude each other: give one of them."),
    ],
)
def test_a_selection_that_is_impossible_is_wrong_usage(arguments: list[str], sentence: str) -> None:
    result = run("deploy", *arguments)
    assert (result.exit_code, result.stderr) == (2, f"error: {sentence}\n")


def test_outputs_are_shown_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def exports(_stack: str) -> dict[str, dict[str, Any] | None]:
        return {"storage": {"text": "[bold]", "flag": True, "nothing": None, "list": ["a"]}}

    def activate(*_: object) -> None:
        """Do nothing."""

    monkeypatch.setattr(targets, "activate", activate)
    monkeypatch.setattr(commands, "exports", exports)
    lines = run("outputs").stdout.splitlines()
    assert lines == ["storage", "  text = [bold]", "  flag = true", "  nothing = null", '  list = ["a"]']


@pytest.mark.parametrize(
    "command",
    sorted(cli.xfarm.commands.keys() - {"send", "develop", "audit", "reprocess", "env", "emulator", "new-stack"}),
)
def test_an_unknown_stack_is_reported_with_the_known_ones(command: str) -> None:
    result = run(command, "nowhere", *(["inputs/a"] if command == "reproduce" else []))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: there is no stack 'nowhere', only dev, local")


@pytest.mark.parametrize("columns", [80, 100])
def test_no_short_help_is_cut(columns: int) -> None:
    result = CliRunner().invoke(cli.xfarm, ["--help"], terminal_width=columns, max_content_width=columns)
    assert all(command in result.output for command in cli.xfarm.commands)
    assert "..." not in result.output.partition("Commands:")[2]


@pytest.mark.parametrize("code", [0, 1, commands.DIFFERENT])
def test_the_exit_code_is_that_of_the_operation(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def operate(operation: str, stack: str, **options: object) -> int:
        assert (operation, stack, options["only"]) == ("drift", "dev", "storage")
        return code

    monkeypatch.setattr(commands, "operate", operate)
    assert run("drift", "--only", "storage", "dev").exit_code == code


@pytest.mark.parametrize(("stack", "writable"), [("local", True), ("dev", False)])
def test_only_the_page_of_the_emulator_is_writable(
    stack: str, *, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def deployed(stack: str) -> str:
        return f"pipeline of {stack}"

    def serve(pipeline: object, **options: object) -> None:
        given.update(options, pipeline=pipeline)

    monkeypatch.setattr(cli, "_deployed", deployed)
    monkeypatch.setattr(server, "run", serve)
    assert run("watch", stack, "--port", "1234").exit_code == 0
    assert given == {"pipeline": f"pipeline of {stack}", "port": 1234, "writable": writable}


def test_help_imports_nothing_that_only_commands_need() -> None:
    program = (
        "import sys, xfarm.cli; "
        "sys.exit(str([name for name in ('boto3', 'pulumi', 'rich', 'grpc') if name in sys.modules]))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert loaded.stderr == "[]\n"


def test_stacks_are_completed_in_the_shell() -> None:
    completed = subprocess.run(
        [Path(sys.executable).parent / "xfarm"],
        env={"_XFARM_COMPLETE": "bash_complete", "COMP_WORDS": "xfarm deploy d", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout == "plain,dev\n"


def test_the_error_on_windows_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "SYSTEM", "nt")
    assert "WSL" in run("deploy").stderr


def test_the_shell_commands_of_env_set_the_environment() -> None:
    before = {"AWS_PROFILE": "real", "KEPT": "1", "PATH": "/usr/bin:/bin"}
    after = {"KEPT": "1", "QUOTED": "it's $HOME; `x`", "EMPTY": "", "PATH": "/toolchain:/usr/bin:/bin"}
    commands = cli.shell_commands(before, after)
    assert not any("KEPT" in command for command in commands)
    script = "; ".join((*commands, "env -0"))
    result = subprocess.run(["/bin/sh", "-c", script], env=before, capture_output=True, text=True, check=True)
    entries = (entry.partition("=") for entry in result.stdout.rstrip("\0").split("\0"))
    shell = {name: value for name, _, value in entries}
    assert shell.items() - after.items() <= {(name, shell.get(name)) for name in ("PWD", "SHLVL", "_")}
    assert after.items() <= shell.items()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-11-26", datetime(2025, 11, 26, tzinfo=UTC)),
        ("2025-11-26T08:30:00Z", datetime(2025, 11, 26, 8, 30, tzinfo=UTC)),
        ("2025-11-26T08:30:00.5+01:00", datetime(2025, 11, 26, 7, 30, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_s3_writes_it(text: str, time: datetime) -> None:
    assert cli.Time().convert(text, None, None) == time


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30s", timedelta(seconds=30)), ("5m", timedelta(minutes=5)), ("2h", timedelta(hours=2)), ("1w", timedelta(7))],
)
def test_a_time_may_be_so_long_ago(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC)
    assert before <= cli.Time().convert(text, None, None) + ago <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["yesterday", "2x", "-1h", ""])
def test_what_is_not_a_time_is_refused(text: str) -> None:
    result = CliRunner().invoke(cli.xfarm, ["reprocess", "local", f"--since={text}"])
    assert result.exit_code == 2
    assert f"'{text}' is not a time such as 2026-11-26, 2026-11-26T08:30:00Z, or 2h for 2 hours ago." in result.output


def test_a_time_in_the_future_is_refused() -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    result = run("logs", "--since", tomorrow)
    assert result.exit_code == 2
    assert f"{tomorrow} is in the future." in result.output


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("audit", "prefix such as inputs/2026/"),
        ("reprocess", "prefix such as inputs/2026/"),
        ("develop", "file or folder"),
        ("send", "file or folder"),
    ],
)
def test_a_misspelled_stack_is_not_taken_for_what_follows_it(command: str, what: str) -> None:
    result = run(command, "prod")
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: 'prod' is neither a stack (only dev, local), nor a {what}.\n",
    )


@pytest.mark.parametrize(
    ("words", "stack", "prefix"),
    [
        ([], "local", ""),
        (["dev"], "dev", ""),
        (["inputs/a"], "local", "inputs/a"),
        (["dev", "inputs/a"], "dev", "inputs/a"),
        (["s3://bucket/inputs/a"], "local", "s3://bucket/inputs/a"),
    ],
)
def test_a_prefix_needs_no_stack_before_it(
    words: list[str], stack: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(pipeline: object, prefix: str, _console: object, **_: object) -> bool:
        called.append((pipeline, prefix))
        return True

    called: list[tuple[object, str]] = []
    monkeypatch.setattr(cli, "_deployed", str)
    monkeypatch.setattr(audit, "audit", record)
    assert run("audit", *words).exit_code == 0
    assert called == [(stack, prefix)]


def test_more_than_one_prefix_is_wrong_usage() -> None:
    result = run("reprocess", "dev", "inputs/a", "inputs/b")
    assert (result.exit_code, "give one prefix." in result.output) == (2, True)


def test_what_was_deleted_by_hand_is_said_with_the_command_that_creates_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ClientError(
        {"Error": {"Code": "ResourceNotFoundException", "Message": "no such log group"}}, "FilterLogEvents"
    )
    monkeypatch.setattr(targets, "activate", Mock())
    monkeypatch.setattr(states, "states", Mock(return_value={}))
    monkeypatch.setattr(pipeline, "deployed", Mock())
    monkeypatch.setattr(logs, "show", Mock(side_effect=error))
    assert run("logs", "dev").stderr == (
        "error: AWS refused FilterLogEvents: no such log group (ResourceNotFoundException). If that was deleted by "
        "hand, 'xfarm deploy dev --refresh' creates it again.\n"
    )


@pytest.fixture
def redriven(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a dictionary that records the arguments of `redrive` and `discard`."""
    called: dict[str, Any] = {}

    def record_redrive(pipeline: object, _console: object, **options: object) -> None:
        called.update(redrive=pipeline, **options)

    def record_discard(pipeline: object, _console: object, folder: Path, **options: object) -> None:
        called.update(discard=pipeline, folder=folder, **options)

    monkeypatch.setattr(cli, "_deployed", str)
    monkeypatch.setattr(cli, "_end_like_ctrl_c", Mock())
    monkeypatch.setattr(redrive, "redrive", record_redrive)
    monkeypatch.setattr(discard, "discard", record_discard)
    return called


def test_without_options_all_dead_letters_are_redriven_after_a_trial(redriven: dict[str, Any]) -> None:
    assert run("redrive").exit_code == 0
    assert redriven == {"redrive": "local", "cause": None, "key": None, "limit": None, "rate": None, "trial": True}


def test_a_redrive_has_a_choice_a_rate_and_no_trial_if_asked(redriven: dict[str, Any]) -> None:
    options = ("--cause", "4812", "--key", "k", "--limit", "3", "--rate", "2", "--no-trial")
    assert run("redrive", "dev", *options).exit_code == 0
    assert redriven == {"redrive": "dev", "cause": "4812", "key": "k", "limit": 3, "rate": 2, "trial": False}


@pytest.mark.parametrize(
    ("arguments", "ask"),
    [(("local",), False), (("dev",), True), (("dev", "--yes"), False), (("dev", "--limit=1"), True)],
)
def test_discarding_asks_unless_it_is_local(arguments: tuple[str, ...], redriven: dict[str, Any], *, ask: bool) -> None:
    assert run("redrive", *arguments, "--discard").exit_code == 0
    assert redriven["discard"] == arguments[0]
    assert (redriven["ask"], redriven["folder"]) == (ask, Path.cwd())
    assert "redrive" not in redriven


@pytest.mark.parametrize(
    "options",
    [
        ("--discard", "--rate", "1"),
        ("--discard", "--no-trial"),
        ("--rate", "0"),
        ("--rate", "501"),
        ("--limit", "0"),
        ("--limit", "many"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(options: tuple[str, ...], redriven: dict[str, Any]) -> None:
    assert (run("redrive", "dev", *options).exit_code, redriven) == (2, {})


@pytest.mark.parametrize(
    ("number", "before", "returned"),
    [
        (signal.SIGHUP, signal.SIG_DFL, 1),
        (signal.SIGTERM, signal.SIG_DFL, 1),
        (signal.SIGHUP, signal.SIG_IGN, 0),  # as in `nohup`
    ],
)
@pytest.mark.parametrize("command", ["redrive", "dead-letters", "reproduce", "reprocess", "send"])
def test_a_closed_terminal_or_kill_is_like_ctrl_c_unless_ignored(
    command: str, number: signal.Signals, before: signal.Handlers, returned: int
) -> None:
    arguments = [command, "local", *(["README.md"] if command == "send" else [])]
    program = (
        "import os, signal, sys\n"
        "from xfarm import cli\n"
        f"signal.signal({number:d}, signal.Handlers({before:d}))\n"
        f"cli._deployed = lambda _: (os.kill(os.getpid(), {number:d}), sys.exit(0))\n"
        f"cli.xfarm({arguments})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == returned, done.stderr
    assert ("error: interrupted" in done.stderr) is bool(returned)


@pytest.mark.parametrize(
    ("arguments", "stack", "what"),
    [(["inputs/a"], "local", "inputs/a"), (["dev", "inputs/a"], "dev", "inputs/a"), (["dev"], "local", "dev")],
)
def test_the_last_word_is_what_to_reproduce(
    arguments: list[str], stack: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(deployed: str, name: str, _console: object, *, debug: bool) -> None:
        called.update(stack=deployed, what=name, debug=debug)

    called: dict[str, object] = {}
    monkeypatch.setattr(cli, "_deployed", str)
    monkeypatch.setattr(reproduce, "reproduce", record)
    assert run("reproduce", *arguments, "--pdb").exit_code == 0
    assert called == {"stack": stack, "what": what, "debug": True}


@pytest.mark.parametrize("arguments", [(), ("dev", "a", "b")])
def test_only_one_file_is_reproduced(arguments: tuple[str, ...]) -> None:
    assert run("reproduce", *arguments).exit_code == 2
