"""No command prints a credential, whatever was copied with it into the environment or a profile."""

import getpass
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, InvalidDefaultsMode

from tests.support.aws import Aws
from xfarm.aws_errors import explain
from xfarm.cli import xfarm
from xfarm.errors import UserError
from xfarm.orchestrator import aws_account, targets
from xfarm.paths import ROOT
from xfarm.watch.server import RefusedError, errors_as_responses

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN"
GOOD = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_REGION": "eu-west-1",
}
VARIABLES = [
    *GOOD,
    "AWS_DEFAULT_REGION",
    "AWS_ASSUME_ROLE",
    "AWS_PROFILE",
    "AWS_SECURITY_TOKEN",
    "GITHUB_TOKEN",
    "PULUMI_ACCESS_TOKEN",
]

COMMANDS = [
    ["deploy", "dev", "--yes"],
    ["preview", "dev"],
    ["destroy", "dev", "--yes"],
    ["drift", "dev"],
    ["outputs", "dev"],
    ["bootstrap", "dev"],
    ["check", "dev"],
    ["send", "dev", __file__],
    ["status", "dev"],
    ["watch", "dev"],
    ["dead-letters", "dev"],
    ["redrive", "dev"],
]


def run(arguments: list[str]) -> int:
    """Run a command, and return its exit code."""
    with pytest.raises(SystemExit) as exited:
        xfarm(arguments)
    return int(exited.value.code or 0)


@pytest.fixture(autouse=True)
def clean_environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the user's settings for AWS and Pulumi, and set the endpoint of a fake AWS."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "PULUMI_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": aws.url,
    }.items():
        monkeypatch.setenv(name, value)


def assert_clean(printed: str) -> None:
    """Assert that there is no credential in the output, no signature and no traceback."""
    for part in (KEY_ID, SECRET, TOKEN, KEY_ID[:10], SECRET[:10], TOKEN[:10], SECRET[-10:], "Traceback"):
        assert part not in printed
    assert not re.search("signature=|AWS4-HMAC", printed, re.IGNORECASE)


ODD = {"\r": "a line break", "\n": "a line break", "\r\n": "a line break", "\t": "a tab", " ": "a space"}
QUOTES = dict.fromkeys("\"'`", "a quote")


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_command_refuses_a_malformed_credential_and_neither_sends_nor_prints_it(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str
) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    malformed = {value: odd for odd in ODD for value in (odd + SECRET, SECRET + odd, SECRET[:20] + odd + SECRET[20:])}
    malformed |= {SECRET[:20] + odd + SECRET[20:]: odd for odd in QUOTES}
    for value, odd in malformed.items():
        if variable == "AWS_PROFILE" and odd in " \"'`" and value.strip() == value:
            continue  # a profile's name may contain them
        monkeypatch.setenv(variable, value)
        for arguments in COMMANDS:
            assert run(arguments) == 1
            printed = "".join(capfd.readouterr())
            assert_clean(printed)
            assert f"error: {variable} contains {(ODD | QUOTES)[odd]}, " in printed
    assert aws.requests == []


