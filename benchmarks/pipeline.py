"""Measures how fast files are processed, by the pipeline on the emulator and by the function's code alone.

Uploads, emulator and functions share the CPUs of one machine, so compare the figures with each other, not with AWS.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

import boto3
import pytest

from benchmarks.figures import percentile, table
from tests.support.driver import Driver
from tests.support.emulated_pipeline import create_pipeline, declared, private_emulator, running
from tests.support.waiting import eventually
from xfarm.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mypy_boto3_s3 import S3Client
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

KIB: Final = 1024
MIB: Final = 1024 * KIB
SMALL: Final = bytes(range(256)) * 4
"""A file of 1 KiB."""

ROW: Final = b"2026-01-31T12:00:00Z,north field,21.5,moist\n"
RECORD: Final = b'{"time": "2026-01-31T12:00:00Z", "place": "north field", "celsius": 21.5}\n'

FILES: Final = 200
"""How many files a burst has."""
BURSTS: Final = 3
"""How many bursts are uploaded for each mapping."""
COLD_STARTS: Final = 5
ROUNDS: Final = 5
"""How many rounds compare the handler with bare requests to S3."""
FILES_PER_ROUND: Final = 20

VISIBILITY_S: Final = 60
"""Longer than any batch takes, so that no file is delivered twice."""

EMULATOR_CONCURRENCY: Final = 5
"""How many batches ministack processes at the same time by default: its `_ESM_SQS_DEFAULT_CONCURRENCY`."""

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
class Mapping:
    """Settings of the event source mapping.

    Attributes:
        batch_size: The BatchSize.
        maximum_concurrency: The MaximumConcurrency, or None for no maximum.
    """

    batch_size: int
    maximum_concurrency: int | None

    @property
    def name(self) -> str:
        """Its name in a table."""
        return f"{self.batch_size}, {self.maximum_concurrency or 'none'}"


@dataclass(frozen=True)
class Burst:
    """Figures for files that were uploaded at the same time.

    Attributes:
        per_second: Results per second, from the first upload to the last result.
        latencies_s: The time from upload to result of each file, in seconds.
        keys: The files' keys.
    """

    per_second: float
    latencies_s: list[float]
    keys: frozenset[str]


@dataclass(frozen=True)
class Duration:
    """The time for one file: elapsed time, and CPU time of this process, in seconds."""

    elapsed_s: float
    cpu_s: float

    @classmethod
    def average(cls, files: Sequence[Duration]) -> Duration:
        """Return the average of several files."""
        return cls(mean(each.elapsed_s for each in files), mean(each.cpu_s for each in files))


class Context:
    """The part of Lambda's context object that the function uses."""

    aws_request_id = "request"

    def get_remaining_time_in_millis(self) -> int:
        """Return enough time."""
        return 60_000


def run(console: Console) -> None:
    """Measure the pipeline, the function's start, and the handler compared with bare requests to S3."""
    with TemporaryDirectory() as folder, running(private_emulator(Path(folder))) as emulator:
        driver = Driver(emulator, create_pipeline(visibility_s=VISIBILITY_S))
        _print_mappings(console, driver)
        _print_first_file(console, driver)
        driver.set_mapping(enabled=False)  # the rest calls the code directly
        _print_start(console, driver)
        _print_cost(console, driver.pipeline)


