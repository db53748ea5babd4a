"""How fast files are processed: by the pipeline in the emulator, and by the function's code alone.

All of it is of one machine, on which the uploads, the emulator and the functions share the processors: compare the
rows of a table with each other, and nothing here with AWS.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

import boto3
import pytest
from rich.console import Console

from benchmarks.figures import percentile, table
from tests.support.driver import Driver
from tests.support.emulated_pipeline import create_pipeline, declared, private_emulator, running
from tests.support.waiting import eventually
from xfarm.operations.pipeline import Pipeline
from xfarm.paths import ROOT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KIB: Final = 1024
MIB: Final = 1024 * KIB
SMALL: Final = bytes(range(256)) * 4
"""A file of 1 KiB."""

ROW: Final = b"2026-01-31T12:00:00Z,north field,21.5,moist\n"
RECORD: Final = b'{"time": "2026-01-31T12:00:00Z", "place": "north field", "celsius": 21.5}\n'

FILES: Final = 200
"""How many files are uploaded at once."""
BURSTS: Final = 3
"""How often they are, by each way of feeding the function."""
COLD: Final = 5
"""How often the function is started anew."""
ROUNDS: Final = 5
"""How often the handler and bare S3 are measured side by side."""
FILES_A_ROUND: Final = 20

VISIBILITY_S: Final = 60
"""Longer than any batch takes, so that no file is delivered twice."""

EMULATORS_CONCURRENCY: Final = 5
"""How many batches ministack has in work at a time where no maximum is set: its `_ESM_SQS_DEFAULT_CONCURRENCY`."""
LOG_WAIT_MS: Final = 50
"""How long the emulator waits after each call for more of the log: `idle_confirm` in `local.patched_ministack`."""

WINDOW_S: Final = 1
"""The shortest batching window."""

LAMBDA_CODE: Final = ROOT / "lambda_code"

START: Final = """
import json, sys, time
started = time.time()
import boto3
imported = time.time()
import lambda_function
ready = time.time()
class Context:
    aws_request_id = "request"
    def get_remaining_time_in_millis(self): return 60_000
times = [started, imported, ready]
for event in json.load(sys.stdin):
    response = lambda_function.handler(event, Context())
    assert response == {"batchItemFailures": []}, response
    times.append(time.time())
print(json.dumps(times))
"""


@dataclass(frozen=True)
class Feeding:
    """How the event source mapping feeds the function.

    Attributes:
        batch_size: BatchSize, the most messages in a batch.
        maximum_concurrency: MaximumConcurrency, the most batches in work at a time, or None where it isn't set.
    """

    batch_size: int
    maximum_concurrency: int | None

    @property
    def name(self) -> str:
        """What a row of a table calls it."""
        return f"{self.batch_size}, {self.maximum_concurrency or 'none'}"


@dataclass(frozen=True)
class Burst:
    """What came of files that were uploaded at once.

    Attributes:
        a_second: Files with a result a second, from the first upload to the last result.
        latencies_s: From each file's upload to its result, in seconds.
        keys: The files' keys.
    """

    a_second: float
    latencies_s: list[float]
    keys: frozenset[str]


@dataclass(frozen=True)
class Spent:
    """What one file took: seconds that passed, and seconds of a processor in this process."""

    elapsed_s: float
    cpu_s: float

    @classmethod
    def average(cls, files: Sequence["Spent"]) -> "Spent":
        """Return what each of ``files`` took on average."""
        return cls(mean(each.elapsed_s for each in files), mean(each.cpu_s for each in files))


class Context:
    """As much of Lambda's context object as the function uses."""

    aws_request_id = "request"

    def get_remaining_time_in_millis(self) -> int:
        """Tell that there is time enough."""
        return 60_000


def run(console: Console) -> None:
    """Measure the pipeline, then the function's start, then its cost above that of S3."""
    with TemporaryDirectory() as folder, running(private_emulator(Path(folder))) as emulator:
        driver = Driver(emulator, create_pipeline(visibility_s=VISIBILITY_S))
        _print_feedings(console, driver)
        _print_first_file(console, driver)
        driver.set_mapping(enabled=False)  # what follows is not for the pipeline
        _print_start(console, driver)
        _print_cost(console, driver.pipeline)


