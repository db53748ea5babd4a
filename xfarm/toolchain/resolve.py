"""Which Pulumi this checkout uses: the one on PATH, else the official one, else one built from package registries."""

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
from typing import TYPE_CHECKING

from xfarm.toolchain import build, terraform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LANGUAGE_HOST = "pulumi-language-python"
_MINIMUM_CLI = (3, 256, 0)
"""The first CLI whose ``destroy`` knows ``--ignore-protect`` (release notes of Pulumi 3.256.0)."""
_DOWNLOAD_SECONDS = 5
"""How long a server may keep silent before a download counts as impossible here."""


@dataclass(frozen=True)
class Toolchain:
    """A Pulumi that works: what has to be in front of PATH, and what else has to be in the environment."""

    summary: str
    path: list[str]
    environment: dict[str, str]
    files: list[str]
    """Without these it has to be looked for again."""
    shared_plugin: str
    """The AWS plugin that several engines can attach to at once; empty where there is none."""
    fingerprint: list[str] = field(default_factory=list)
    """What the choice was made from: with another, it has to be made again."""


def resolve(root: Path, say: Callable[[str], None]) -> Toolchain:
    """The toolchain of the checkout at `root`; what it is gets said in one line.

    Looking once takes seconds, or minutes where something has to be built; the finding is kept in the checkout.

    Raises:
        UserError: There is none, and none can be had.
    """
    record = root / ".local" / "toolchain.json"
    fingerprint = _fingerprint()
    toolchain = _recall(record, fingerprint)
    if toolchain is None:
        with build.locked(root / ".local" / "toolchain.lock", say):
            toolchain = _recall(record, fingerprint) or _look(root, say, fingerprint)
            record.write_text(json.dumps(asdict(toolchain), indent=2))
    say(toolchain.summary)
    return toolchain


def _which(name: str) -> Path | None:
    """The program on PATH, as it is for people: without what `local` itself has put there."""
    cache = build.cache_folder()
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if cache not in Path(folder).parents))
    return Path(found) if found else None


def _fingerprint() -> list[str]:
    found = [program for name in ("pulumi", "pulumi-language-python") if (program := _which(name))]
    times = [program.stat().st_mtime_ns for program in found]
    programs = [program.target() for program in (build.ENGINE, build.BRIDGE)]
    settings = [sys.executable, version("pulumi-aws"), os.environ.get(terraform.FOLDER_VARIABLE)]
    return [str(part) for part in (*found, *times, *programs, *settings)]


def _recall(record: Path, fingerprint: Sequence[str]) -> Toolchain | None:
    try:
        toolchain = Toolchain(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    valid = toolchain.fingerprint == fingerprint and all(Path(file).exists() for file in toolchain.files)
    return toolchain if valid else None


def _look(root: Path, say: Callable[[str], None], fingerprint: list[str]) -> Toolchain:
    plugins = root / ".local" / "pulumi" / "plugins"
    cli, summary = _on_path(), "Toolchain: the Pulumi on PATH"
    if cli is None and not build.ENGINE.target().exists():
        cli, summary = _download_cli(say), "Toolchain: the official Pulumi, downloaded"
    home = _official_plugin_home(cli, say) if cli else None
    _remove(plugins)
    if cli and home:
        plugins.symlink_to(home / "plugins", target_is_directory=True)
        plugin = [home / "plugins" / _plugin()]
        return _official(cli, f"{summary}, with the official AWS plugin.", plugin, "", fingerprint)
    plugin = _install_plugin(plugins, root, say)
    if cli:
        summary += ", with an AWS plugin from package registries."
        return _official(cli, summary, plugin, str(plugin[0]), fingerprint)
    engine = build.build(build.ENGINE, say)
    host = plugins / f"language-python-v{build.ENGINE_VERSION}" / _LANGUAGE_HOST
    _write_launcher(host, "xfarm.toolchain.language_host")
    return Toolchain(
        summary="Toolchain: Pulumi and an AWS plugin, built from package registries.",
        path=[str(engine.parent)],
        environment={"PULUMI_IGNORE_AMBIENT_PLUGINS": "true"},
        files=[str(file) for file in (engine, host, *plugin)],
        shared_plugin=str(plugin[0]),
        fingerprint=fingerprint,
    )


def _official(cli: Path, summary: str, files: Sequence[Path], shared_plugin: str, fingerprint: list[str]) -> Toolchain:
    # Its language host runs `python3` from PATH.
    path = [str(cli.parent), str(Path(sys.executable).parent)]
    return Toolchain(summary, path, {}, [str(file) for file in (cli, *files)], shared_plugin, fingerprint)


def _on_path() -> Path | None:
    """The `pulumi` on PATH, if it has its Python language host and isn't too old for the Python package."""
    cli = _which("pulumi")
    if cli is None or not (_which(_LANGUAGE_HOST) or (cli.resolve().parent / _LANGUAGE_HOST).exists()):
        return None
    result = subprocess.run([cli, "version"], capture_output=True, text=True, check=False)
    return cli if build.version_tuple(result.stdout) >= _MINIMUM_CLI else None


def _download_cli(say: Callable[[str], None]) -> Path | None:
    """Pulumi's own installer, for the version of the Python package; None where it can't be reached."""
    from pulumi.automation import PulumiCommand  # noqa: PLC0415 - slow, and seldom needed

    say("Downloading Pulumi.")
    folder = build.cache_folder() / f"official-{build.ENGINE_VERSION}"
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SECONDS)
    try:
        return Path(PulumiCommand.install(root=str(folder)).command)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"Pulumi can't be downloaded here ({error}).")
        return None
    finally:
        socket.setdefaulttimeout(patience)


def _plugin() -> str:
    return f"resource-aws-v{version('pulumi-aws')}"


def _official_plugin_home(cli: Path, say: Callable[[str], None]) -> Path | None:
    """The PULUMI_HOME that has the official AWS plugin, which is downloaded if need be; None where it can't be."""
    ours = build.cache_folder() / "official-plugins"
    for home in (Path.home() / ".pulumi", ours):
        if (home / "plugins" / _plugin()).is_dir():
            return home
    if build.BRIDGE.target().exists():
        return None
    say("Downloading Pulumi's AWS plugin.")
    command = [str(cli), "plugin", "install", "resource", "aws", version("pulumi-aws"), "--non-interactive"]
    environment = os.environ | {"PULUMI_HOME": str(ours), "PULUMI_SKIP_UPDATE_CHECK": "true"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as download:
        for line in download.stderr or ():
            if "retry" in line:
                download.kill()
    if download.returncode:
        say("Pulumi's AWS plugin can't be downloaded here.")
        return None
    return ours


def _install_plugin(plugins: Path, root: Path, say: Callable[[str], None]) -> list[Path]:
    """Put our own AWS plugin where the engine looks for plugins; the files without which it won't run."""
    provider = terraform.find_provider()
    bridge = build.build(build.BRIDGE, say)
    launcher = plugins / _plugin() / "pulumi-resource-aws"
    zips = root / ".local" / "zips"
    _write_launcher(launcher, "xfarm.toolchain.aws_plugin", bridge, provider, zips)
    return [launcher, bridge, provider]


def _write_launcher(launcher: Path, module: str, *arguments: Path) -> None:
    """Write a program that runs `module` of this checkout, whatever modules lie in the folder it is called from."""
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
