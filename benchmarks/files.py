"""Measures the function's time and price for a file, by size, format and memory.

Lambda gives a function a share of a CPU in proportion to its memory: one vCPU at 1,769 MB ("Configure Lambda function
memory"). So the time for a file is the handler's CPU time on this machine, divided by that share. With a CPU limit by
cgroup, the result is the same within a few per cent, see docs/batches.md. S3 is a fake in another process that makes up
the file while it is read, so the figures include neither its CPU time nor network or TLS.

The price is that for x86 in US East (N. Virginia): memory times time, plus a price per call ("AWS Lambda Pricing").
"""

from dataclasses import dataclass
from typing import Final

from rich.console import Console

from benchmarks.figures import table
from tests.emulator.pipeline.test_memory import MIB, PIECE, handle

SIZES: Final = {"1 KiB": 1024, "1 MiB": MIB, "100 MiB": 100 * MIB, "1 GiB": 1024 * MIB}
MEMORIES_MIB: Final = (128, 256, 512, 1024, 1769)
WHOLE_CPU_MIB: Final = 1769

DOLLARS_A_GB_SECOND: Final = 0.0000166667
DOLLARS_A_CALL: Final = 0.20 / 1_000_000


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: Its name in the table.
        extension: The extension of the file's name.
        row: The row that the file repeats.
    """

    name: str
    extension: str
    row: bytes

    def piece(self) -> bytes:
        """Return whole rows of about 1 MiB."""
        return self.row * (len(PIECE) // len(self.row))


KINDS: Final = (
    Kind("plain", "bin", bytes(1)),
    Kind("CSV", "csv", b"2026-01-31T12:00:00Z,north field,21.5,moist\n"),
    Kind("JSON Lines", "jsonl", b'{"time": "2026-01-31T12:00:00Z", "place": "north field", "celsius": 21.5}\n'),
)


def seconds_at(cpu_seconds: float, memory_mib: int) -> float:
    """Return the time, in seconds, that the work takes with this memory; one file uses at most one CPU."""
    return cpu_seconds * WHOLE_CPU_MIB / min(memory_mib, WHOLE_CPU_MIB)


def dollars(seconds: float, memory_mib: int) -> float:
    """Return the price of a call."""
    return seconds * memory_mib / 1024 * DOLLARS_A_GB_SECOND + DOLLARS_A_CALL


def run(console: Console) -> None:
    """Measure each file once, and print its time and price by memory."""
    rows: list[tuple[str, ...]] = []
    for size_name, about in SIZES.items():
        for kind in KINDS:
            size = about // len(kind.row) * len(kind.row)
            handled = handle(size, piece=kind.piece(), name=f"file.{kind.extension}")
            if handled.result["malformed"]:
                raise AssertionError(handled.result)
            times = [(seconds_at(handled.cpu_seconds, memory_mib), memory_mib) for memory_mib in MEMORIES_MIB]
            rows.append(
                (
                    f"{size_name} {kind.name}",
                    f"{handled.cpu_seconds:.3f}",
                    f"{handled.peak_kib / 1024:.0f}",
                    *(f"{seconds:.2f} s {1000 * dollars(seconds, memory):.4f}" for seconds, memory in times),
                )
            )
    console.print("The function's time for a file, and the price of a thousand files in US dollars, by memory in MiB")
    table(console, "", ("file", "CPU s", "peak MiB", *map(str, MEMORIES_MIB)), rows)
