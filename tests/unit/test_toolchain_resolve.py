"""Which toolchain is chosen on which machine."""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
from pulumi.automation import PulumiCommand

from tests.support.killed import at_each_line
from xfarm.errors import UserError
from xfarm.toolchain import build, resolve, terraform

PLUGIN = f"resource-aws-v{version('pulumi-aws')}"
CLI = """#!/bin/sh
[ "$1" = version ] && echo "{version}"
[ "$1" = plugin ] && {install}
exit 0
"""
OFFLINE = "{ echo 'Will retry in 20ms [1/5]' >&2; exit 1; }"
ONLINE = f'mkdir -p "$PULUMI_HOME/plugins/{PLUGIN}"'


class Machine:
    """A machine on which tests install one program after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "checkout"
        self.root.joinpath(".local").mkdir(parents=True)
        self.messages: list[str] = []

    def program(self, path: str, text: str = "") -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755)
        return target

    def pulumi_on_path(self, number: str = "v3.259.0", install: str = OFFLINE, *, host: bool = True) -> None:
        self.program("bin/pulumi", CLI.format(version=number, install=install))
        if host:
            self.program("bin/pulumi-language-python")

    def registry_build(self) -> None:
        for program in (build.ENGINE, build.BRIDGE):
            program.target().parent.mkdir(parents=True)
            program.target().touch()

    def terraform_provider(self) -> None:
        for machine in ("linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64"):
            folder = f"terraform/registry.terraform.io/hashicorp/aws/{terraform.VERSION}/{machine}"
            self.program(f"{folder}/terraform-provider-aws_v{terraform.VERSION}_x5")

    def resolve(self) -> resolve.Toolchain:
        return resolve.resolve(self.root, self.messages.append)

    @property
    def plugins(self) -> Path:
        return self.root / ".local" / "pulumi" / "plugins"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XFARM_TERRAFORM_PLUGINS", str(tmp_path / "terraform"))
    monkeypatch.setattr(PulumiCommand, "install", never)
    monkeypatch.setattr(resolve.build, "_compile", never)
    return Machine(tmp_path)


def never(*_: object, **_options: object) -> NoReturn:
    pytest.fail("this should not be called")


def built(program: build.Program, _notify: object) -> Path:
    return program.target()


def offline(**_: object) -> PulumiCommand:
    raise OSError("Name or service not known")


def test_pulumi_on_path_is_used_with_the_user_s_plugin(machine: Machine) -> None:
    machine.pulumi_on_path()
    (machine.folder / "home" / ".pulumi" / "plugins" / PLUGIN).mkdir(parents=True)
    toolchain = machine.resolve()
    assert toolchain.summary == "Toolchain: the Pulumi on PATH, with the official AWS plugin."
    assert toolchain.path[0] == str(machine.folder / "bin")
    assert (machine.plugins / PLUGIN).is_dir()
    assert machine.messages == [toolchain.summary]


def test_the_official_plugin_is_downloaded_for_pulumi_on_path(machine: Machine) -> None:
    machine.pulumi_on_path(install=ONLINE)
    assert machine.resolve().summary == "Toolchain: the Pulumi on PATH, with the official AWS plugin."
    assert (machine.plugins / PLUGIN).is_dir()


def test_pulumi_on_path_gets_the_built_plugin_if_the_official_one_cannot_be_downloaded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.pulumi_on_path()
    machine.terraform_provider()
    monkeypatch.setattr(resolve.build, "build", built)
    assert "the Pulumi on PATH, with an AWS plugin from package registries" in machine.resolve().summary
    assert "xfarm.toolchain.aws_plugin" in (machine.plugins / PLUGIN / "pulumi-resource-aws").read_text()


@pytest.mark.parametrize(
    ("number", "host"),
    [("v3.259.0", False), ("", True), ("v3.0.9", True)],
    ids=["without its language host", "without a version", "too old"],
)
def test_an_unsuitable_pulumi_on_path_is_not_used(machine: Machine, number: str, *, host: bool) -> None:
    machine.pulumi_on_path(number, host=host)
    machine.registry_build()
    machine.terraform_provider()
    toolchain = machine.resolve()
    assert toolchain.summary == "Toolchain: Pulumi and an AWS plugin, built from package registries."
    assert toolchain.path == [str(build.ENGINE.target().parent)]
    assert toolchain.environment == {"PULUMI_IGNORE_AMBIENT_PLUGINS": "true"}


def test_the_official_pulumi_is_downloaded_if_there_is_none_on_path(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(root: str) -> PulumiCommand:
        machine.pulumi_on_path(install=ONLINE)
        Path(root).mkdir(parents=True)
        (Path(root) / "bin").symlink_to(machine.folder / "bin")
        return PulumiCommand(root=root)

    monkeypatch.setattr(PulumiCommand, "install", install)
    toolchain = machine.resolve()
    assert toolchain.summary == "Toolchain: the official Pulumi, downloaded, with the official AWS plugin."


def test_without_downloads_everything_is_built(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def record(program: build.Program, _notify: object) -> Path:
        names.append(program.name)
        return program.target()

    monkeypatch.setattr(PulumiCommand, "install", offline)
    monkeypatch.setattr(resolve.build, "build", record)
    machine.terraform_provider()
    machine.resolve()
    assert names == ["pulumi-resource-terraform-provider", "pulumi"]
    assert any("can't be downloaded" in message for message in machine.messages)


def test_the_choice_is_made_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.registry_build()
    machine.terraform_provider()
    first = machine.resolve()
    monkeypatch.setattr(resolve, "_choose", never)
    assert machine.resolve() == first
    monkeypatch.setenv("PATH", f"{first.path[0]}:{machine.folder / 'bin'}:/usr/bin:/bin")
    assert machine.resolve() == first


def test_the_choice_is_made_again_if_one_of_its_files_is_missing(machine: Machine) -> None:
    machine.registry_build()
    machine.terraform_provider()
    first = machine.resolve()
    (machine.plugins / PLUGIN / "pulumi-resource-aws").unlink()
    assert machine.resolve() == first
    assert (machine.plugins / PLUGIN / "pulumi-resource-aws").exists()


def test_the_choice_is_made_again_if_its_record_is_corrupt(machine: Machine) -> None:
    machine.registry_build()
    machine.terraform_provider()
    first = machine.resolve()
    record = machine.root / ".local" / "toolchain.json"
    for text in ("", "[]", json.dumps({"summary": "of another time"})):
        record.write_text(text)
        assert machine.resolve() == first


def test_a_missing_terraform_provider_is_reported_before_anything_is_built(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PulumiCommand, "install", offline)
    with pytest.raises(
        UserError, match=rf"{terraform.VERSION}.*{machine.folder / 'terraform'}.*XFARM_TERRAFORM_PLUGINS"
    ):
        machine.resolve()


def test_terraforms_own_folders_are_searched(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XFARM_TERRAFORM_PLUGINS")
    block = f'provider_installation {{\n filesystem_mirror {{\n  path = "{machine.folder}/terraform"\n }}\n}}\n'
    configuration = machine.program("terraformrc", block)
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", str(configuration))
    machine.terraform_provider()
    assert terraform.find_provider().is_relative_to(machine.folder / "terraform")


def test_the_choice_is_complete_after_one_that_was_killed_at_any_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.registry_build()
    machine.terraform_provider()
    wanted = machine.resolve()
    launchers = {path: path.read_bytes() for path in machine.plugins.rglob("*") if path.is_file()}
    monkeypatch.setenv("XFARM_TERRAFORM_PLUGINS", f"{machine.folder}/terraform/")

    def choose_another() -> None:
        machine.resolve()

    for line in at_each_line(choose_another):
        monkeypatch.setenv("XFARM_TERRAFORM_PLUGINS", str(machine.folder / "terraform"))
        assert machine.resolve() == wanted
        assert {path: path.read_bytes() for path in machine.plugins.rglob("*") if path.is_file()} == launchers, line
        assert all(os.access(path, os.X_OK) for path in launchers)
        monkeypatch.setenv("XFARM_TERRAFORM_PLUGINS", f"{machine.folder}/terraform/")


def test_the_choice_depends_on_the_environment_of_python_and_not_on_its_name(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.registry_build()
    machine.terraform_provider()
    first = machine.resolve()
    monkeypatch.setattr(sys, "executable", f"{sys.executable}3")
    assert machine.resolve() == first
    monkeypatch.setattr(sys, "prefix", str(machine.folder))
    assert machine.resolve() != first