def _print_mappings(console: Console, driver: Driver) -> None:
    declares = declared("1" * 12)["event-source-mapping"]
    default = Mapping(declares["batchSize"], declares.get("scalingConfig", {}).get("maximumConcurrency"))
    others = [Mapping(10, None), Mapping(10, 2), Mapping(10, 10), Mapping(5, None), Mapping(1, None), Mapping(1, 10)]
    bursts: dict[Mapping, list[Burst]] = {mapping: [] for mapping in (default, *others)}
    _set(driver, Mapping(1, 10))
    _process(driver, "warming", FILES)  # starts all execution environments that the bursts will use
    for number in range(BURSTS):
        # Alternating, so that other load affects all of them.
        for mapping, done in bursts.items():
            _set(driver, mapping)
            done.append(_process(driver, f"{mapping.batch_size}-{mapping.maximum_concurrency}-{number}", FILES))
    _set(driver, default)
    calls = {line["key"]: line["request_id"] for line in driver.logged() if "key" in line}
    rows = []
    for mapping, done in bursts.items():
        latencies_s = [each for burst in done for each in burst.latencies_s]
        speeds = sorted(burst.per_second for burst in done)
        per_call = mean(FILES / len({calls[key] for key in burst.keys}) for burst in done)
        rows.append(
            (
                mapping.name + (" (default)" if mapping == default else ""),
                f"{median(speeds):.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f})",
                *(f"{percentile(latencies_s, percent) * 1000:.0f}" for percent in (50, 95, 99)),
                f"{per_call:.1f}",
            )
        )
    console.print(
        f"From upload to result, {FILES} files of 1 KiB at once, {BURSTS} times, by batch size and maximum concurrency "
        f"of the event source mapping"
    )
    table(console, "", ("batch, concurrency", "files/s", "p50 ms", "p95 ms", "p99 ms", "files/call"), rows)
    console.print(
        f"Without a maximum, the emulator processes {EMULATOR_CONCURRENCY} batches at a time; AWS starts with 5 and "
        f"adds more."
    )
    _print_window(console, driver)


def _print_window(console: Console, driver: Driver) -> None:
    function, mapping = boto3.client("lambda"), driver.pipeline.event_source_mapping_id
    function.update_event_source_mapping(UUID=mapping, MaximumBatchingWindowInSeconds=WINDOW_S)
    (latency_s,) = _process(driver, "window", 1).latencies_s
    function.update_event_source_mapping(UUID=mapping, MaximumBatchingWindowInSeconds=0)
    console.print(
        f"With a batching window of {WINDOW_S} s, a single file took {latency_s * 1000:.0f} ms: "
        + ("the emulator has no batching window." if latency_s < WINDOW_S else "the window, and the rest.")
    )
    console.print()


def _set(driver: Driver, mapping: Mapping) -> None:
    """Change the settings of the event source mapping."""
    maximum = mapping.maximum_concurrency
    boto3.client("lambda").update_event_source_mapping(
        UUID=driver.pipeline.event_source_mapping_id,
        BatchSize=mapping.batch_size,
        ScalingConfig={"MaximumConcurrency": maximum} if maximum else {},
    )


def _process(driver: Driver, name: str, files: int) -> Burst:
    """Upload files of 1 KiB, wait for their results, and return the figures."""
    pipeline, s3 = driver.pipeline, boto3.client("s3")
    contents = {f"{name}-{number}.bin": SMALL for number in range(files)}
    driver.upload(contents)
    eventually(lambda: len(last_modified(s3, pipeline.bucket_name, f"{pipeline.output_prefix}{name}-")) == files)
    driver.assert_idle()
    uploaded = last_modified(s3, pipeline.bucket_name, f"{pipeline.input_prefix}{name}-")
    done = last_modified(s3, pipeline.bucket_name, f"{pipeline.output_prefix}{name}-")
    latencies = [
        done[f"{pipeline.output_prefix}{each}.json"] - uploaded[f"{pipeline.input_prefix}{each}"] for each in contents
    ]
    return Burst(
        per_second=files / (max(done.values()) - min(uploaded.values())).total_seconds(),
        latencies_s=[each.total_seconds() for each in latencies],
        keys=frozenset(uploaded),
    )


def last_modified(s3: S3Client, bucket: str, prefix: str) -> dict[str, datetime]:
    """Return the LastModified of the objects under a prefix, by key.

    It has whole seconds on AWS, but milliseconds on the emulator, where uploads and results have the same clock.
    """
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {item["Key"]: item["LastModified"] for page in pages for item in page.get("Contents", [])}


def _print_first_file(console: Console, driver: Driver) -> None:
    function, name = boto3.client("lambda"), driver.pipeline.function_name
    timeout = function.get_function_configuration(FunctionName=name)["Timeout"]
    cold: list[float] = []
    warm: list[float] = []
    for number in range(COLD_STARTS):
        # An update discards the execution environments, even if it changes nothing.
        function.update_function_configuration(FunctionName=name, Timeout=timeout)
        function.get_waiter("function_updated_v2").wait(FunctionName=name)
        cold += _process(driver, f"cold-{number}", 1).latencies_s
        warm += _process(driver, f"warm-{number}", 1).latencies_s
    table(
        console,
        f"One file of 1 KiB in the idle pipeline, from upload to result; median of {COLD_STARTS} (and range)",
        ("", "ms"),
        [("cold start", _milliseconds(cold)), ("warm start", _milliseconds(warm))],
    )


