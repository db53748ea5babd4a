"""An object of 1 GiB is processed within the memory that the stack gives the function.

The emulator would hold the object in its own memory, so a small server replaces S3 and generates it.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.emulated_pipeline import declared
from tests.support.http_server import serving
from xfarm.emulator.server import REGION
from xfarm.paths import ROOT

MIB = 1024 * 1024
PIECE = bytes(MIB)

HANDLE = """
import json, sys, time, lambda_function
class Context:
    aws_request_id = "request"
    def get_remaining_time_in_millis(self): return 900_000
event = json.load(sys.stdin)
started, cpu_started = time.monotonic(), time.process_time()
response = lambda_function.handler(event, Context())
seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
assert response == {"batchItemFailures": []}, response
with open("/proc/self/status") as status:  # not getrusage, whose peak a process inherits
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_kib": peak_kib}))
"""


class Store(ThreadingHTTPServer):
    """The part of S3 that one file needs: `size` bytes, `piece` repeated."""

    def __init__(self, size: int, piece: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.size = size
        self.piece = piece
        self.stored: list[bytes] = []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store  # pyrefly: ignore[bad-override]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.size))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        for start in range(0, self.server.size, len(self.server.piece)):
            self.wfile.write(self.server.piece[: self.server.size - start])

    def do_PUT(self) -> None:
        self.server.stored.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:  # pyrefly: ignore[missing-override-decorator, bad-override]
        """Print nothing."""


@dataclass(frozen=True)
class Handled:
    """The outcome of one file: the handler's time and CPU time, the peak memory of its process, and the document."""

    seconds: float
    cpu_seconds: float
    peak_kib: int
    result: dict[str, Any]


def handle(size: int, *, piece: bytes = PIECE, name: str = "large.bin") -> Handled:
    """Run the handler for one file in a new process.

    Args:
        size: The file's size in bytes.
        piece: The bytes that the file repeats.
        name: The file's name.
    """
    described = {"key": f"inputs/{name}", "size": size, "sequencer": "0A"}
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "bucket"}, "object": described},
    }
    event = {"Records": [{"messageId": "message", "body": json.dumps({"Records": [record]})}]}
    with serving(Store(size, piece)) as store:
        ran = subprocess.run(
            [sys.executable, "-c", HANDLE],
            input=json.dumps(event),
            env={
                "PATH": os.defpath,
                "PYTHONPATH": str(ROOT / "lambda_code"),
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.server_port}",
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (stored,) = store.stored
    return Handled(**json.loads(ran.stdout.splitlines()[-1]), result=json.loads(stored))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_a_gibibyte_is_processed_within_the_functions_memory() -> None:
    handled = handle(1024 * MIB)
    digest = hashlib.sha256()
    for _ in range(1024):
        digest.update(PIECE)
    assert (handled.result["size"], handled.result["sha256"]) == (1024 * MIB, digest.hexdigest())
    assert handled.peak_kib < declared("1" * 12)["function"]["memorySize"] * 1024
