"""How the pipeline and its deployment grow: with the number of objects, with their size, with the number of stacks.

Each number of objects goes through a pipeline of its own, made by the API on an emulator of its own. Its seconds are
those from the first upload to S3's ``LastModified`` of the last result. The emulator shares the processors with the
function and with the uploads, and looks through the whole queue for each batch: how far Lambda and SQS would go is not
measured.

Each size is that of one object, which a stand-in for S3 makes up while the function reads it. The seconds are the
handler's, the memory the peak of its whole process (``VmHWM``), which has Python and boto3 in it.

Each number of stacks is deployed by ``python -m xfarm`` with the real engine and provider. A program in the
place of ``pulumi`` notes when each process of Pulumi begins and ends:

- *updates*: the sum of the times of ``pulumi up``, or ``pulumi destroy``, of each stack. Stacks that run side by side
  share the processors, and take longer than alone.
- *at once*: the most of these that ran at the same time.
- *updating*: the time within which at least one of these was running.
- *Pulumi*: the time within which any process of Pulumi was running, so those as well that make a stack or are asked
  for its state.
- *own*: the rest of the command's time, from its start to its exit; *share*, as a part of the whole. The noting, of
  about 3 ms a process, is in it.

Linux only: the peak is read from ``/proc``, and ``date`` has to know nanoseconds.
"""

import json
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import boto3
import pytest
from rich.console import Console

from benchmarks.commands import check
from benchmarks.figures import table
from benchmarks.pipeline import written
from tests.emulator.pipeline.test_memory import MIB, handle
from tests.support.checkout import Checkout
from tests.support.driver import EMPTY, Driver
from tests.support.emulated_pipeline import create_pipeline, private_emulator, running
from tests.support.small_stacks import SETTINGS
from tests.support.waiting import eventually
from xfarm.operations.pipeline import counts

NUMBERS: Final = (10, 100, 1_000, 10_000)
KIB: Final = 1024
VISIBILITY_S: Final = 60
"""Longer than any batch takes."""
PATIENCE_S: Final = 900
"""After so many seconds without the last result the pipeline hangs: 10,000 objects take two minutes on 2 processors."""
ACCOUNTS: Final = count(200_000_000_000)

SIZES: Final = {"1 KiB": KIB, "1 MiB": MIB, "32 MiB": 32 * MIB, "256 MiB": 256 * MIB, "1 GiB": 1024 * MIB}

Shape = Literal["wide", "chain"]
"""Stacks that are independent of each other, or of which each needs the one before."""
STACKS: Final[tuple[tuple[Shape, int], ...]] = (
    ("wide", 3),
    ("wide", 10),
    ("wide", 50),
    ("chain", 3),
    ("chain", 10),
)
COMMANDS: Final = {"deploy": "deploy", "no change": "deploy", "destroy": "destroy"}

PROGRAM: Final = """
import pulumi
import pulumi_aws as aws

pulumi.export("topic", aws.sns.Topic("topic", name=pulumi.get_project(){settings}).arn)
"""
SETTINGS_OF_A_LINK: Final = (
    ', display_name=pulumi.StackReference(f"organization/{needed}/{{pulumi.get_stack()}}").require_output("topic")'
)

NOTING: Final = """#!/bin/sh
begun=$(date +%s%N)
{pulumi} "$@"
code=$?
echo "$begun $(date +%s%N) $*" >> {notes}
exit $code
"""


@dataclass(frozen=True)
class Interval:
    """A process of Pulumi: when it began and ended, in nanoseconds since the epoch, and what it was asked for."""

    begun: int
    ended: int
    arguments: str = ""

    @property
    def updates(self) -> bool:
        """Whether it was one that deploys or destroys a stack."""
        return bool({"up", "destroy"}.intersection(self.arguments.split()))


def covered(intervals: Iterable[Interval]) -> int:
    """Return for how many nanoseconds at least one of the intervals lasted."""
    total = reached = 0
    for interval in sorted(intervals, key=lambda interval: interval.begun):
        total += max(0, interval.ended - max(interval.begun, reached))
        reached = max(reached, interval.ended)
    return total


def most_at_once(intervals: Iterable[Interval]) -> int:
    """Return how many of the intervals lasted at the same moment, at most."""
    steps = [step for interval in intervals for step in ((interval.begun, 1), (interval.ended, -1))]
    # At one moment, ends sort before begins: an interval that begins as another ends does not last beside it.
    return max(accumulate(change for _, change in sorted(steps)), default=0)


def run(console: Console) -> None:
    """Measure and print how the pipeline and its deployment grow.

    Raises:
        UserError: A deployment failed.
    """
    _numbers(console)
    _sizes(console)
    _stacks(console)


def _numbers(console: Console) -> None:
    with TemporaryDirectory() as folder, running(private_emulator(Path(folder))) as emulator:
        rows = []
        for number in NUMBERS:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(boto3, "DEFAULT_SESSION", None)
                # The emulator takes twelve digits for the account's own root.
                patch.setenv("AWS_ACCESS_KEY_ID", str(next(ACCOUNTS)))
                driver = Driver(emulator, create_pipeline(visibility_s=VISIBILITY_S))
                eventually(driver.logged)  # the function has started: S3's test message comes first
                rows.append(_number(driver, number))
                driver.remove()
    head = ("objects", "uploaded", "last result", "objects/s", "results", "left in queue", "dead letters")
    table(console, "Objects of 1 KiB, through the whole pipeline on the emulator", head, rows)


