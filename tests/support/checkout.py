"""A copy of this project with its own emulator, for tests that deploy it."""

import fcntl
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO
from unittest.mock import patch

import boto3
import yaml

from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator import local_environment
from xfarm.paths import ROOT

# What a deployment reads, without caches and state.
PARTS: Final = ("xfarm", "policies", "shared", "stacks", "lambda_code", "examples", "noxfile.py")


HOST: Final = "PULUMI_DEBUG_LANGUAGES"
PLUGIN: Final = "PULUMI_DEBUG_PROVIDERS"

COMMAND_TIMEOUT_S: Final = 900
"""The longest command takes three minutes on a busy machine."""

_PORTS: Final = range(20_000, 30_000)
"""Below the ephemeral ports (32,768 to 60,999 on Linux, 49,152 and up on macOS)."""

_reserved: list[TextIO] = []
"""The lock files of this process's ports."""


def free_port() -> int:
    """Return a free port, and reserve it among test runs until this process ends.

    Raises:
        LookupError: No port is free.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        lock = (Path(tempfile.gettempdir()) / f"xfarm-tests-port-{port}").open("w")
        with suppress(OSError), socket.socket() as probe:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            probe.bind(("127.0.0.1", port))
            _reserved.append(lock)
            return port
        lock.close()
    raise LookupError("no port is free")


@dataclass
class Checkout:
    """A copy of the project in `root`, with an emulator that listens on `port`."""

    root: Path
    port: int = field(default_factory=free_port)
    variables: dict[str, str] = field(default_factory=dict)
    """The variables that its commands have in addition."""

    def __post_init__(self) -> None:
        ignore = shutil.ignore_patterns("__pycache__", ".local")
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, self.root / part, ignore=ignore)
            else:
                shutil.copy(ROOT / part, self.root / part)

    @property
    def emulator(self) -> Emulator:
        """The copy's emulator."""
        return Emulator(self.root / ".local" / "emulator", self.port)

    @property
    def environment(self) -> dict[str, str]:
        """The environment without the user's settings for AWS and Pulumi, and without those of CI and of one test."""
        left = ("AWS_", "PULUMI_", "GITHUB_", "RUNNER_", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
        return kept | {"GATEWAY_PORT": str(self.port), "PYTHONPATH": str(self.root)} | self.variables

    def pulumi(self, *servers: str) -> dict[str, str]:
        """Return the variables for an account with which Pulumi is found, as after its official installation.

        Args:
            servers: `HOST` or `PLUGIN`, or both, if all engines attach to the one of `local`. Otherwise each starts its
                own, which takes seconds. The plugin of `local` doesn't have the command's credentials.
        """
        with patch.dict(os.environ, self.environment, clear=True):
            found = local_environment.prepare(self.root, print, self.root / "stacks" if servers else None)
        path = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
        return {"PATH": path} | {name: found[name] for name in ("PULUMI_HOME", *servers) if name in found}

    def run(self, *arguments: str, module: str = "xfarm", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a module of the copy, as `python -m` does, and return its output."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )

    def configure(self, project: str, stack: str, **settings: object) -> None:
        """Change settings of a stack, as `pulumi config set` does."""
        path = self.root / "stacks" / project / f"Pulumi.{stack}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = {key if ":" in key else f"{project}:{key}": value for key, value in settings.items()}
        content["config"] = content.get("config", {}) | values
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def resources(self, project: str) -> list[dict[str, Any]]:
        """Return the AWS resources in the state of a project's stack."""
        path = self.root / ".local" / "state" / ".pulumi" / "stacks" / project / "local.json"
        state = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]["latest"]["resources"]
        return [resource for resource in state if resource["type"].startswith("aws:")]

    def client(self, service: Any) -> Any:  # noqa: ANN401 - each service has its own type of client
        """Return a boto3 client for a service of the copy's emulator."""
        return boto3.client(
            service,
            endpoint_url=self.emulator.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
