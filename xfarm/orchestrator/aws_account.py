"""Whose account, region and role a command works with, found out before anything is changed."""

import contextlib
import getpass
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore import exceptions

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
    if endpoint := environment.get("AWS_ENDPOINT_URL"):
        say(f"AWS_ENDPOINT_URL is set: this goes to {endpoint}, not to AWS. Unset it to reach your account.")
    with explained():
        # boto3 knows only AWS_DEFAULT_REGION, where Pulumi's plugins, like the other SDKs, know AWS_REGION.
        session = boto3.Session(region_name=environment.get("AWS_REGION"))
        region = session.region_name
        if region is None:
            raise UserError("no AWS region is set: set AWS_REGION, for example to eu-west-1.")
        environment["AWS_REGION"] = environment["AWS_DEFAULT_REGION"] = region
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


def _assume(session: boto3.Session, role: str) -> "CredentialsTypeDef":
    try:
        answer = session.client("sts").assume_role(RoleArn=role, RoleSessionName=f"xfarm-pipeline-{getpass.getuser()}")
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
    except (exceptions.EndpointConnectionError, exceptions.InvalidRegionError) as error:
        raise UserError(f"{error}: check AWS_REGION and your network.") from error
    except exceptions.ClientError as error:
        answer = error.response["Error"]
        raise UserError(
            _MENDED_BY.get(answer["Code"])
            or f"AWS refused {error.operation_name}: {answer['Code']}, {answer.get('Message', '')}"
        ) from error
    except exceptions.BotoCoreError as error:
        raise UserError(f"AWS could not be asked: {error}.") from error
