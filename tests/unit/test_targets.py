"""Errors before a command changes anything: unknown stacks, credentials, regions, roles, backends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.account import KEYS, REGION_SETTING, SECRET
from tests.support.account import xfarm_in_this_process as xfarm
from tests.support.aws import Aws
from tests.support.checkout import free_port
from xfarm.emulator.server import REGION
from xfarm.errors import UserError
from xfarm.orchestrator import commands


def refusal(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Return the error message of a command, and assert that its output has no traceback and no credential."""
    assert done.returncode == code
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert SECRET not in printed
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return message


@pytest.mark.parametrize("command", ["deploy", "preview", "destroy", "outputs", "bootstrap"])
def test_the_error_for_an_unknown_stack_lists_the_known_ones(command: str) -> None:
    assert "no stack 'prod', only dev, local" in refusal(xfarm(command, "prod"), code=2)


def test_without_credentials(aws: Aws) -> None:
    sentence = refusal(xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, **REGION_SETTING))
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in sentence


@pytest.mark.parametrize("present", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_with_half_of_the_credentials(aws: Aws, present: str) -> None:
    half = {present: KEYS[present]}
    sentence = refusal(xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, **half, **REGION_SETTING))
    assert "no complete AWS credentials" in sentence


def test_without_a_region(aws: Aws) -> None:
    assert "set AWS_REGION" in refusal(xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, **KEYS))


def test_with_a_profile_that_is_not_there(aws: Aws) -> None:
    done = xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, AWS_PROFILE="nobody", **REGION_SETTING)
    assert "AWS_PROFILE" in refusal(done)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("ExpiredToken", "have expired"),
        ("InvalidClientTokenId", "check AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
        ("Throttling", "AWS refused GetCallerIdentity: test refusal (Throttling)."),
    ],
)
def test_with_credentials_that_aws_refuses(aws: Aws, code: str, wanted: str) -> None:
    aws.refusals["GetCallerIdentity"] = code
    assert wanted in refusal(xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, **KEYS, **REGION_SETTING))


@pytest.mark.parametrize("role", ["arn:aws:iam::123456789012:role/others", "no-arn"])
def test_with_a_role_that_may_not_be_assumed(aws: Aws, role: str) -> None:
    aws.refusals["AssumeRole"] = "AccessDenied"
    done = xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, AWS_ASSUME_ROLE=role, **KEYS, **REGION_SETTING)
    assert f"the role '{role}' in AWS_ASSUME_ROLE may not be assumed" in refusal(done)


def test_expired_credentials_are_reported_as_such_even_if_a_role_should_be_assumed(aws: Aws) -> None:
    aws.refusals["AssumeRole"] = "ExpiredToken"
    role = "arn:aws:iam::123456789012:role/mine"
    done = xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, AWS_ASSUME_ROLE=role, **KEYS, **REGION_SETTING)
    assert "have expired" in refusal(done)


def test_with_a_region_that_cannot_be_reached() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = xfarm("preview", "dev", AWS_ENDPOINT_URL=nowhere, **KEYS, **REGION_SETTING)
    assert "check AWS_REGION and your network" in refusal(done)


def test_with_a_malformed_region() -> None:
    assert "AWS_REGION" in refusal(xfarm("preview", "dev", AWS_REGION="not a region", **KEYS))


def test_without_pulumi(aws: Aws) -> None:
    done = xfarm("preview", "dev", AWS_ENDPOINT_URL=aws.url, PATH=os.devnull, **KEYS, **REGION_SETTING)
    assert "the Pulumi CLI is not on your PATH" in refusal(done)


@pytest.mark.parametrize("command", ["deploy", "drift"])
def test_with_a_pulumi_that_is_too_old(aws: Aws, tmp_path: Path, command: str) -> None:
    (tmp_path / "pulumi").write_text("#!/bin/sh\necho v3.255.0\n", encoding="utf-8")
    (tmp_path / "pulumi").chmod(0o700)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    sentence = refusal(xfarm(command, "dev", AWS_ENDPOINT_URL=aws.url, PATH=path, **KEYS, **REGION_SETTING))
    assert "requirement is 3.256.0, your current CLI version is 3.255.0" in sentence


@pytest.fixture
def pulumi_on_path(tmp_path: Path) -> str:
    """Return a PATH with a `pulumi` that must not be asked for more than its version."""
    pulumi = tmp_path / "pulumi"
    pulumi.write_text('#!/bin/sh\n[ "$*" = version ] && echo v3.259.0 || exit 99\n', encoding="utf-8")
    pulumi.chmod(0o700)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("status", "wanted"),
    [("404", "run 'xfarm bootstrap dev' once"), ("403", "belongs to another account than 123456789012")],
)
def test_without_a_state_bucket(aws: Aws, pulumi_on_path: str, status: str, wanted: str) -> None:
    aws.refusals["HEAD"] = status
    done = xfarm("deploy", "dev", "--yes", AWS_ENDPOINT_URL=aws.url, PATH=pulumi_on_path, **KEYS, **REGION_SETTING)
    assert wanted in refusal(done)
    assert aws.requests[-1] == f"HEAD /xfarm-pipeline-state-123456789012-{REGION}"


def test_bootstrap_does_not_use_a_bucket_of_another_account(aws: Aws) -> None:
    aws.refusals["HEAD"] = "403"
    done = xfarm("bootstrap", "dev", AWS_ENDPOINT_URL=aws.url, **KEYS, **REGION_SETTING)
    assert "belongs to another account" in refusal(done)
    assert len(aws.requests) == 2


@pytest.mark.parametrize("command", ["deploy", "destroy"])
def test_an_account_is_not_changed_without_confirmation(aws: Aws, pulumi_on_path: str, command: str) -> None:
    done = xfarm(command, "dev", AWS_ENDPOINT_URL=aws.url, PATH=pulumi_on_path, **KEYS, **REGION_SETTING)
    assert f"{command} of 'dev' needs --yes" in refusal(done, code=2)


def test_the_confirmation_of_destroy_mentions_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def answer(_console: Console, prompt: str) -> str:
        prompts.append(prompt)
        return "yes"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(Console, "input", answer)
    with pytest.raises(UserError, match="that was not 'dev', so nothing was done"):
        commands._confirm("destroy", "dev", Console())  # noqa: SLF001 - its callers need a terminal
    assert prompts == ["Type 'dev' to destroy 'dev' and all files in it: "]


def test_an_endpoint_in_the_environment_is_reported(aws: Aws, pulumi_on_path: str) -> None:
    done = xfarm("deploy", "dev", AWS_ENDPOINT_URL=aws.url, PATH=pulumi_on_path, **KEYS, **REGION_SETTING)
    assert f"AWS_ENDPOINT_URL is set: this goes to {aws.url}, not to AWS" in done.stderr
    assert (
        "Account 123456789012, region eu-west-1, Europe (Ireland), as arn:aws:iam::123456789012:user/anna."
        in done.stderr
    )
