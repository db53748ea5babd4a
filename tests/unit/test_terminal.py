"""What is printed where there is nothing but ASCII."""

import os
import subprocess
import sys

import pytest

from xfarm.paths import ROOT

OUTPUTS = r"""
from xfarm.cli import xfarm
from xfarm.orchestrator import commands, targets
targets.activate = lambda *_, **__: None
commands.exports = lambda _stack: {"storage": {"bucket_name": "\u0141 \xb1"}}
xfarm(["outputs"])
"""


@pytest.mark.parametrize(
    "encoding", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_what_its_encoding_lacks_is_printed_as_escapes(encoding: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", OUTPUTS], cwd=ROOT, env=kept | encoding, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u0141 \xb1" in done.stdout
