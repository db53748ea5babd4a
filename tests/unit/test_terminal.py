"""Output to where only ASCII is known, or where nothing can be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xfarm.paths import ROOT

KEPT = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
OUTPUTS = r"""
import sys
from xfarm.cli import xfarm
from xfarm.orchestrator import commands, targets
targets.activate = lambda *_, **__: None
commands.exports = lambda _stack: {"storage": {"bucket_name": "\u0141 \xb1"}}
xfarm(["outputs", *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    "encoding", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_what_its_encoding_lacks_is_printed_as_escapes(encoding: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTPUTS], cwd=ROOT, env=KEPT | encoding, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u0141 \xb1" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("command", [["-m", "xfarm", "--help"], ["-c", OUTPUTS], ["-c", OUTPUTS, "--json"]])
def test_output_that_cannot_be_written_is_one_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=KEPT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "error: the output can't be written: No space left on device.\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:  # noqa: PTH123 - it has no path
        done = subprocess.run(
            [sys.executable, "-c", OUTPUTS, "--json"],
            cwd=ROOT,
            env=KEPT,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""
