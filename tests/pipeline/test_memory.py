"""An object of 1 GiB, within the memory that the stack gives the function.

Not by the emulator, which would hold the object in its own memory: a stand-in for S3 makes it up while it is read.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from local.emulator import REGION
from orchestrator.graph import ROOT
from tests.emulated_pipeline import declared

MIB = 1024 * 1024
SIZE = 1024 * MIB
PIECE = bytes(MIB)

HANDLE = """
import json, sys, lambda_function
class Context:
    aws_request_id = "request"
    def get_remaining_time_in_millis(self): return 60_000
response = lambda_function.handler(json.load(sys.stdin), Context())
assert response == {"batchItemFailures": []}, response
with open("/proc/self/status") as status:  # not getrusage, whose peak a process inherits
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


class Store(ThreadingHTTPServer):
    """As much of S3 as one file needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.stored: list[bytes] = []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store  # pyrefly: ignore[bad-override]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.send_header("ETag", '"etag"')
        self.end_headers()
        for _ in range(SIZE // MIB):
            self.wfile.write(PIECE)

    def do_PUT(self) -> None:
        self.server.stored.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:  # pyrefly: ignore[missing-override-decorator, bad-override]
        """Print nothing."""


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_a_gibibyte_is_processed_within_the_functions_memory(store: Store) -> None:
    described = {"key": "inputs/large.bin", "sequencer": "0A"}
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "bucket"}, "object": described},
    }
    event = {"Records": [{"messageId": "message", "body": json.dumps({"Records": [record]})}]}
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
    digest = hashlib.sha256()
    for _ in range(SIZE // MIB):
        digest.update(PIECE)
    (stored,) = store.stored
    result = json.loads(stored)
    assert (result["size"], result["sha256"]) == (SIZE, digest.hexdigest())
    peak_kib = int(ran.stdout.splitlines()[-1])
    assert peak_kib < declared("1" * 12)["function"]["memorySize"] * 1024
