"""What is said if another Python, or one without the packages, runs the program."""

import ast
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from xfarm import cli
from xfarm.emulator import server
from xfarm.emulator.server import Emulator
from xfarm.orchestrator import targets
from xfarm.paths import ROOT

FIRST = ROOT / "xfarm" / "__init__.py"
"""The file that Python runs before any other of the program."""


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13)])
def test_an_older_python_is_refused_in_a_sentence(version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    ast.parse(FIRST.read_text(encoding="utf-8"), feature_version=(3, version[1]))
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(FIRST))
    assert refused.value.code == (
        f"error: this is Python 3.{version[1]}, and xfarm needs 3.11 or later: "
        "run .venv/bin/xfarm, which the README says how to install."
    )


def test_a_python_without_the_packages_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(_name: str) -> None:
        """Find no package."""

    monkeypatch.setattr(importlib.util, "find_spec", find_nothing)
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(FIRST))
    assert str(refused.value.code).startswith(
        f"error: the packages that xfarm needs are not installed for {sys.executable}: run"
    )


def test_packages_on_pythonpath_are_not_taken_for_those_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").touch()
    program = "import xfarm, shared.names; print(shared.names.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{ROOT / 'shared' / 'names.py'}\n", done.stderr


def test_a_package_that_a_command_lacks_is_named_with_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: object, **__: object) -> None:
        raise ModuleNotFoundError(name="pulumi.automation")

    monkeypatch.setattr(targets, "activate", lack)
    result = CliRunner().invoke(cli.xfarm, ["status"])
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: the package 'pulumi' is not installed in {sys.prefix}: run {sys.executable} -m pip install "
        "-c constraints.txt -e '.[local]' in the project's folder.\n"
    )


def test_the_emulator_that_is_not_installed_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(_name: str) -> None:
        """Find no package."""

    monkeypatch.setattr(server, "find_spec", find_nothing)
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    result = CliRunner().invoke(cli.xfarm, ["emulator", "start"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the package 'ministack' is not installed in ")
    assert not Emulator(tmp_path / ".local" / "emulator", 1).running()


def test_a_module_of_this_project_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: object, **__: object) -> None:
        raise ModuleNotFoundError(name="shared.nonsense")

    monkeypatch.setattr(targets, "activate", lack)
    assert isinstance(CliRunner().invoke(cli.xfarm, ["status"]).exception, ModuleNotFoundError)
