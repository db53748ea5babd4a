"""On each change of the code, the function's is replaced, and files are processed with it."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import boto3
import pytest

from tests.support.driver import Driver
from xfarm.paths import ROOT

PROGRAM = """
import json, signal, sys
from pathlib import Path
from rich.console import Console
from xfarm.operations.develop import develop
from xfarm.operations.pipeline import Pipeline

described, code, file = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if pytest runs in the background
develop(Pipeline(**json.loads(described)), Path(code), [Path(file)], Console(soft_wrap=True))
"""


class Loop:
    """The command, its code, and what it prints."""

    def __init__(self, driver: Driver, folder: Path) -> None:
        self.code = folder / "lambda_code"
        shutil.copytree(ROOT / "lambda_code", self.code, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "a.csv").write_text("a,b\n1,2\n", encoding="utf-8")
        arguments = [json.dumps(asdict(driver.pipeline)), str(self.code), str(folder / "a.csv")]
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", PROGRAM, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    def change(self, old: str, new: str) -> None:
        """Change a line of `process.py`."""
        file = self.code / "process.py"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def printed(self) -> list[str]:
        """Return what it prints until it waits for the next change."""
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("Waiting for a change"):
                return lines
        raise AssertionError(lines)


@pytest.fixture
def loop(driver: Driver, tmp_path: Path) -> Iterator[Loop]:
    made = Loop(driver, tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    if made.process.stdout:
        made.process.stdout.close()


def test_a_change_is_live_and_its_results_and_failures_are_shown(loop: Loop) -> None:
    first = loop.printed()
    assert first[0].startswith("The code of xFarmLambdaFunction was replaced in ")
    assert first[1] == "a.csv -> outputs/a.csv.json (8 bytes, 1 row)"

    code = (loop.code / "process.py").read_text(encoding="utf-8")
    definition = next(line for line in code.splitlines() if line.startswith("def process("))
    loop.change(definition, f"{definition} broken")
    syntax, _ = loop.printed()
    assert syntax.startswith("process.py: ")
    assert "invalid syntax" in syntax or "expected" in syntax

    (loop.code / "process.py").write_text(f"{code}\n\ndef process(source, chunks): raise ValueError('no luck')\n")
    failed = loop.printed()
    assert failed[-2] == "a.csv failed (ValueError: no luck); it is tried again."
    assert any("inputs/a.csv" in line and "attempt 1" in line for line in failed), failed

    (loop.code / "process.py").write_text(code, encoding="utf-8")
    assert loop.printed()[1] == first[1]


def test_a_change_is_live_while_results_are_waited_for_and_the_deployed_code_is_put_back(
    driver: Driver, loop: Loop
) -> None:
    def deployed() -> str:
        return boto3.client("lambda").get_function_configuration(FunctionName=driver.pipeline.function_name)[
            "CodeSha256"
        ]

    before = deployed()
    loop.printed()
    code = (loop.code / "process.py").read_text(encoding="utf-8")
    (loop.code / "process.py").write_text("raise RuntimeError\n", encoding="utf-8")  # nothing is logged as JSON
    assert loop.process.stdout
    assert loop.process.stdout.readline().startswith("The code of xFarmLambdaFunction was replaced in ")
    (loop.code / "process.py").write_text(f"{code}\n# fixed\n", encoding="utf-8")
    assert loop.printed()[1].startswith("a.csv -> outputs/a.csv.json ")
    assert deployed() != before
    loop.process.send_signal(signal.SIGINT)
    replaced, last = loop.process.stdout.read().splitlines()
    assert replaced.startswith("The code of xFarmLambdaFunction was replaced in ")
    assert last == f"It has the deployed code again. Yours is in {loop.code}: 'xfarm deploy local' deploys it."
    assert loop.process.wait(timeout=60) == 0
    assert deployed() == before


def test_the_deployed_code_is_put_back_if_nobody_reads_the_output(driver: Driver, loop: Loop) -> None:
    function = {"FunctionName": driver.pipeline.function_name}
    loop.printed()
    with (loop.code / "process.py").open("a", encoding="utf-8") as process:
        process.write("# changed\n")
    loop.printed()
    changed = boto3.client("lambda").get_function_configuration(**function)["CodeSha256"]
    assert loop.process.stdout
    loop.process.stdout.close()
    loop.process.send_signal(signal.SIGINT)
    loop.process.wait(timeout=60)
    assert boto3.client("lambda").get_function_configuration(**function)["CodeSha256"] != changed
