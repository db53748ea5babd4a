"""How long the function takes for a file, and what that costs, by size, kind and memory.

Lambda gives a function a share of a CPU that grows with its memory: one vCPU at 1,769 MiB ("Configure Lambda function
memory"). So a file's time at a memory is taken to be the seconds that the handler is on a CPU of this machine, divided
by that share. A limit by cgroup comes to the same within a few per cent, see docs/batches.md. S3 is a stand-in in
another process that makes the file up while it is read: neither its CPU nor any network is in the figures, nor TLS.

The price is that of x86 in US East (N. Virginia), "AWS Lambda Pricing": what is billed is memory times time, and each
call.
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
    """A kind of files: its name, what their names end in, and the rows that they consist of."""

    name: str
    extension: str
    row: bytes

    def piece(self) -> bytes:
        """Return about a MiB of whole rows."""
        return self.row * (len(PIECE) // len(self.row))


KINDS: Final = (
    Kind("plain", "bin", bytes(1)),
    Kind("CSV", "csv", b"2026-01-31T12:00:00Z,north field,21.5,moist\n"),
    Kind("JSON Lines", "jsonl", b'{"time": "2026-01-31T12:00:00Z", "place": "north field", "celsius": 21.5}\n'),
)


def seconds_at(cpu_seconds: float, memory_mib: int) -> float:
    """Return the time that so much work takes at a memory; more than one CPU is no use to one file."""
    return cpu_seconds * WHOLE_CPU_MIB / min(memory_mib, WHOLE_CPU_MIB)


def dollars(seconds: float, memory_mib: int) -> float:
    """Return the price of a call that takes so long."""
    return seconds * memory_mib / 1024 * DOLLARS_A_GB_SECOND + DOLLARS_A_CALL


def run(console: Console) -> None:
    """Measure each file once at this machine's speed, and print its time and price at each memory."""
    rows: list[tuple[str, ...]] = []
    for size_name, about in SIZES.items():
        for kind in KINDS:
            size = about // len(kind.row) * len(kind.row)
            spent = handle(size, piece=kind.piece(), name=f"file.{kind.extension}")
            if spent.result["malformed"]:
                raise AssertionError(spent.result)
            times = [(seconds_at(spent.cpu_seconds, memory_mib), memory_mib) for memory_mib in MEMORIES_MIB]
            rows.append(
                (
                    f"{size_name} {kind.name}",
                    f"{spent.cpu_seconds:.3f}",
                    f"{spent.peak_kib / 1024:.0f}",
                    *(f"{seconds:.2f} s {1000 * dollars(seconds, memory):.4f}" for seconds, memory in times),
                )
            )
    console.print("The function's time for a file, and US dollars for a thousand of them, by memory in MiB")
    table(console, "", ("file", "CPU s", "peak MiB", *map(str, MEMORIES_MIB)), rows)
