"""Runs commands for an AWS account, with no other settings than a test gives."""

import os
import subprocess
import sys
from unittest.mock import patch

import boto3
import pytest
from click.testing import CliRunner

from xfarm import cli
from xfarm.emulator.server import REGION, Emulator
from xfarm.paths import ROOT

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a command, with `settings` and no others for AWS."""
    left = ("AWS_", "PULUMI_", "GITHUB_", "RUNNER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    no_files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return kept | no_files | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"} | settings


def use(emulator: Emulator, patch: pytest.MonkeyPatch) -> None:
    """Make an emulator's account that of this process's environment, which then has no other settings for AWS."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GITHUB_", "RUNNER_"))]:
        patch.delenv(name)
    patch.setattr(boto3, "DEFAULT_SESSION", None)
    patch.setenv("AWS_ENDPOINT_URL", emulator.endpoint)
    patch.setenv("AWS_DEFAULT_REGION", REGION)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def xfarm(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run an `xfarm` command, and return its output."""
    return subprocess.run(
        [sys.executable, "-m", "xfarm", *arguments],
        cwd=ROOT,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def xfarm_in_this_process(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Do as `xfarm` does without starting Python, which takes most of the time."""
    with patch.dict(os.environ, environment(**settings), clear=True), patch.object(boto3, "DEFAULT_SESSION", None):
        done = CliRunner().invoke(cli.xfarm, arguments, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}
REGION_SETTING = {"AWS_REGION": REGION}
