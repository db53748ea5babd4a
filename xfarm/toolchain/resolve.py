"""Chooses the Pulumi of this checkout: the one on PATH, else a download, else one built from package registries."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xfarm.toolchain import build, terraform
from xfarm.versions import MINIMUM_CLI

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LANGUAGE_HOST: Final = "pulumi-language-python"
_DOWNLOAD_TIMEOUT_S: Final = 5
"""How long a server may be silent before the download is given up, in seconds."""


@dataclass(frozen=True)
class Toolchain:
    """A Pulumi that works, and the environment that it needs."""

    summary: str
    path: list[str]
    """The folders to put first on PATH."""
    environment: dict[str, str]
    files: list[str]
    """If one of these is missing, the choice is made again."""
    shared_plugin: str
    """The AWS plugin that several engines can attach to at the same time; empty if there is none."""
    shares_language_host: bool = False
    """Whether several engines can attach to our language host."""
    fingerprint: list[str] = field(default_factory=list)
    """What the choice depends on; if it differs, the choice is made again."""


def resolve(root: Path, notify: Callable[[str], None]) -> Toolchain:
    """Return the toolchain of the checkout at `root`, and report it in one line.

    The first call takes seconds, or minutes if something has to be built. The result is recorded in the checkout.

    Args:
        root: The checkout's folder.
        notify: Called with each message for the user.

    Raises:
        UserError: There is no toolchain, and none can be downloaded or built.
    """
    record = root / ".local" / "toolchain.json"
    fingerprint = [str(root), *_fingerprint()]
    toolchain = _recorded(record, fingerprint)
    if toolchain is None:
        with build.locked(root / ".local" / "toolchain.lock", notify):
            toolchain = _recorded(record, fingerprint)
            if toolchain is None:
                record.unlink(missing_ok=True)  # if this process is killed, the files of an old choice are incomplete
                toolchain = _choose(root, notify, fingerprint)
                record.write_text(json.dumps(asdict(toolchain), indent=2))
    notify(toolchain.summary)
    return toolchain


def _which(name: str) -> Path | None:
    """Return a program from the user's PATH, without the folders that `xfarm` itself has added."""
    cache = build.cache_folder()
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if cache not in Path(folder).parents))
    return Path(found) if found else None


def _fingerprint() -> list[str]:
    found = [program for name in ("pulumi", "pulumi-language-python") if (program := _which(name))]
    times = [program.stat().st_mtime_ns for program in found]
    programs = [program.target() for program in (build.ENGINE, build.BRIDGE)]
    # Not `sys.executable`: `python` and `python3` may alternate.
    python = [Path(sys.prefix).resolve(), sys.version]
    settings = [*python, version("pulumi-aws"), os.environ.get(terraform.FOLDER_VARIABLE)]
    return [str(part) for part in (*found, *times, *programs, *settings)]