def _print_start(console: Console, driver: Driver) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    parts: list[list[float]] = []
    for number in range(COLD_STARTS):
        names = [f"start-{number}-{second}.bin" for second in range(2)]
        driver.upload(dict.fromkeys(names, SMALL))
        keys = [driver.pipeline.input_prefix + name for name in names]
        started = time.time()
        ran = subprocess.run(
            [sys.executable, "-c", START],
            input=json.dumps([_event(driver.pipeline.bucket_name, key) for key in keys]),
            env={"PATH": os.defpath, "PYTHONPATH": str(LAMBDA_CODE)} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        times = [started, *json.loads(ran.stdout.splitlines()[-1])]
        parts.append([later - earlier for earlier, later in pairwise(times)])
    start, boto, own, first, second = (list(part) for part in zip(*parts, strict=True))
    table(
        console,
        f"The start of the function in a new process, median of {COLD_STARTS} (and range)",
        ("", "ms"),
        [
            ("interpreter", _milliseconds(start)),
            ("import boto3", _milliseconds(boto)),
            ("import lambda_function, which creates the S3 client", _milliseconds(own)),
            ("first message", _milliseconds(first)),
            ("sum of these", _milliseconds([sum(each[:4]) for each in parts])),
            ("second message", _milliseconds(second)),
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
        function = importlib.import_module("lambda_function")  # creates its client from the current environment
        rows = [_cost(function, pipeline, name, content) for name, content in contents.items()]
    console.print(
        f"The handler, compared with get_object and put_object by its own client: elapsed time and CPU time in ms per "
        f"file;\nmedian of {ROUNDS} alternating rounds of {FILES_PER_ROUND} files"
    )
    table(console, "", ("file", "bare", "handler", "ratio", "bare CPU", "handler CPU"), rows)


def _cost(function: Any, pipeline: Pipeline, name: str, content: bytes) -> tuple[str, ...]:  # noqa: ANN401 - a module
    """Process one file repeatedly, by the handler and by bare reads and writes, and return a row of the table."""
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

    def timed(process: Callable[[], None]) -> Duration:
        started, cpu_started = time.perf_counter(), time.process_time()
        process()
        duration = Duration(time.perf_counter() - started, time.process_time() - cpu_started)
        # With an existing document, the handler would also compare which event is newer.
        s3.delete_object(Bucket=bucket, Key=stored)
        return duration

    handle()
    document = s3.get_object(Bucket=bucket, Key=stored)["Body"].read()
    bare()
    s3.delete_object(Bucket=bucket, Key=stored)
    bares: list[Duration] = []
    handlers: list[Duration] = []
    for _ in range(ROUNDS):
        pairs = [(timed(bare), timed(handle)) for _ in range(FILES_PER_ROUND)]
        bares.append(Duration.average([pair[0] for pair in pairs]))
        handlers.append(Duration.average([pair[1] for pair in pairs]))
    ratios = [handler.elapsed_s / bare.elapsed_s for bare, handler in zip(bares, handlers, strict=True)]
    return (
        name,
        *(f"{median(each.elapsed_s for each in rounds) * 1000:.1f}" for rounds in (bares, handlers)),
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        *(f"{median(each.cpu_s for each in rounds) * 1000:.1f}" for rounds in (bares, handlers)),
    )


def _event(bucket: str, key: str) -> dict[str, object]:
    """Return the event that the event source mapping sends for one file: a batch of one message from S3."""
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "sequencer": "0A"}},
    }
    return {"Records": [{"messageId": "message", "body": json.dumps({"Records": [record]})}]}


def _milliseconds(seconds: Sequence[float]) -> str:
    """Return the median of `seconds`, and their range, in milliseconds: `66 (65 to 67)`."""
    return f"{median(seconds) * 1000:.0f} ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})"
