"""The GitHub workflows, by the linter of their trade, which is built from its Go module."""

import subprocess

from xfarm.paths import ROOT
from xfarm.toolchain.build import Program, build

ACTIONLINT = Program(
    name="actionlint",
    title="actionlint",
    folder=ROOT / "tests" / "actionlint",
    package="github.com/rhysd/actionlint/cmd/actionlint",
    linker_flags="-s -w",
    minutes=1,
)


def test_actionlint_finds_nothing() -> None:
    command = [build(ACTIONLINT, print), *map(str, (ROOT / ".github" / "workflows").glob("*.yml"))]
    lint = subprocess.run(command, capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout + lint.stderr
