"""Whose account, region and role a command works with, found out before anything is changed."""

import contextlib
import getpass
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore import exceptions

from xfarm.aws_errors import without_credentials
from xfarm.errors import UserError

if TYPE_CHECKING:
    from mypy_boto3_sts.type_defs import CredentialsTypeDef


@dataclass(frozen=True)
class Account:
    """An AWS account, as it answers to the credentials at hand."""

    number: str
    region: str
    identity: str
    """The ARN of the user or assumed role."""
    session: boto3.Session
    """What boto3 reaches the account with."""
    environment: dict[str, str]
    """The environment with which Pulumi and its plugins reach it."""


def identify(say: Callable[[str], None]) -> Account:
    """Find the account by the usual chain of credentials, assuming the role in ``AWS_ASSUME_ROLE`` where it is set.

    Raises:
        UserError: Credentials or a region are missing, wrong or expired, or the role may not be assumed.
    """
    environment = dict(os.environ)
    _require_clean({name: environment.get(name) for name in _VARIABLES})
    if endpoint := environment.get("AWS_ENDPOINT_URL"):
        say(f"AWS_ENDPOINT_URL is set: this goes to {endpoint}, not to AWS. Unset it to reach your account.")
    with explained():
        # boto3 knows only AWS_DEFAULT_REGION, where Pulumi's plugins, like the other SDKs, know AWS_REGION.
        session = boto3.Session(region_name=environment.get("AWS_REGION"))
        region = session.region_name
        if region is None:
            raise UserError("no AWS region is set: set AWS_REGION, for example to eu-west-1.")
        if not re.fullmatch(r"[a-z]+(-[a-z]+)+-\d+", region):
            raise UserError("AWS_REGION, or your profile's region, names no region: set it, for example to eu-west-1.")
        environment["AWS_REGION"] = environment["AWS_DEFAULT_REGION"] = region
        _require_clean_credentials(session)
        if role := environment.pop("AWS_ASSUME_ROLE", ""):
            credentials = _assume(session, role)
            session = boto3.Session(
                aws_access_key_id=credentials["AccessKeyId"],
                aws_secret_access_key=credentials["SecretAccessKey"],
                aws_session_token=credentials["SessionToken"],
                region_name=region,
            )
            environment["AWS_ACCESS_KEY_ID"] = credentials["AccessKeyId"]
            environment["AWS_SECRET_ACCESS_KEY"] = credentials["SecretAccessKey"]
            environment["AWS_SESSION_TOKEN"] = credentials["SessionToken"]
            # A profile would come before these.
            environment.pop("AWS_PROFILE", None)
        caller = session.client("sts").get_caller_identity()
    return Account(caller["Account"], region, caller["Arn"], session, environment)


def require_pulumi(environment: dict[str, str]) -> None:
    """Make sure that Pulumi is at hand, and runs the programs with the Python that runs this.

    Raises:
        UserError: The Pulumi CLI is not on the PATH.
    """
    if shutil.which("pulumi", path=environment.get("PATH")) is None:
        raise UserError(
            "the Pulumi CLI is not on your PATH: install it as 'Download & install Pulumi' in its docs says."
        )
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))


_VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ASSUME_ROLE",
    "AWS_PROFILE",
)


def _require_clean(values: Mapping[str, str | None]) -> None:
    """Make sure that none of ``values`` holds what would end a line of HTTP, or what comes along when text is copied.

    Python's HTTP client prints a header that it refuses to send, and AWS one that it can't read: credentials and all.

    Args:
        values: The values by what people know them by. They are not printed.

    Raises:
        UserError: One does.
    """
    for name, value in values.items():
        # A profile's name may hold blanks, and letters of any alphabet.
        odd = re.search(r"^ | $|[\x00-\x1f\x7f]" if name == "AWS_PROFILE" else r"[^!-~]", value or "")
        if odd:
            what = {"\r": "a line break", "\n": "a line break", "\t": "a tab", " ": "a blank"}
            raise UserError(
                f"{name} holds {what.get(odd[0], 'a character that is no letter, digit or sign of ASCII')}, "
                "which may have come with it when it was copied: set it again without."
            )


def _require_clean_credentials(session: boto3.Session) -> None:
    """Make sure of the same of the credentials that are found, wherever they are from.

    Raises:
        UserError: One of them holds what it must not.
    """
    try:
        found = session.get_credentials()
        credentials = found.get_frozen_credentials() if found else None
    except (OSError, ValueError) as error:  # it is not there, or what it printed is no JSON, and may be a credential
        raise UserError(_PROCESS_FAILED) from error
    if found and credentials:
        source = f"of your AWS credentials (from '{found.method}')"
        _require_clean(
            {
                f"the access key id {source}": credentials.access_key,
                f"the secret key {source}": credentials.secret_key,
                f"the session token {source}": credentials.token,
            }
        )


_PROCESS_FAILED = "the credential_process of your AWS profile failed: call it by hand to see why."


def session_name() -> str:
    """Return what AWS is to call a session: after the user, in 2 to 64 characters that it allows ("AssumeRole")."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user without a name, as in a container
        user = "unknown"
    return ("xfarm-pipeline-" + re.sub(r"[^\w+=,.@-]", "-", user, flags=re.ASCII))[:64]


def _assume(session: boto3.Session, role: str) -> "CredentialsTypeDef":
    try:
        answer = session.client("sts").assume_role(RoleArn=role, RoleSessionName=session_name())
    except (exceptions.ClientError, exceptions.ParamValidationError) as error:
        if isinstance(error, exceptions.ClientError) and error.response["Error"]["Code"] in _MENDED_BY:
            raise
        raise UserError(
            f"the role '{role}' in AWS_ASSUME_ROLE may not be assumed: check its ARN, and that its trust policy "
            "names the user or role whose credentials you use."
        ) from error
    return answer["Credentials"]


_MENDED_BY = {
    "ExpiredToken": "your AWS credentials have expired: get new ones, for example with 'aws sso login'.",
    "ExpiredTokenException": "your AWS credentials have expired: get new ones, for example with 'aws sso login'.",
    "InvalidClientTokenId": "AWS does not know the access key: check AWS_ACCESS_KEY_ID.",
    "UnrecognizedClientException": "AWS does not know the access key: check AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "AWS refuses the secret key: check AWS_SECRET_ACCESS_KEY.",
    "IncompleteSignature": "AWS can't read the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    "RegionDisabledException": "your account has the region in AWS_REGION switched off: enable it, or set another.",
}


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong between here and AWS into one sentence that never holds a credential.

    Raises:
        UserError: In place of any of botocore's errors.
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
            raise UserError(_PROCESS_FAILED) from error  # what it said may be a credential
        raise UserError(f"{without_credentials(str(error))}.") from error
    except exceptions.EndpointConnectionError as error:
        raise UserError(f"{error}: check AWS_REGION and your network.") from error
    except exceptions.ClientError as error:
        answer = error.response["Error"]
        raise UserError(
            _MENDED_BY.get(answer["Code"])
            or f"AWS refused {error.operation_name}: {answer['Code']}, {without_credentials(answer.get('Message', ''))}"
        ) from error
    except exceptions.BotoCoreError as error:
        raise UserError(f"AWS could not be asked: {without_credentials(str(error))}.") from error