def _print_feedings(console: Console, driver: Driver) -> None:
    declares = declared("1" * 12)["event-source-mapping"]
    default = Feeding(declares["batchSize"], declares.get("scalingConfig", {}).get("maximumConcurrency"))
    others = [Feeding(10, None), Feeding(10, 2), Feeding(10, 10), Feeding(5, None), Feeding(1, None), Feeding(1, 10)]
    bursts: dict[Feeding, list[Burst]] = {feeding: [] for feeding in (default, *others)}
    _set(driver, Feeding(1, 10))
    _process(driver, "warming", FILES)  # starts as many environments as there are going to be
    for number in range(BURSTS):
        # By turns, so that whatever else the machine does falls on all of them.
        for feeding, done in bursts.items():
            _set(driver, feeding)
            done.append(_process(driver, f"{feeding.batch_size}-{feeding.maximum_concurrency}-{number}", FILES))
    _set(driver, default)
    calls = {line["key"]: line["request_id"] for line in driver.logged() if "key" in line}
    rows = []
    for feeding, done in bursts.items():
        latencies_s = [each for burst in done for each in burst.latencies_s]
        speeds = sorted(burst.a_second for burst in done)
        a_call = mean(FILES / len({calls[key] for key in burst.keys}) for burst in done)
        rows.append(
            (
                feeding.name + (" (the stacks)" if feeding == default else ""),
                f"{median(speeds):.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f})",
                *(f"{percentile(latencies_s, percent) * 1000:.0f}" for percent in (50, 95, 99)),
                f"{a_call:.1f}",
            )
        )
    console.print(
        f"From upload to result, {FILES} files of 1 KiB at once, {BURSTS} times, by the batch size and the maximum "
        f"concurrency of the event source mapping"
    )
    table(console, "", ("batch, concurrency", "files/s", "p50 ms", "p95 ms", "p99 ms", "files/call"), rows)
    console.print(
        f"Without a maximum the emulator has {EMULATORS_CONCURRENCY} batches in work, where AWS begins with 5 and adds "
        f"more. After each call it keeps the batch's place for {LOG_WAIT_MS} ms, for the last lines of the log."
    )
    _print_window(console, driver)


def _print_window(console: Console, driver: Driver) -> None:
    function, mapping = boto3.client("lambda"), driver.pipeline.event_source_mapping_id
    function.update_event_source_mapping(UUID=mapping, MaximumBatchingWindowInSeconds=WINDOW_S)
    (latency_s,) = _process(driver, "window", 1).latencies_s
    function.update_event_source_mapping(UUID=mapping, MaximumBatchingWindowInSeconds=0)
    console.print(
        f"With a batching window of {WINDOW_S} s, a file alone took {latency_s * 1000:.0f} ms: "
        + ("the emulator has no such window." if latency_s < WINDOW_S else "the window, and the rest.")
    )
    console.print()


def _set(driver: Driver, feeding: Feeding) -> None:
    """Have the event source mapping feed the function so."""
    maximum = feeding.maximum_concurrency
    boto3.client("lambda").update_event_source_mapping(
        UUID=driver.pipeline.event_source_mapping_id,
        BatchSize=feeding.batch_size,
        ScalingConfig={"MaximumConcurrency": maximum} if maximum else {},
    )


def _process(driver: Driver, name: str, files: int) -> Burst:
    """Upload files of 1 KiB, wait for their results, and return how fast they came."""
    pipeline, s3 = driver.pipeline, boto3.client("s3")
    contents = {f"{name}-{number}.bin": SMALL for number in range(files)}
    driver.upload(contents)
    eventually(lambda: len(written(s3, pipeline.bucket_name, f"{pipeline.output_prefix}{name}-")) == files)
    driver.assert_idle()
    begun = written(s3, pipeline.bucket_name, f"{pipeline.input_prefix}{name}-")
    done = written(s3, pipeline.bucket_name, f"{pipeline.output_prefix}{name}-")
    latencies = [
        done[f"{pipeline.output_prefix}{each}.json"] - begun[f"{pipeline.input_prefix}{each}"] for each in contents
    ]
    return Burst(
        a_second=files / (max(done.values()) - min(begun.values())).total_seconds(),
        latencies_s=[each.total_seconds() for each in latencies],
        keys=frozenset(begun),
    )


def written(s3: "S3Client", bucket: str, prefix: str) -> dict[str, datetime]:
    """Return when S3 stored the objects under a prefix, by key.

    That is LastModified in S3's listing: whole seconds on AWS, but milliseconds in the emulator, by the one clock of
    this machine for uploads and results alike.
    """
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {item["Key"]: item["LastModified"] for page in pages for item in page.get("Contents", [])}


def _print_first_file(console: Console, driver: Driver) -> None:
    function, name = boto3.client("lambda"), driver.pipeline.function_name
    timeout = function.get_function_configuration(FunctionName=name)["Timeout"]
    cold: list[float] = []
    warm: list[float] = []
    for number in range(COLD):
        # Even to what it is, a change discards the environments that have been started; not one of the description.
        function.update_function_configuration(FunctionName=name, Timeout=timeout)
        function.get_waiter("function_updated_v2").wait(FunctionName=name)
        cold += _process(driver, f"cold-{number}", 1).latencies_s
        warm += _process(driver, f"warm-{number}", 1).latencies_s
    table(
        console,
        f"One file of 1 KiB in the idle pipeline, from upload to result; median of {COLD} (and their range)",
        ("", "ms"),
        [("the function has to be started", _milliseconds(cold)), ("it is running", _milliseconds(warm))],
    )


