"""Measures how the pipeline scales with the number and size of objects, and deployments with the number of stacks.

Each number of objects goes through its own pipeline, created by boto3, on an emulator. The time is that from the first
upload to S3's `LastModified` of the last result. The emulator shares the CPUs with the function and the uploads, and
searches the whole queue for each batch, so the limits of Lambda and SQS are not measured. Afterwards the same objects
are audited, processed again by `reprocess`, and put into the dead-letter queue and moved back by `redrive`: the times
of these commands, and until the queue is empty again.

Each size is that of one object, which a fake S3 generates while the function reads it. The time is that of the handler,
the memory is the peak of its whole process (`VmHWM`), including Python and boto3.

Each number of stacks is deployed by `xfarm` with the real engine and provider. A wrapper around `pulumi` records when
each process starts and ends:

- *updates*: the sum of the times of `pulumi up` or `pulumi destroy` for each stack. Stacks that run in parallel share
  the CPUs, and take longer than alone.
- *at once*: the highest number of updates that ran at the same time.
- *updating*: the time in which at least one update ran.
- *Pulumi*: the time in which any process of Pulumi ran, including those that create a stack or export its state.
- *own*: the rest of the command's time, including 3 ms a process for the wrapper; *share*: its part of the whole.

Linux only: the peak is read from `/proc`, and `date` has to support nanoseconds.
"""

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import boto3
import pytest
from rich.console import Console

from benchmarks.commands import check
from benchmarks.figures import table
from benchmarks.pipeline import last_modified
from tests.emulator.pipeline.test_memory import MIB, handle
from tests.support.checkout import Checkout
from tests.support.driver import EMPTY, Driver
from tests.support.emulated_pipeline import create_pipeline, private_emulator, running
from tests.support.small_stacks import SETTINGS
from tests.support.waiting import eventually
from xfarm.operations import audit
from xfarm.operations.pipeline import counts
from xfarm.operations.redrive import redrive
from xfarm.operations.reprocess import reprocess

NUMBERS: Final = (10, 100, 1_000)
LARGE: Final = (10_000,)
KIB: Final = 1024
VISIBILITY_S: Final = 60
"""Longer than any batch takes."""
TIMEOUT_S: Final = 900
"""How long to wait for the last result, in seconds: 10,000 objects take two minutes on 2 CPUs."""
ACCOUNTS: Final = count(200_000_000_000)

SIZES: Final = {"1 KiB": KIB, "1 MiB": MIB, "32 MiB": 32 * MIB, "256 MiB": 256 * MIB, "1 GiB": 1024 * MIB}

Shape = Literal["wide", "chain"]
"""Independent stacks, or stacks that each need the one before."""
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

WRAPPER: Final = """#!/bin/sh
start=$(date +%s%N)
{pulumi} "$@"
code=$?
echo "$start $(date +%s%N) $*" >> {log}
exit $code
"""


@dataclass(frozen=True)
class Interval:
    """A process of Pulumi.

    Attributes:
        start: When it started, in nanoseconds since the epoch.
        end: When it ended.
        arguments: Its command line.
    """

    start: int
    end: int
    arguments: str = ""

    @property
    def is_update(self) -> bool:
        """Whether it deployed or destroyed a stack."""
        return bool({"up", "destroy"}.intersection(self.arguments.split()))


def total_time(intervals: Iterable[Interval]) -> int:
    """Return the time, in nanoseconds, in which at least one of the intervals runs."""
    total = reached = 0
    for interval in sorted(intervals, key=lambda interval: interval.start):
        total += max(0, interval.end - max(interval.start, reached))
        reached = max(reached, interval.end)
    return total


def most_at_once(intervals: Iterable[Interval]) -> int:
    """Return the highest number of intervals that run at the same time."""
    steps = [step for interval in intervals for step in ((interval.start, 1), (interval.end, -1))]
    # At the same time, ends sort before starts: an interval that starts when another ends does not overlap with it.
    return max(accumulate(change for _, change in sorted(steps)), default=0)


def run(console: Console) -> None:
    """Measure, and print how the pipeline and its deployment scale.

    Raises:
        UserError: A deployment failed.
    """
    numbers(console)
    _sizes(console)
    _stacks(console)


def numbers(console: Console, sizes: Sequence[int] = NUMBERS) -> None:
    """Measure, and print how long numbers of objects take in the pipeline, and in the commands of operators."""
    with TemporaryDirectory() as folder, running(private_emulator(Path(folder))) as emulator:
        rows: list[tuple[str, ...]] = []
        operated: list[tuple[str, ...]] = []
        for number in sizes:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(boto3, "DEFAULT_SESSION", None)
                # The emulator treats an access key of twelve digits as the account's root user.
                patch.setenv("AWS_ACCESS_KEY_ID", str(next(ACCOUNTS)))
                driver = Driver(emulator, create_pipeline(visibility_s=VISIBILITY_S))
                eventually(driver.logged)  # the function has started: it has logged S3's test message
                rows.append(_number(driver, number))
                operated.append(_operations(driver, number))
                driver.remove()
    head = ("objects", "uploaded", "last result", "objects/s", "results", "left in queue", "dead letters")
    table(console, "Objects of 1 KiB, through the whole pipeline on the emulator", head, rows)
    head = ("objects", "audit", "reprocess", "until processed", "redrive", "until processed")
    table(console, "The same objects", head, operated)


