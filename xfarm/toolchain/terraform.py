"""Terraform's AWS provider, in the places where Terraform itself looks for it."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xfarm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = "5.100.0"
"""The version whose schema the tables of `xfarm/toolchain/aws_types.py` were compared with."""
FOLDER_VARIABLE: Final = "XFARM_TERRAFORM_PLUGINS"

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def find_provider() -> Path:
    """Return the provider's executable, from one of Terraform's plugin folders or from `XFARM_TERRAFORM_PLUGINS`.

    Raises:
        UserError: It was not found.
    """
    machine = platform.machine()
    target = f"{platform.system().lower()}_{_ARCHITECTURES.get(machine, machine)}"
    pattern = f"registry.terraform.io/hashicorp/aws/{VERSION}/{target}/terraform-provider-aws_v*"
    folders = list(_folders())
    for folder in folders:
        for program in sorted(folder.glob(pattern)):
            return program
    raise UserError(
        f"Terraform's AWS provider is missing: no {pattern} in {', '.join(map(str, folders))}. "
        f"Put it into one of these, or set {FOLDER_VARIABLE} to the folder that contains registry.terraform.io/."
    )


def _folders() -> Iterator[Path]:
    """Yield Terraform's configured and implied mirrors, then `/opt` (Filesystem Hierarchy Standard, 3.13).

    Source: "Provider installation" in Terraform's documentation of its CLI configuration file.
    """
    if configured := os.environ.get(FOLDER_VARIABLE):
        yield Path(configured)
        return
    home = Path.home()
    configuration = Path(os.environ.get("TF_CLI_CONFIG_FILE") or home / ".terraformrc")
    if configuration.is_file():
        for block in re.findall(r"filesystem_mirror\s*\{(.*?)\}", configuration.read_text(), re.DOTALL):
            yield from map(Path, re.findall(r'^\s*path\s*=\s*"(.*?)"', block, re.MULTILINE))
    yield home / ".terraform.d/plugins"
    if sys.platform == "darwin":
        yield home / "Library/Application Support/io.terraform/plugins"
    data = [os.environ.get("XDG_DATA_HOME") or str(home / ".local/share")]
    data += (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    yield from (Path(folder) / "terraform/plugins" for folder in data)
    yield from sorted(Path("/opt").glob("*/"))
