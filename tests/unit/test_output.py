"""No text that leaves the program contains a credential: output, tracebacks, the page's responses, a step's summary."""

import html
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, HTTPClientError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pulumi.automation import CommandResult
from pulumi.automation.errors import create_command_error
from rich.console import Console
from tornado.escape import json_encode

from tests.support import serving
from tests.support.aws import Aws
from tests.support.undeployed import PIPELINE
from xfarm import cli, credentials
from xfarm.credentials import blank, remember
from xfarm.errors import UserError
from xfarm.orchestrator import aws_account, commands, local_environment, new_stack, targets
from xfarm.orchestrator.pulumi_cli import PulumiCli
from xfarm.watch.view import PipelineView

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEJr//////////wEaDEXAMPLE=="
GOOD = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_REGION": "eu-west-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
    "PATH": os.environ["PATH"],
}
SECRETS = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "GITHUB_TOKEN",
    "PULUMI_ACCESS_TOKEN",
    "PULUMI_CONFIG_PASSPHRASE",
]

WRITTEN: Final[list[Callable[[str], str]]] = [
    str,
    quote,
    lambda text: quote(text, safe=""),
    lambda text: re.sub("%..", lambda code: code[0].lower(), quote(text, safe="")),
    quote_plus,
    repr,
    ascii,
    lambda text: repr(text.encode()),
    json.dumps,
    lambda text: json.dumps(text, ensure_ascii=False),
    lambda text: json.dumps(repr(text)),
    lambda text: json.dumps({"url": f"https://host/?token={quote_plus(text)}"}),
    html.escape,
    json_encode,
]
"""The ways in which a text is quoted in another."""