def _number(driver: Driver, number: int) -> tuple[str, ...]:
    files = {f"{index:05}.bin": bytes(KIB) for index in range(number)}
    begun = time.time()
    driver.upload(files)
    uploaded = time.time() - begun

    # The queue first: to list the results again and again would slow down what makes them.
    def done() -> bool:
        return counts(driver.pipeline.main_queue_url) == EMPTY and driver.results() >= files.keys()

    eventually(done, PATIENCE_S)
    pipeline = driver.pipeline
    done_at = written(boto3.client("s3"), pipeline.bucket_name, pipeline.output_prefix)
    seconds = max(done_at.values()).timestamp() - begun
    left, dead = counts(driver.pipeline.main_queue_url), counts(driver.pipeline.dead_letter_queue_url)
    return (
        f"{number:,}",
        f"{uploaded:.1f} s",
        f"{seconds:.1f} s",
        f"{number / seconds:.0f}",
        f"{len(driver.results()):,}",
        str(left.waiting + left.in_flight),
        str(dead.waiting + dead.in_flight),
    )


def _sizes(console: Console) -> None:
    rows = []
    for name, size in SIZES.items():
        handled = handle(size)
        speed = size / handled.seconds / 1e6
        rows.append((name, f"{handled.seconds:.3f} s", f"{speed:,.1f}", f"{handled.peak_kib / 1024:.1f} MiB"))
    table(console, "One object, by the function's handler", ("size", "time", "MB/s", "peak memory"), rows)


def _stacks(console: Console) -> None:
    rows: list[tuple[str, ...]] = []
    with TemporaryDirectory() as folder, _noted(Path(folder)) as checkout:
        for shape, number in STACKS:
            _generate(checkout, shape, number)
            rows += [(f"{number} {shape}, {name}", *_command(checkout, command)) for name, command in COMMANDS.items()]
    head = ("stacks, command", "time", "updates", "at once", "updating", "Pulumi", "own", "share")
    table(console, "Stacks of one resource, by the orchestrator, in seconds", head, rows)


@contextmanager
def _noted(folder: Path) -> Iterator[Checkout]:
    """Make a copy of the project in which each process of Pulumi is noted in ``notes``."""
    checkout = Checkout(folder)
    try:
        check(checkout.run("env"))  # finds the toolchain, and starts the emulator
        record = folder / ".local" / "toolchain.json"
        toolchain = json.loads(record.read_text(encoding="utf-8"))
        pulumi = shutil.which("pulumi", path=os.pathsep.join(toolchain["path"]))
        noting = folder / "noting" / "pulumi"
        noting.parent.mkdir()
        noting.write_text(
            NOTING.format(pulumi=shlex.quote(str(pulumi)), notes=shlex.quote(str(folder / "notes"))), encoding="utf-8"
        )
        noting.chmod(0o755)
        toolchain["path"].insert(0, str(noting.parent))
        record.write_text(json.dumps(toolchain), encoding="utf-8")
        yield checkout
    finally:
        checkout.emulator.stop()


def _generate(checkout: Checkout, shape: Shape, number: int) -> None:
    """Put generated projects in the place of those that are there."""
    stacks = checkout.root / "stacks"
    shutil.rmtree(stacks)
    names = [f"{shape}-{number}-{index:02}" for index in range(number)]
    needs: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        needs[name] = names[index - 1 : index] if shape == "chain" else []
        settings = "".join(SETTINGS_OF_A_LINK.format(needed=needed) for needed in needs[name])
        project = stacks / name
        project.mkdir(parents=True)
        (project / "Pulumi.yaml").write_text(f"name: {name}\nruntime: python\n", encoding="utf-8")
        (project / "Pulumi.local.yaml").write_text(SETTINGS, encoding="utf-8")
        (project / "__main__.py").write_text(PROGRAM.format(settings=settings), encoding="utf-8")
    # A list of strings is the same in TOML as in JSON.
    lines = [f"{name} = {json.dumps(needed)}\n" for name, needed in needs.items()]
    (stacks / "stacks.toml").write_text("".join(lines), encoding="utf-8")


def _command(checkout: Checkout, command: str) -> tuple[str, ...]:
    """Run a command of the orchestrator and return its figures."""
    notes = checkout.root / "notes"
    notes.unlink(missing_ok=True)
    begun = time.time_ns()
    check(checkout.run(command))
    wall = time.time_ns() - begun
    intervals = []
    for line in notes.read_text(encoding="utf-8").splitlines():
        began, ended, arguments = line.split(" ", 2)
        intervals.append(Interval(int(began), int(ended), arguments))
    updates = [interval for interval in intervals if interval.updates]
    within = covered(intervals)
    return (
        f"{wall / 1e9:.1f}",
        f"{sum(interval.ended - interval.begun for interval in updates) / 1e9:.1f}",
        str(most_at_once(updates)),
        f"{covered(updates) / 1e9:.1f}",
        f"{within / 1e9:.1f}",
        f"{(wall - within) / 1e9:.2f}",
        f"{(wall - within) / wall:.1%}",
    )
