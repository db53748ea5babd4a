"""Finds the AWS account, region and role of a command before it changes anything."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions
from botocore.credentials import AssumeRoleCredentialFetcher, ContainerProvider, CredentialResolver
from botocore.session import Session

from xfarm.aws_errors import explain, without_credentials
from xfarm.credentials import remember
from xfarm.errors import UserError
from xfarm.orchestrator import role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True)
class Account:
    """The AWS account that the user's credentials belong to."""

    number: str
    region: str
    identity: str
    """The ARN of the user or assumed role."""
    session: boto3.Session
    """The session for boto3's clients."""
    environment: dict[str, str]
    """The environment for Pulumi and its plugins, and for boto3's default session."""

    @property
    def partition(self) -> str:
        """The partition of the account: `aws`, `aws-cn` for AWS China or `aws-us-gov` for AWS GovCloud (US)."""
        return self.identity.split(":")[1]


def identify(notify: Callable[[str], None]) -> Account:
    """Return the account of the credentials that boto3 finds, or of the role in `AWS_ASSUME_ROLE` if that is set.

    The role's credentials are renewed for as long as this process runs. If those in the environment can't be, and their
    end is known, the user is told.

    Args:
        notify: Called with each message for the user.

    Raises:
        UserError: Credentials or a region are missing, wrong or expired, or the role may not be assumed.
    """
    # boto3 would try to renew what has an end in the environment, and fail with an error of its own.
    end = os.environ.pop("AWS_CREDENTIAL_EXPIRATION", "")
    environment = dict(os.environ)
    _require_clean({name: environment.get(name) for name in _VARIABLES})
    _require_urls(environment)
    if endpoint := environment.get("AWS_ENDPOINT_URL"):
        notify(f"AWS_ENDPOINT_URL is set: this goes to {endpoint}, not to AWS. Unset it to reach your account.")
    with _settings_as_user_errors(), aws_errors_as_user_errors():
        # boto3 reads only AWS_DEFAULT_REGION; Pulumi's plugins and the other SDKs read AWS_REGION.
        session = boto3.Session(region_name=environment.get("AWS_REGION"))
        region = session.region_name
        if region is None:
            raise UserError("no AWS region is set: set AWS_REGION, for example to eu-west-1.")
        if not re.fullmatch(r"[a-z]+(-[a-z]+)+-\d+", region):
            raise UserError("AWS_REGION, or the region of your profile, is not a region: set it, e.g. to eu-west-1.")
        environment["AWS_REGION"] = environment["AWS_DEFAULT_REGION"] = region
        _require_clean_credentials(session)
        if end and environment.get("AWS_ACCESS_KEY_ID"):
            _announce(end, notify)
        if arn := environment.pop("AWS_ASSUME_ROLE", ""):
            environment = role.variables(environment, _assume(session, arn))
            session = _served(environment, region)
        caller = session.client("sts").get_caller_identity()
    return Account(caller["Account"], region, caller["Arn"], session, environment)


def region_in_words(region: str) -> str:
    """Return the name of a region with its description: `eu-west-1, Europe (Ireland)`.

    Where the name is a secret, as in a workflow, GitHub masks it, but not the description.
    """
    partitions = botocore.session.get_session().get_data("endpoints")["partitions"]
    described = (known["regions"].get(region, {}).get("description") for known in partitions)
    return ", ".join((region, *filter(None, described)))


def require_pulumi(environment: dict[str, str]) -> None:
    """Check that the Pulumi CLI is on PATH, and let it run the stacks' programs with the current Python.

    Raises:
        UserError: The Pulumi CLI is not on PATH.
    """
    if shutil.which("pulumi", path=environment.get("PATH")) is None:
        raise UserError(
            "the Pulumi CLI is not on your PATH: install it, see 'Download & install Pulumi' in Pulumi's documentation."
        )
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath)))


_VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ASSUME_ROLE",
    "AWS_PROFILE",
    "GITHUB_TOKEN",
    "PULUMI_ACCESS_TOKEN",
)


def _require_clean(values: Mapping[str, str | None]) -> None:
    """Check that no value contains a line break, a quote, or another character that often comes with copied text.

    If a header is malformed, Python's HTTP client and AWS quote it in their error messages, with the credentials in it.

    Args:
        values: The values, which are not printed, by a name for the user.

    Raises:
        UserError: A value contains such a character.
    """
    for name, value in values.items():
        # A profile's name may contain spaces, and letters of any alphabet.
        odd = re.search(r"^ | $|[\x00-\x1f\x7f]" if name == "AWS_PROFILE" else r"[^!-~]|[\"'`]", value or "")
        if odd:
            what = {"\r": "a line break", "\n": "a line break", "\t": "a tab", " ": "a space"}
            what |= dict.fromkeys("\"'`", "a quote")
            raise UserError(
                f"{name} contains {what.get(odd[0], 'a character that is not printable ASCII')}, "
                "perhaps from copying: set it again without it."
            )


def _require_clean_credentials(session: boto3.Session) -> None:
    """Check the credentials that boto3 finds in the same way, wherever they are from.

    Raises:
        UserError: One of them contains such a character.
    """
    try:
        found = session.get_credentials()
        credentials = found.get_frozen_credentials() if found else None
    except (OSError, ValueError) as error:
        # There is no such program, or its output is not JSON, and may be a credential.
        if "_retrieve_credentials_using" in {frame.name for frame in traceback.extract_tb(error.__traceback__)}:
            raise UserError(_PROCESS_FAILED) from error
        raise
    if found and credentials:
        remember(credentials.access_key, credentials.secret_key, credentials.token)
        source = f"of your AWS credentials (from '{found.method}')"
        _require_clean(
            {
                f"the access key id {source}": credentials.access_key,
                f"the secret key {source}": credentials.secret_key,
                f"the session token {source}": credentials.token,
            }
        )


