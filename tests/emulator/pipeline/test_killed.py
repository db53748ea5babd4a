"""Commands that are killed at any line, and do their whole job when they run again."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.killed import at_random_lines
from xfarm.operations.reprocess import reprocess
from xfarm.operations.send import send
from xfarm.paths import ROOT

FILES = 25
"""Three batches of SQS."""

PROGRAM = """
import json, sys
from pathlib import Path
from rich.console import Console
from tests.support.killed import kill_at
from xfarm.operations.pipeline import Pipeline
from xfarm.operations.reprocess import reprocess
from xfarm.operations.send import send

number, command, described, folder = sys.argv[1:]
pipeline = Pipeline(**json.loads(described))
seen = kill_at(int(number))
if command == "send":
    send(pipeline, [Path(folder)], Console())
else:
    reprocess(pipeline, Console(), rate=1000)
sys.settrace(None)
print(seen.total(), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["send", "reprocess"])
def test_every_file_is_processed(driver: Driver, console: Console, tmp_path: Path, command: str) -> None:
    contents = {f"{number}.csv": f"a\n{number}\n".encode() for number in range(FILES)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    if command == "reprocess":
        driver.upload(contents)
    described, killed = json.dumps(asdict(driver.pipeline)), 0
    for was_killed in at_random_lines(
        "-c", PROGRAM, "{number}", command, described, str(tmp_path), seed=command, cwd=ROOT, environment=os.environ
    ):
        killed += was_killed
        driver.assert_idle()
        attempts = len(driver.logged())
        if command == "send":
            send(driver.pipeline, [tmp_path], console)
        else:
            reprocess(driver.pipeline, console, rate=1000)
        driver.assert_complete(contents)
        again = {driver.name(line) for line in driver.logged()[attempts:]}
        assert again == contents.keys()
    print(f"{command}: killed {killed} times")
    assert killed