def _recorded(record: Path, fingerprint: Sequence[str]) -> Toolchain | None:
    try:
        toolchain = Toolchain(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    valid = toolchain.fingerprint == fingerprint and all(Path(file).exists() for file in toolchain.files)
    return toolchain if valid else None


def _choose(root: Path, notify: Callable[[str], None], fingerprint: list[str]) -> Toolchain:
    plugins = root / ".local" / "pulumi" / "plugins"
    cli, summary = _cli_on_path(), "Toolchain: the Pulumi on PATH"
    if cli is None and not build.ENGINE.target().exists():
        cli, summary = _download_cli(notify), "Toolchain: the official Pulumi, downloaded"
    home = _official_plugin_home(cli, notify) if cli else None
    _remove(plugins)
    if cli and home:
        plugins.symlink_to(home / "plugins", target_is_directory=True)
        plugin = [home / "plugins" / _plugin()]
        return _official(cli, f"{summary}, with the official AWS plugin.", plugin, "", fingerprint)
    plugin = _install_plugin(plugins, root, notify)
    if cli:
        summary += ", with an AWS plugin from package registries."
        return _official(cli, summary, plugin, str(plugin[0]), fingerprint)
    engine = build.build(build.ENGINE, notify)
    host = plugins / f"language-python-v{build.ENGINE_VERSION}" / _LANGUAGE_HOST
    _write_launcher(host, "xfarm.toolchain.language_host")
    return Toolchain(
        summary="Toolchain: Pulumi and an AWS plugin, built from package registries.",
        path=[str(engine.parent)],
        environment={"PULUMI_IGNORE_AMBIENT_PLUGINS": "true"},
        files=[str(file) for file in (engine, host, *plugin)],
        shared_plugin=str(plugin[0]),
        shares_language_host=True,
        fingerprint=fingerprint,
    )


def _official(cli: Path, summary: str, files: Sequence[Path], shared_plugin: str, fingerprint: list[str]) -> Toolchain:
    # Its language host runs `python3` from PATH.
    path = [str(cli.parent), str(Path(sys.executable).parent)]
    return Toolchain(summary, path, {}, [str(file) for file in (cli, *files)], shared_plugin, fingerprint=fingerprint)


def _cli_on_path() -> Path | None:
    """Return the `pulumi` on PATH, if it has its Python language host and isn't too old."""
    cli = _which("pulumi")
    if cli is None or not (_which(_LANGUAGE_HOST) or (cli.resolve().parent / _LANGUAGE_HOST).exists()):
        return None
    result = subprocess.run([cli, "version"], capture_output=True, text=True, check=False)
    return cli if build.version_tuple(result.stdout) >= MINIMUM_CLI else None


def _download_cli(notify: Callable[[str], None]) -> Path | None:
    """Download the official CLI with Pulumi's installer, and return it; None if it can't be downloaded here."""
    from pulumi.automation import PulumiCommand  # noqa: PLC0415 - slow, and rarely needed

    notify("Downloading Pulumi.")
    folder = build.cache_folder() / f"official-{build.ENGINE_VERSION}"
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        return Path(PulumiCommand.install(root=str(folder)).command)
    except (OSError, subprocess.CalledProcessError) as error:
        notify(f"Pulumi can't be downloaded here ({error}).")
        return None
    finally:
        socket.setdefaulttimeout(default_timeout)


def _plugin() -> str:
    return f"resource-aws-v{version('pulumi-aws')}"


def _official_plugin_home(cli: Path, notify: Callable[[str], None]) -> Path | None:
    """Return a PULUMI_HOME with the official AWS plugin, downloaded if needed; None if it can't be downloaded here."""
    cache = build.cache_folder() / "official-plugins"
    for home in (Path.home() / ".pulumi", cache):
        if (home / "plugins" / _plugin()).is_dir():
            return home
    if build.BRIDGE.target().exists():
        return None
    notify("Downloading Pulumi's AWS plugin.")
    command = [str(cli), "plugin", "install", "resource", "aws", version("pulumi-aws"), "--non-interactive"]
    environment = os.environ | {"PULUMI_HOME": str(cache), "PULUMI_SKIP_UPDATE_CHECK": "true"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as download:
        for line in download.stderr or ():
            if "retry" in line:
                download.kill()
    if download.returncode:
        notify("Pulumi's AWS plugin can't be downloaded here.")
        return None
    return cache


def _install_plugin(plugins: Path, root: Path, notify: Callable[[str], None]) -> list[Path]:
    """Install the AWS plugin of this package into the engine's plugin folder, and return the files that it needs."""
    provider = terraform.find_provider()
    bridge = build.build(build.BRIDGE, notify)
    launcher = plugins / _plugin() / "pulumi-resource-aws"
    zips = root / ".local" / "zips"
    _write_launcher(launcher, "xfarm.toolchain.aws_plugin", bridge, provider, zips)
    return [launcher, bridge, provider]


def _write_launcher(launcher: Path, module: str, *arguments: Path) -> None:
    """Write a program that runs `module` of this checkout, whatever modules are in the working directory."""
    launcher.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-P", "-m", module, *map(str, arguments)])
    launcher.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    launcher.chmod(0o755)


def _remove(plugins: Path) -> None:
    if plugins.is_symlink():
        plugins.unlink()
    elif plugins.exists():
        shutil.rmtree(plugins)
    plugins.parent.mkdir(parents=True, exist_ok=True)