@contextlib.contextmanager
def _settings_as_user_errors() -> Iterator[None]:
    """Turn what boto3 raises for settings that it does not check itself, such as AWS_MAX_ATTEMPTS, into a sentence.

    Raises:
        UserError: A setting can't be used.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            "a setting for AWS can't be used, in a variable AWS_... or in a file that one names: "
            f"{without_credentials(str(error))}. Correct it, or unset it."
        ) from error


def _require_urls(environment: Mapping[str, str]) -> None:
    """Check the endpoints of AWS and of its services.

    Raises:
        UserError: One is not a URL.
    """
    for name, value in environment.items():
        if value and name.startswith("AWS_ENDPOINT_URL"):
            try:
                url = urlsplit(value)
                valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
            except ValueError:
                valid = False
            if not valid:
                raise UserError(f"{name} is not a URL such as http://HOST:PORT: correct it, or unset it.")


_PROCESS_FAILED: Final = "the credential_process of your AWS profile failed: run it by hand to see why."


def session_name() -> str:
    """Return a role session name with the user's name, in 2 to 64 characters that AWS allows ("AssumeRole")."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user without a name, as in a container
        user = "unknown"
    return ("xfarm-pipeline-" + re.sub(r"[^\w+=,.@-]", "-", user, flags=re.ASCII))[:64]


def _assume(session: boto3.Session, arn: str) -> Callable[[], role.Credentials]:
    """Assume a role, and return what gets its credentials. It assumes the role again 15 minutes before they end.

    Raises:
        UserError: The role may not be assumed.
    """
    source = session.get_credentials()
    if source is None:
        raise exceptions.NoCredentialsError
    fetcher = AssumeRoleCredentialFetcher(
        session.client,
        source,
        arn,
        extra_args={"RoleSessionName": session_name()},
    )

    def fetch() -> role.Credentials:
        with aws_errors_as_user_errors():
            try:
                found = fetcher.fetch_credentials()
            except (exceptions.ClientError, exceptions.ParamValidationError) as error:
                if isinstance(error, exceptions.ClientError) and error.response["Error"]["Code"] in _REMEDIES:
                    raise
                raise UserError(
                    f"the role '{arn}' in AWS_ASSUME_ROLE may not be assumed: check its ARN, and that its trust policy "
                    "names the user or role whose credentials you use."
                ) from error
        remember(found["access_key"], found["secret_key"], found["token"])
        return {
            "AccessKeyId": found["access_key"],
            "SecretAccessKey": found["secret_key"],
            "Token": found["token"],
            "Expiration": found["expiry_time"],
        }

    fetch()
    return fetch


def _served(environment: dict[str, str], region: str) -> boto3.Session:
    """Return a session with the credentials that an environment of `role.variables` leads to."""
    session = Session()
    session.register_component("credential_provider", CredentialResolver([ContainerProvider(environ=environment)]))
    return boto3.Session(botocore_session=session, region_name=region)


def _announce(end: str, notify: Callable[[str], None]) -> None:
    """Say when the credentials in the environment end.

    Args:
        end: The time in ISO 8601, as `aws configure export-credentials --format env` writes it.
        notify: Called with the message.

    Raises:
        UserError: They have ended, or it is not a time.
    """
    try:
        time = datetime.fromisoformat(end).astimezone(UTC)
    except ValueError as error:
        raise UserError("AWS_CREDENTIAL_EXPIRATION is not a time in ISO 8601: correct it, or unset it.") from error
    if time <= datetime.now(UTC):
        raise UserError(f"your AWS credentials ended at {time:%Y-%m-%d %H:%M} UTC: get new ones, and set them again.")
    notify(
        f"Your AWS credentials end at {time:%Y-%m-%d %H:%M} UTC. They can't be renewed: what takes longer fails then."
    )


_REMEDIES: Final = {
    "ExpiredToken": "your AWS credentials have expired: get new ones, for example with 'aws sso login'.",
    "ExpiredTokenException": "your AWS credentials have expired: get new ones, for example with 'aws sso login'.",
    "InvalidClientTokenId": "AWS does not recognize the access key: check AWS_ACCESS_KEY_ID.",
    "UnrecognizedClientException": "AWS does not recognize the access key: check AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "the request's signature is wrong: check AWS_SECRET_ACCESS_KEY and this machine's clock.",
    "IncompleteSignature": "the credentials are malformed: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    "RegionDisabledException": "the region in AWS_REGION is disabled in your account: enable it, or set another one.",
}
"""What to do about an error code of AWS."""


@contextlib.contextmanager
def aws_errors_as_user_errors() -> Iterator[None]:
    """Turn errors of botocore into sentences that never contain a credential.

    Raises:
        UserError: botocore raised an error.
    """
    try:
        yield
    except exceptions.ProfileNotFound as error:
        raise UserError(f"{error}: set AWS_PROFILE to a profile of your AWS configuration.") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise UserError(
            "no complete AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        ) from error
    except (exceptions.SSOError, exceptions.TokenRetrievalError) as error:
        raise UserError("your AWS sign-in has expired: run 'aws sso login'.") from error
    except exceptions.CredentialRetrievalError as error:
        if error.kwargs["provider"] == "custom-process":
            raise UserError(_PROCESS_FAILED) from error  # the program's output may be a credential
        raise UserError(str(explain(error))) from error
    except exceptions.EndpointConnectionError as error:
        raise UserError(f"{error}: check AWS_REGION and your network.") from error
    except exceptions.ClientError as error:
        raise UserError(_REMEDIES.get(error.response["Error"]["Code"]) or str(explain(error))) from error
    except exceptions.BotoCoreError as error:
        raise UserError(str(explain(error))) from error
