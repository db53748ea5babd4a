"""Measures how fast the contents of files are read: 100 MB of CSV, JSON Lines and gzipped CSV.

Each way of reading runs in its own process, which reads the file from the disk's cache in chunks of the function's
size. The time is CPU time, without the start of the process; the memory is the peak of the whole process (`VmHWM`),
including the interpreter. Linux only, because the peak is read from `/proc`.
"""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console

from benchmarks.figures import table
from xfarm.paths import ROOT

SIZE_BYTES: Final = 100_000_000
"""The size of each file, uncompressed."""
BLOCK_BYTES: Final = 1_000_000
"""The size of the block that is repeated; it is larger than gzip's window."""
ROUNDS: Final = 5

READING: Final = """
import csv, gzip, hashlib, io, json, sys, time
from process import Source, process
from tables import read

way, path = sys.argv[1:]

def chunks():
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(256 * 1024):
            yield chunk

def reading():
    for _ in chunks():
        pass

def checksum():
    digest = hashlib.sha256()
    for chunk in chunks():
        digest.update(chunk)

def bare():
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        if ".csv" in path:
            return sum(1 for _ in csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))) - 1
        return sum(1 for line in file if json.loads(line) is not None)

def rows():
    return read(path, "", chunks())["rows"]

def shipped():
    source = Source(bucket="", key=path, version_id=None, etag="", sequencer="", size=0, content_type="")
    return process(source, chunks())["rows"]

started = time.process_time()
found = locals()[way]()
seconds = time.process_time() - started
with open("/proc/self/status") as status:  # not getrusage, whose peak a process inherits
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps([seconds, peak_kib, found]))
"""

WAYS: Final = {
    "reading": "reading alone",
    "checksum": "reading, SHA-256",
    "bare": "csv or json in a loop",
    "rows": "`tables.read`",
    "shipped": "`process`, which includes SHA-256",
}


def run(console: Console) -> None:
    """Measure each way of reading each file."""
    with TemporaryDirectory() as folder:
        for name, content in FILES.items():
            path = Path(folder) / name
            path.write_bytes(content())
            _print_ways(console, path)


def _print_ways(console: Console, path: Path) -> None:
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks: dict[str, list[int]] = {way: [] for way in WAYS}
    found = {}
    for _ in range(ROUNDS):
        for way in WAYS:  # alternating, so that other load affects all of them
            ran = subprocess.run(
                [sys.executable, "-c", READING, way, path],
                env={"PATH": os.defpath, "PYTHONPATH": str(ROOT / "lambda_code")},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, peak_kib, found[way] = json.loads(ran.stdout)
            times[way].append(seconds)
            peaks[way].append(peak_kib)
    assert found["bare"] == found["rows"] == found["shipped"], found  # noqa: S101 - the comparison depends on it
    loop = median(times["bare"])
    table(
        console,
        f"{path.name}: {SIZE_BYTES / 1e6:.0f} MB, {path.stat().st_size / 1e6:.0f} MB stored, {found['bare']:,} rows; "
        f"median of {ROUNDS} (and range)",
        ("", "CPU s", "MB/s", "of the loop", "peak MiB"),
        [
            (
                name,
                f"{median(times[way]):.2f} ({min(times[way]):.2f} to {max(times[way]):.2f})",
                f"{SIZE_BYTES / 1e6 / median(times[way]):.0f}",
                f"{median(times[way]) / loop:.2f}",
                f"{median(peaks[way]) / 1024:.0f}",
            )
            for way, name in WAYS.items()
        ],
    )


def _repeated(header: str, line: Callable[[random.Random], str]) -> bytes:
    """Return a file of `SIZE_BYTES` at most: a header, then repetitions of a block of lines."""
    chance = random.Random(0)  # noqa: S311 - not for secrets
    block = "".join(line(chance) for _ in range(BLOCK_BYTES // len(line(chance)))).encode()
    return header.encode() + block * (SIZE_BYTES // len(block))


def _csv() -> bytes:
    def line(chance: random.Random) -> str:
        minute, field = chance.randrange(60), chance.randrange(1000)
        return f'2026-01-31T12:{minute:02}:00Z,"north field, {field}",{chance.uniform(0, 40):.2f},moist\n'

    return _repeated("time,place,celsius,soil\n", line)


def _json_lines() -> bytes:
    def line(chance: random.Random) -> str:
        time, place = f"2026-01-31T12:{chance.randrange(60):02}:00Z", f"north field, {chance.randrange(1000)}"
        return json.dumps({"time": time, "place": place, "celsius": round(chance.uniform(0, 40), 2)}) + "\n"

    return _repeated("", line)


FILES: Final[dict[str, Callable[[], bytes]]] = {
    "readings.csv": _csv,
    "readings.jsonl": _json_lines,
    "readings.csv.gz": lambda: gzip.compress(_csv(), compresslevel=6, mtime=0),
}