def _operations(driver: Driver, number: int) -> tuple[str, ...]:
    """Measure what operators do with so many objects that have results."""
    pipeline, quiet, rate = driver.pipeline, Console(quiet=True), number * 10
    found: list[audit.Finding] = []
    taken: list[float] = []

    def measure(operation: Callable[[], object]) -> None:
        started = time.monotonic()
        operation()
        taken.append(time.monotonic() - started)

    def drained() -> None:
        eventually(lambda: counts(pipeline.main_queue_url) == EMPTY, TIMEOUT_S)

    measure(lambda: found.extend(audit.findings(pipeline, pipeline.input_prefix)))
    if found:
        raise AssertionError(found)
    measure(lambda: reprocess(pipeline, quiet, rate=rate))
    measure(drained)
    reprocess(replace(pipeline, main_queue_url=pipeline.dead_letter_queue_url), quiet, rate=rate)
    measure(lambda: redrive(pipeline, quiet, limit=number, trial=False))
    measure(drained)
    return (f"{number:,}", *(f"{seconds:.1f} s" for seconds in taken))


def _number(driver: Driver, number: int) -> tuple[str, ...]:
    files = {f"{index:05}.bin": bytes(KIB) for index in range(number)}
    started = time.time()
    driver.upload(files)
    uploaded = time.time() - started

    # The queue first: listing the results often would slow down the emulator.
    def done() -> bool:
        return counts(driver.pipeline.main_queue_url) == EMPTY and driver.results() >= files.keys()

    eventually(done, TIMEOUT_S)
    pipeline = driver.pipeline
    done_at = last_modified(boto3.client("s3"), pipeline.bucket_name, pipeline.output_prefix)
    seconds = max(done_at.values()).timestamp() - started
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
    with TemporaryDirectory() as folder, _wrapped(Path(folder)) as checkout:
        for shape, number in STACKS:
            _generate(checkout, shape, number)
            rows += [(f"{number} {shape}, {name}", *_command(checkout, command)) for name, command in COMMANDS.items()]
    head = ("stacks, command", "time", "updates", "at once", "updating", "Pulumi", "own", "share")
    table(console, "Stacks of one resource, by the orchestrator, in seconds", head, rows)


@contextmanager
def _wrapped(folder: Path) -> Iterator[Checkout]:
    """Create a copy of the project in which a wrapper records each process of Pulumi in the file `log`."""
    checkout = Checkout(folder)
    try:
        check(checkout.run("env"))  # chooses the toolchain, and starts the emulator
        record = folder / ".local" / "toolchain.json"
        toolchain = json.loads(record.read_text(encoding="utf-8"))
        pulumi = shutil.which("pulumi", path=os.pathsep.join(toolchain["path"]))
        wrapper = folder / "wrapper" / "pulumi"
        wrapper.parent.mkdir()
        wrapper.write_text(
            WRAPPER.format(pulumi=shlex.quote(str(pulumi)), log=shlex.quote(str(folder / "log"))), encoding="utf-8"
        )
        wrapper.chmod(0o755)
        toolchain["path"].insert(0, str(wrapper.parent))
        record.write_text(json.dumps(toolchain), encoding="utf-8")
        yield checkout
    finally:
        checkout.emulator.stop()


def _generate(checkout: Checkout, shape: Shape, number: int) -> None:
    """Replace the projects of the copy with generated ones."""
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
    # TOML and JSON write a list of strings in the same way.
    lines = [f"{name} = {json.dumps(needed)}\n" for name, needed in needs.items()]
    (stacks / "stacks.toml").write_text("".join(lines), encoding="utf-8")


def _command(checkout: Checkout, command: str) -> tuple[str, ...]:
    """Run an `xfarm` command, and return its figures."""
    log = checkout.root / "log"
    log.unlink(missing_ok=True)
    started = time.time_ns()
    check(checkout.run(command))
    wall = time.time_ns() - started
    intervals = []
    for line in log.read_text(encoding="utf-8").splitlines():
        start, end, arguments = line.split(" ", 2)
        intervals.append(Interval(int(start), int(end), arguments))
    updates = [interval for interval in intervals if interval.is_update]
    in_pulumi = total_time(intervals)
    return (
        f"{wall / 1e9:.1f}",
        f"{sum(interval.end - interval.start for interval in updates) / 1e9:.1f}",
        str(most_at_once(updates)),
        f"{total_time(updates) / 1e9:.1f}",
        f"{in_pulumi / 1e9:.1f}",
        f"{(wall - in_pulumi) / 1e9:.2f}",
        f"{(wall - in_pulumi) / wall:.1%}",
    )