def test_an_invalid_region_is_not_printed_because_it_may_be_a_credential(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (GOOD | {"AWS_REGION": KEY_ID}).items():
        monkeypatch.setenv(name, value)
    assert run(["preview", "dev"]) == 1
    printed = "".join(capfd.readouterr())
    assert_clean(printed)
    assert "AWS_REGION, or the region of your profile, is not a region" in printed
    assert aws.requests == []


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-east-1", "cn-north-1", "us-isob-east-1", "eusc-de-east-1"])
def test_regions_of_every_partition_are_accepted(monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    for name, value in (GOOD | {"AWS_REGION": region}).items():
        monkeypatch.setenv(name, value)
    assert aws_account.identify(lambda _: None).region == region


PROFILES = {
    "shared credentials": "aws_access_key_id = {key}\naws_secret_access_key = {secret}\naws_session_token = {token}\n",
    "credential_process": "credential_process = /bin/cat {answer}\n",
}


@pytest.mark.parametrize("source", PROFILES)
def test_a_malformed_credential_in_a_profile_is_refused_too(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], source: str
) -> None:
    answer, file = tmp_path / "answer.json", tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    for part, name in (("key", "the access key id"), ("secret", "the secret key"), ("token", "the session token")):
        for odd in ("\t", " ", "\xa0"):
            values = {"key": KEY_ID, "secret": SECRET, "token": TOKEN}
            values[part] = values[part][:10] + odd + values[part][10:]
            facts = {
                "Version": 1,
                "AccessKeyId": values["key"],
                "SecretAccessKey": values["secret"],
                "SessionToken": values["token"],
            }
            answer.write_text(json.dumps(facts), encoding="utf-8")
            file.write_text("[default]\n" + PROFILES[source].format(**values, answer=answer), encoding="utf-8")
            for arguments in COMMANDS:
                assert run(arguments) == 1
                printed = "".join(capfd.readouterr())
                assert_clean(printed)
                assert f"error: {name} of your AWS credentials" in printed
    assert aws.requests == []


@pytest.mark.parametrize(
    "process", [f"/bin/echo {SECRET}", f"/bin/sh -c 'echo {SECRET} >&2; exit 1'", f"/no/such/program {SECRET}"]
)
def test_the_output_of_a_credential_process_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], process: str
) -> None:
    file = tmp_path / "config"
    file.write_text(f"[default]\ncredential_process = {process}\n", encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert run(["preview", "dev"]) == 1
    printed = "".join(capfd.readouterr())
    assert_clean(printed)
    assert "error: the credential_process of your AWS profile failed" in printed


AUTHORIZATION = (
    f"AWS4-HMAC-SHA256 Credential={KEY_ID[:8]} {KEY_ID[8:]}/20261125/eu-west-1/sts/aws4_request, "
    "SignedHeaders=host, Signature=0123"
)


@pytest.mark.parametrize(
    "error",
    [
        HTTPClientError(error=ValueError(f"Invalid header value b'{TOKEN}\\n'")),
        HTTPClientError(error=ValueError(f"Invalid header value b'{AUTHORIZATION}\\n'")),
        ClientError(
            {
                "Error": {
                    "Code": "InvalidHeader",
                    "Message": f"'{KEY_ID}' not a valid pair in Authorization header: '{AUTHORIZATION}'",
                }
            },
            "GetObject",
        ),
        ClientError({"Error": {"Code": "Odd", "Message": f"got {AUTHORIZATION}"}}, "GetObject"),
    ],
    ids=["token", "authorization", "answer", "answer without a name"],
)
def test_no_message_about_an_error_of_botocore_or_aws_quotes_a_header(error: BotoCoreError | ClientError) -> None:
    with pytest.raises(UserError) as user_error, aws_account.aws_errors_as_user_errors():
        raise error
    with pytest.raises(RefusedError) as refused, errors_as_responses("dev"):
        raise error
    for message in (str(explain(error)), str(user_error.value), refused.value.message):
        assert_clean(message)


def test_a_sentence_ends_with_one_full_stop() -> None:
    error = InvalidDefaultsMode(mode="x", valid_modes="legacy")
    assert explain(error) == "Client configured with invalid defaults mode: x. Valid defaults modes include: legacy."
    assert explain(S3UploadFailedError("the disk is full")) == "the disk is full."
    assert explain(OSError("the disk is full")) is None


def test_the_orchestrator_is_imported_without_boto3() -> None:
    program = "import sys, xfarm.orchestrator.commands; print('boto3' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout == b"False\n"
    )


def test_a_password_in_the_state_s_url_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"postgres://anna:{SECRET}@host/state")
    assert run(["bootstrap", "dev"]) == 0
    printed = "".join(capfd.readouterr())
    assert_clean(printed)
    assert "postgres://host/state" in printed


# User names


@pytest.mark.parametrize("login", ["anna", "CORP\\Anna Müller", "ä", "x" * 300, "", "a b\n", "anna@corp.example"])
def test_aws_allows_the_session_name_of_any_user(monkeypatch: pytest.MonkeyPatch, login: str) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: login)
    assert re.fullmatch(r"[\w+=,.@-]{2,64}", aws_account.session_name(), re.ASCII)


@pytest.mark.parametrize("error", [OSError("No username set in the environment"), KeyError("uid not found: 12345")])
def test_a_user_without_a_name_has_a_session_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", fail)
    assert aws_account.session_name() == "xfarm-pipeline-unknown"


@pytest.mark.parametrize("user", [None, ""])
def test_pulumi_gets_a_user_name_if_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str | None
) -> None:
    (tmp_path / "pulumi").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("USER", raising=False)
    if user is not None:
        monkeypatch.setenv("USER", user)
    monkeypatch.setenv("PYTHONPATH", "/other/shared")
    before = dict(os.environ)
    try:
        targets.activate("dev", lambda _: None)
        assert os.environ["USER"] == "unknown"
        assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}/other/shared"  # for the stacks' programs
    finally:
        os.environ.clear()
        os.environ.update(before)