def _print_start(console: Console, driver: Driver) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    parts: list[list[float]] = []
    for number in range(COLD):
        names = [f"start-{number}-{second}.bin" for second in range(2)]
        driver.upload(dict.fromkeys(names, SMALL))
        keys = [driver.pipeline.input_prefix + name for name in names]
        begun = time.time()
        ran = subprocess.run(
            [sys.executable, "-c", START],
            input=json.dumps([_event(driver.pipeline.bucket_name, key) for key in keys]),
            env={"PATH": os.defpath, "PYTHONPATH": str(LAMBDA_CODE)} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        times = [begun, *json.loads(ran.stdout.splitlines()[-1])]
        parts.append([later - earlier for earlier, later in pairwise(times)])
    start, boto, own, first, second = (list(part) for part in zip(*parts, strict=True))
    table(
        console,
        f"The start of the function in a fresh process, median of {COLD} (and their range)",
        ("", "ms"),
        [
            ("the interpreter", _milliseconds(start)),
            ("import boto3", _milliseconds(boto)),
            ("import lambda_function, which makes the S3 client", _milliseconds(own)),
            ("the first message", _milliseconds(first)),
            ("all before the second message", _milliseconds([sum(each[:4]) for each in parts])),
            ("the second message", _milliseconds(second)),
        ],
    )


def _print_cost(console: Console, pipeline: Pipeline) -> None:
    contents = {
        "1-KiB.bin": SMALL,
        "1-MiB.bin": SMALL * KIB,
        "1-MiB.csv": ROW * (MIB // len(ROW)),
        "1-MiB.jsonl": RECORD * (MIB // len(RECORD)),
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),  # the function's log
    ):
        patch.syspath_prepend(LAMBDA_CODE)
        function = importlib.import_module("lambda_function")  # it makes its client of the environment there is now
        rows = [_cost(function, pipeline, name, content) for name, content in contents.items()]
    console.print(
        f"The handler beside get_object and put_object by its own client, ms a file, and of them on this process's "
        f"CPU;\nmedian of {ROUNDS} rounds of {FILES_A_ROUND} files, by turns"
    )
    table(console, "", ("file", "bare", "handler", "ratio", "bare CPU", "handler CPU"), rows)


def _cost(function: Any, pipeline: Pipeline, name: str, content: bytes) -> tuple[str, ...]:  # noqa: ANN401  a module
    """Process one file again and again, by the handler and by bare reads and writes, and return a row of the table."""
    s3, bucket, key = function.S3, pipeline.bucket_name, pipeline.input_prefix + name
    stored = f"{pipeline.output_prefix}{name}.json"
    event = _event(bucket, key)
    s3.put_object(Bucket=bucket, Key=key, Body=content)

    def handle() -> None:
        if failures := function.handler(event, Context())["batchItemFailures"]:
            raise RuntimeError(f"{name} was not processed: {failures}")

    def bare() -> None:
        s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        s3.put_object(Bucket=bucket, Key=stored, Body=document, ContentType="application/json")

    def timed(way: Callable[[], None]) -> Spent:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        way()
        spent = Spent(time.perf_counter() - begun, time.process_time() - cpu_begun)
        # A document that is there already would have the handler look which is newer.
        s3.delete_object(Bucket=bucket, Key=stored)
        return spent

    handle()
    document = s3.get_object(Bucket=bucket, Key=stored)["Body"].read()
    bare()
    s3.delete_object(Bucket=bucket, Key=stored)
    plain: list[Spent] = []
    handled: list[Spent] = []
    for _ in range(ROUNDS):
        turns = [(timed(bare), timed(handle)) for _ in range(FILES_A_ROUND)]
        plain.append(Spent.average([turn[0] for turn in turns]))
        handled.append(Spent.average([turn[1] for turn in turns]))
    ratios = [ours.elapsed_s / bares.elapsed_s for bares, ours in zip(plain, handled, strict=True)]
    return (
        name,
        *(f"{median(each.elapsed_s for each in rounds) * 1000:.1f}" for rounds in (plain, handled)),
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        *(f"{median(each.cpu_s for each in rounds) * 1000:.1f}" for rounds in (plain, handled)),
    )


def _event(bucket: str, key: str) -> dict[str, object]:
    """Return what the event source mapping sends of one file: a batch of one message, as S3 writes it."""
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "sequencer": "0A"}},
    }
    return {"Records": [{"messageId": "message", "body": json.dumps({"Records": [record]})}]}


def _milliseconds(seconds: Sequence[float]) -> str:
    """Return the median of ``seconds``, and their range, in milliseconds: ``66 (65 to 67)``."""
    return f"{median(seconds) * 1000:.0f} ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})"
