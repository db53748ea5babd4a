"""What is printed where there is nothing but ASCII."""

import os
import subprocess
import sys

import pytest

from orchestrator.graph import ROOT

OUTPUTS = r"""
import sys
from orchestrator import __main__ as command_line
command_line.targets.enter = lambda *_, **__: None
command_line.exports = lambda _stack: {"storage": {"bucket_name": "\u0141 \xb1"}}
sys.exit(command_line.main(["outputs"]))
"""
STATUS = r"""
import sys
from operations import __main__ as command_line
command_line._run = lambda _options, console: console.print("\u0141 \xb1")
sys.exit(command_line.main(["status"]))
"""


@pytest.mark.parametrize(
    "encoding", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
@pytest.mark.parametrize("program", [OUTPUTS, STATUS], ids=["orchestrator", "operations"])
def test_what_its_encoding_lacks_is_printed_as_escapes(encoding: dict[str, str], program: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=kept | encoding, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u0141 \xb1" in done.stdout