@contextmanager
def forgetting() -> Iterator[None]:
    """Know no credential, and forget those of the block at its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials, "_forms", set[bytes]())
        yield


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    with forgetting():
        yield


def test_all_credentials_of_a_role_are_replaced_though_it_has_been_renewed_since() -> None:
    renewed = [f"{SECRET}/{number}" for number in range(10)]
    for credential in renewed:
        remember(credential)
        assert blank(credential) == credentials.PLACEHOLDER
    assert blank(" ".join(renewed)) == " ".join([credentials.PLACEHOLDER] * 10)


passphrases = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=8, max_size=40)


@given(passphrases, st.sampled_from(WRITTEN), st.text(), st.text())
@example("</script>", json_encode, "", "")
@example("a<b & c>d", html.escape, "", "")
@example('say "friend"\\', json.dumps, "{", "}")
def test_every_form_of_a_credential_is_replaced(
    value: str, write: Callable[[str], str], before: str, after: str
) -> None:
    with forgetting():
        remember(value)
        shown = blank(f"{before} {write(value)} {after}")
        if len(value.strip()) == len(value):
            assert write(value).strip("'\"b") not in shown
        assert blank(f"{before}{after}") == f"{before}{after}" or value[:1] in before + after


def written(*parts: str, encoding: str = "utf-8", values: tuple[str, ...] = (SECRET,)) -> str:
    """Return what reaches standard output of parts that are written and flushed one by one."""
    into = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(into, encoding, "backslashreplace"))
        credentials.guard_output()
        remember(*values)
        for part in parts:
            print(part, end="", flush=True)
        credentials.release_output()
        return into.getvalue().decode(encoding)


@given(st.lists(st.sampled_from([SECRET, "\n", "w", "wJ", SECRET[:-1], "x" * 99]), max_size=8), st.data())
def test_a_credential_is_replaced_however_it_is_cut_into_parts_and_the_rest_is_complete(
    texts: list[str], data: st.DataObject
) -> None:
    text = "".join(texts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert written(*parts) == text.replace(SECRET, "***")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_passphrase_is_replaced_in_any_encoding(encoding: str) -> None:
    assert written("Grüße, Łódź!", encoding=encoding, values=("Grüße, Łódź",)) == "***!"


@contextmanager
def guarded() -> Iterator[io.BytesIO]:
    """Guard standard output, and yield what is written to it."""
    into = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(into))
        credentials.guard_output()
        remember(SECRET)
        yield into


def test_a_prompt_is_shown_before_it_is_answered() -> None:
    with guarded() as into:
        print("Type 'yes' to deploy 'dev': ", end="", flush=True)
        assert into.getvalue() == b"Type 'yes' to deploy 'dev': "


def test_colours_in_a_credential_do_not_hide_it() -> None:
    value = "abc/12345/True/def=678"
    coloured = io.StringIO()
    Console(file=coloured, force_terminal=True, color_system="standard").print(f"it is {value}.")
    assert value not in coloured.getvalue()
    remember(value)
    assert blank(coloured.getvalue()) == "it is ***.\n"


def test_what_is_too_short_for_a_credential_is_left_alone() -> None:
    remember("test", "1234567", "", None)
    assert blank("this test of 1234567") == "this test of 1234567"


def test_binary_output_is_searched_too() -> None:
    with guarded() as into:
        sys.stdout.buffer.write(f"export KEY={SECRET}\n".encode())
        assert into.getvalue() == b"export KEY=***\n"


def test_passwords_in_urls_and_credentials_in_files_are_known(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("correct horse\n", encoding="utf-8")
    (tmp_path / "token").write_bytes(b"\xff")
    credentials.remember_environment(
        {
            "HTTPS_PROXY": f"http://anna:{quote(SECRET, safe='')}@proxy:8080",
            "PULUMI_BACKEND_URL": "postgres://anna:battery-staple@host/state",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(tmp_path / "passphrase"),
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "missing"),
        }
    )
    assert blank(f"{SECRET}, battery-staple, correct horse, anna, proxy") == "***, ***, ***, anna, proxy"


# The credentials that a command gets from AWS


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment to good credentials, and nothing else for AWS and Pulumi."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PULUMI_", "GITHUB_"))]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
def test_the_credentials_of_an_assumed_role_are_known(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_ASSUME_ROLE", "arn:aws:iam::123456789012:role/deploy")
    account = aws_account.identify(lambda _: None)
    found = account.session.get_credentials()
    assert found
    assert found.access_key.startswith("ASIAROLE")
    server = account.environment["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    for value in (found.access_key, found.secret_key, found.token, server):
        assert blank(f"<{value}>") == "<***>"


@pytest.mark.usefixtures("environment")
def test_the_credentials_of_a_profile_are_known(aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\n", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    aws_account.identify(lambda _: None)
    assert blank(f"{KEY_ID} {quote_plus(SECRET)}") == "*** ***"


# Whole commands

COMMANDS = [
    ["deploy", "dev", "--yes"],
    ["deploy", "--json"],
    ["preview", "dev"],
    ["destroy", "dev", "--yes"],
    ["drift", "dev", "--json"],
    ["outputs", "dev"],
    ["outputs", "dev", "--json"],
    ["unlock", "dev", "--yes"],
    ["bootstrap", "dev"],
    ["check", "dev"],
    ["send", "dev", __file__],
    ["status", "dev"],
    ["status", "dev", "--json"],
    ["watch", "dev"],
    ["dead-letters", "dev"],
    ["redrive", "dev"],
    ["audit", "dev", "--json"],
    ["reprocess", "dev"],
    ["logs", "dev", "--json"],
    ["reproduce", "dev", "inputs/a.csv"],
    ["develop"],
    ["new-stack", "prod"],
    ["env"],
    ["emulator", "start"],
    ["emulator", "status"],
]


def _caused(text: str) -> BaseException:
    error = UnicodeError("it can't be read")
    error.__cause__ = ValueError(text)
    error.add_note(f"it was {text}")
    return error


FAILURES: Final[list[Callable[[str], BaseException]]] = [
    lambda text: UserError(f"this is wrong: {text}."),
    lambda text: ClientError({"Error": {"Code": text, "Message": f"got {text}"}}, "GetObject"),
    lambda text: ClientError({"Error": {"Code": "ExpiredToken", "Message": text}}, text),
    lambda text: HTTPClientError(error=ValueError(f"malformed {text}")),
    lambda text: FileNotFoundError(2, "No such file", text),
    lambda text: OSError(28, text),
    KeyError,
    lambda text: create_command_error(CommandResult(text, f"error: no {text}\n  and {text}", 255)),
    lambda text: create_command_error(CommandResult("", f"panic: {text}", 2)),
    lambda text: ExceptionGroup(text, [ValueError(text)]),
    KeyboardInterrupt,
    SystemExit,
    _caused,
]


def output_of(arguments: list[str]) -> str:
    """Return all that a command, and Python after it, print."""
    out, err = io.BytesIO(), io.BytesIO()
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8"))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, "utf-8", "backslashreplace"))
        try:
            cli.xfarm(arguments)
        except SystemExit as done:
            if isinstance(done.code, str):  # as Python does
                print(done.code, file=sys.stderr)
        except BaseException as error:  # noqa: BLE001 - as Python does
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os.environ.clear()
            os.environ.update(before)
            credentials.release_output()
        return (out.getvalue() + err.getvalue()).decode()


odd = st.sampled_from(
    ["\r", "\n", "\r\n", "\t", " ", "  ", '"', "'", "`", "\\", "%", "ü", "\xa0", "\x1b", "\x7f", "{}"]
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Return a credential with something in it that does not belong there, or a good one."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    value = draw(st.text(alphabet, min_size=20, max_size=60))
    for damage in draw(st.lists(odd, max_size=2)):
        at = draw(st.integers(0, len(value)))
        value = value[:at] + damage + value[at:]
    return value


def assert_without(value: str, output: str) -> None:
    """Assert that neither a value nor a long part of it is in a text, in any form."""
    for part in {value, *re.split(r"[\s'\"\x1b\x7f]+", value)}:
        if len(part) >= credentials.MINIMUM:
            for write in WRITTEN:
                assert write(part).strip("'\"b") not in output


def break_everything(patch: pytest.MonkeyPatch, fail: Callable[..., Any], layer: str) -> None:
    """Let each command fail: when it reaches for AWS and the emulator, or when it reaches for Pulumi."""

    def pass_by(*_: object, **__: object) -> None:
        """Do nothing."""

    patch.setattr(BaseClient, "_make_api_call", fail)
    for module, name in ((local_environment, "prepare"), (local_environment, "emulator"), (new_stack, "create")):
        patch.setattr(module, name, fail)
    if layer == "Pulumi":
        patch.setattr(targets, "activate", pass_by)
        patch.setattr(PulumiCli, "run", fail)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@settings(max_examples=settings().max_examples // 12)  # for each command
@given(
    st.sampled_from(SECRETS),
    damaged(),
    st.sampled_from(WRITTEN),
    st.tuples(st.sampled_from(FAILURES), st.sampled_from(["AWS", "Pulumi"])),
)
def test_no_command_shows_a_credential_however_it_fails(
    arguments: list[str],
    variable: str,
    value: str,
    write: Callable[[str], str],
    failure: tuple[Callable[[str], BaseException], str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure[0](write(value))

    with forgetting(), pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "PULUMI_", "GITHUB_"))]:
            patch.delenv(name)
        for name, good in (GOOD | {variable: value}).items():
            patch.setenv(name, good)
        break_everything(patch, fail, failure[1])
        output = output_of(arguments)
    for each in (value, *(GOOD[name] for name in SECRETS[:3] if name != variable)):
        assert_without(each, output)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("arguments", COMMANDS[:-4], ids=" ".join)
def test_what_aws_quotes_of_a_request_is_not_shown(
    aws: Aws, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*_: object) -> dict[str, str]:
        raise UserError("the emulator is not part of this test.")

    monkeypatch.setattr(local_environment, "prepare", prepare)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    aws.refusals["GetCallerIdentity"] = "IncompleteSignature"
    for name in ("Authorization", "X-Amz-Security-Token"):
        aws.quoted = name
        output = output_of(arguments)
        for value in (KEY_ID, SECRET, TOKEN):
            assert_without(value, output)
        assert "Traceback" not in output


@pytest.mark.usefixtures("environment")
def test_a_credential_in_an_output_is_not_shown_and_the_json_remains_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def exports(_stack: str) -> dict[str, dict[str, Any]]:
        return {"storage": {"bucket_name": f"b {SECRET}"}}

    def activate(*_: object) -> None:
        """Do nothing."""

    monkeypatch.setattr(targets, "activate", activate)
    monkeypatch.setattr(commands, "exports", exports)
    assert json.loads(output_of(["outputs", "dev", "--json"])) == {"storage": {"bucket_name": "b ***"}}


# Other ways out


@pytest.mark.usefixtures("environment")
def test_the_summary_of_a_step_has_no_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def activate(_stack: str, notify: Callable[[str], None], **_: object) -> None:
        notify(f"It is {SECRET}.")
        raise UserError(f"not {quote_plus(TOKEN)}.")

    monkeypatch.setattr(targets, "activate", activate)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    output_of(["deploy", "dev", "--yes"])
    assert (tmp_path / "summary").read_text(encoding="utf-8") == "```text\nIt is ***.\nerror: not ***.\n```\n"


@pytest.mark.usefixtures("environment")
def test_a_summary_that_cannot_be_written_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def activate(*_: object, **__: object) -> None:
        raise UserError("it fails.")

    monkeypatch.setattr(targets, "activate", activate)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/none/summary")
    assert output_of(["deploy", "dev", "--yes"]) == (
        "GITHUB_STEP_SUMMARY names a file that can't be written: No such file or directory.\nerror: it fails.\n"
    )


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("error", [UserError, FAILURES[1], None])
def test_no_response_of_the_page_has_a_credential(
    monkeypatch: pytest.MonkeyPatch, error: Callable[[str], BaseException] | None
) -> None:
    def state(_view: PipelineView) -> dict[str, Any]:
        if error:
            raise error(f"no {SECRET}")
        return {"files": [{"text": f"no {SECRET}"}]}

    monkeypatch.setattr(PipelineView, "state", state)
    credentials.remember_environment(os.environ)
    with serving.served(PIPELINE) as page:
        status, headers, body = page.request("GET", "/state")
    assert status == (200 if error is None else 409 if error is UserError else 502)
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    assert "no ***" in str(json.loads(body))
    assert SECRET not in body.decode()


@pytest.mark.usefixtures("environment")
def test_the_page_itself_has_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", PIPELINE.function_name)  # 8 characters, which the page shows
    credentials.remember_environment(os.environ)
    with serving.served(PIPELINE) as page:
        body = page.request("GET", "/")[2].decode()
    assert PIPELINE.function_name not in body
    assert "***" in body
