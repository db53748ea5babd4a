"""The credentials of a role are renewed for as long as a command runs; the end of others is announced."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.utils import ContainerMetadataFetcher

from tests.support.aws import Aws
from xfarm.aws_errors import explain
from xfarm.errors import UserError
from xfarm.orchestrator import aws_account, role

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}
ROLE = "arn:aws:iam::123456789012:role/deployer"
KEY_ID = KEYS["AWS_ACCESS_KEY_ID"]


@pytest.fixture(autouse=True)
def environment(aws: Aws) -> Iterator[None]:
    """Set keys and a role, at the endpoint of a fake AWS, and put the environment back afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        values = {"AWS_ASSUME_ROLE": ROLE, "AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": aws.url}
        values |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        for name, value in (KEYS | values).items():
            patch.setenv(name, value)
        yield


def ignore(_: str) -> None:
    """Take a message, and do nothing."""


def test_credentials_of_a_role_are_renewed_before_they_end(aws: Aws) -> None:
    aws.role_s = 60  # within the minutes before the end in which botocore no longer uses them
    sts = aws_account.identify(ignore).session.client("sts")
    sts.get_caller_identity()
    sts.get_caller_identity()
    # The role is assumed with the user's key, and what is then done, with the newest of the role.
    used = dict(zip(aws.keys, aws.requests, strict=True))
    assert used[KEY_ID] == "AssumeRole"
    assert aws.keys[-1] == f"ASIAROLE{aws.requests.count('AssumeRole')}"
    assert len({key for key in aws.keys if key != KEY_ID}) == 3  # one for each call


def test_credentials_of_a_role_are_kept_for_as_long_as_they_are_valid(aws: Aws) -> None:
    sts = aws_account.identify(ignore).session.client("sts")
    sts.get_caller_identity()
    assert aws.requests.count("AssumeRole") == 1


def test_pulumi_gets_the_place_of_the_role_s_credentials_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.setenv(name, "other")
    found = aws_account.identify(ignore).environment
    assert {name for name in found if name.startswith("AWS_")} == {
        "AWS_CONFIG_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
    assert found["AWS_CONFIG_FILE"] == found["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull


def test_credentials_of_a_role_are_for_those_who_have_the_token() -> None:
    served = role.variables({}, lambda: {"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t"})
    url, token = (served[f"AWS_CONTAINER_{name}"] for name in ("CREDENTIALS_FULL_URI", "AUTHORIZATION_TOKEN"))
    with urlopen(Request(url, headers={"Authorization": token})) as answer:  # noqa: S310 - on the loopback
        assert b"ASIA" in answer.read()
    for wrong in ("", token[1:], "\u00e4"):
        with pytest.raises(HTTPError) as refused, urlopen(Request(url, headers={"Authorization": wrong})):  # noqa: S310 - as above
            pass
        assert refused.value.code == HTTPStatus.FORBIDDEN
        assert b"ASIA" not in refused.value.read()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("ExpiredToken", "your AWS credentials have expired: get new ones, for example with 'aws sso login'."),
        ("AccessDenied", f"the role '{ROLE}' in AWS_ASSUME_ROLE may not be assumed: check its ARN, "),
    ],
    ids=["expired", "denied"],
)
def test_a_role_that_can_t_be_assumed_again_is_explained(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, code: str, sentence: str
) -> None:
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    aws.role_s = 60
    account = aws_account.identify(ignore)
    aws.refusals["AssumeRole"] = code
    with pytest.raises(UserError) as failed, aws_account.aws_errors_as_user_errors():
        account.session.client("sts").get_caller_identity()
    assert str(failed.value).startswith(sentence)
    # The same where boto3's default session finds the server in the environment, as in `send` and `watch`.
    for name in KEYS:
        monkeypatch.delenv(name)
    for name, value in account.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match="container-role") as error:
        boto3.Session().client("sts").get_caller_identity()
    assert str(explain(error.value)).startswith(sentence)


# Credentials in the environment


def after(**duration: float) -> str:
    """Return a time from now, as the AWS CLI writes it."""
    return (datetime.now(UTC) + timedelta(**duration)).isoformat(timespec="seconds")


@pytest.mark.parametrize("role_arn", [ROLE, ""])
def test_the_end_of_credentials_that_can_t_be_renewed_is_announced(
    monkeypatch: pytest.MonkeyPatch, role_arn: str
) -> None:
    monkeypatch.setenv("AWS_ASSUME_ROLE", role_arn)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2099-12-31T23:30:00+02:00")
    messages: list[str] = []
    aws_account.identify(messages.append)
    end = "Your AWS credentials end at 2099-12-31 21:30 UTC. They can't be renewed: what takes longer fails then."
    assert end in messages


def test_credentials_that_end_soon_are_used_until_then(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ASSUME_ROLE")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", after(seconds=30))
    account = aws_account.identify(ignore)
    assert "AWS_CREDENTIAL_EXPIRATION" not in account.environment  # with it, boto3 fails with an error of its own
    assert aws.keys == [KEY_ID]


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (after(minutes=-1), "your AWS credentials ended at .* UTC: get new ones, and set them again"),
        ("soon", "AWS_CREDENTIAL_EXPIRATION is not a time in ISO 8601: correct it, or unset it"),
    ],
    ids=["ended", "not a time"],
)
def test_credentials_that_have_ended_are_refused(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, end: str, sentence: str
) -> None:
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end)
    with pytest.raises(UserError, match=sentence):
        aws_account.identify(ignore)
    assert aws.requests == []


def test_an_end_in_the_environment_is_ignored_if_the_credentials_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", after(minutes=-1))
    for name in KEYS:
        monkeypatch.delenv(name)
    assert aws_account.identify(ignore).number == "123456789012"
