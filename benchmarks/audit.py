"""Measures the audit of a bucket with many files: time, memory and requests, for one folder and for many.

S3 is a fake in another process, which makes up its answers, so the figures are those of the audit alone. S3 itself
answers 5,500 GET and HEAD requests a second for each prefix ("Best practices design patterns: optimizing Amazon S3
performance"), and one listing of 1,000 objects after the other within a prefix.
"""

import multiprocessing
import os
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from rich.console import Console

from benchmarks.figures import table
from tests.support.undeployed import PIPELINE
from xfarm.operations import audit

Cases = Mapping[str, tuple[int, int]]
"""The number of folders, and of files in all of them together."""

CASES: Final[Cases] = {"1,000 files": (1, 1000), "100,000 files": (1, 100_000)}
MILLION: Final[Cases] = {"1,000,000 files": (1, 1_000_000), "1,000,000 files in 100 folders": (100, 1_000_000)}


def _page(query: dict[str, str], folders: int, files: int) -> str:
    """Return a page of a listing of folders with the same number of files each, and of their results."""
    prefix = query["prefix"]
    top, _, folder = prefix.rstrip("/").partition("/")
    end = ".csv" if top == "inputs" else ".csv.json"
    if query.get("delimiter") and not folder:
        below = "".join(f"<CommonPrefixes><Prefix>{top}/{n:03}/</Prefix></CommonPrefixes>" for n in range(folders))
        return f"<IsTruncated>false</IsTruncated>{below}"
    first = int(query.get("continuation-token", "0"))
    within = files // folders if folder else files
    entries = "".join(
        f"<Contents><Key>{top}/{folder or f'{n // (files // folders):03}'}/{n:09}{end}</Key>"
        '<LastModified>2026-11-26T00:00:00.000Z</LastModified><ETag>"0"</ETag><Size>1</Size></Contents>'
        for n in range(first, min(first + audit.PAGE, within))
    )
    following = first + audit.PAGE
    truncated = following < within
    token = f"<NextContinuationToken>{following}</NextContinuationToken>" if truncated else ""
    return f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{token}{entries}"


def _serve(folders: int, files: int, port: Any, requests: Any) -> None:  # noqa: ANN401 - shared values
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answer a listing."""
            with requests.get_lock():
                requests.value += 1
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            body = f"<ListBucketResult>{_page(query, folders, files)}</ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port.put(server.server_port)
        server.serve_forever()


def _audit(port: int, figures: Any) -> None:  # noqa: ANN401 - a queue
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    compared = 0

    def advance() -> None:
        nonlocal compared
        compared += 1

    began = time.monotonic()
    lost = list(audit.findings(PIPELINE, PIPELINE.input_prefix, advance=advance))
    seconds = time.monotonic() - began
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()  # a process inherits getrusage's peak
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    figures.put((compared, len(lost), seconds, peak_kib / 1024))


def run(console: Console, cases: Cases = CASES) -> None:
    """Audit buckets in which each file has a result, and print the figures."""
    spawn = multiprocessing.get_context("spawn")  # so that each audit has a memory of its own
    rows: list[tuple[str, ...]] = []
    for name, (folders, files) in cases.items():
        port, figures, requests = spawn.Queue(), spawn.Queue(), spawn.Value("i", 0)
        server = spawn.Process(target=_serve, args=(folders, files, port, requests), daemon=True)
        server.start()
        auditing = spawn.Process(target=_audit, args=(port.get(), figures))
        auditing.start()
        compared, lost, seconds, mebibytes = figures.get()
        auditing.join()
        server.kill()
        if (compared, lost) != (files, 0):
            raise AssertionError((compared, lost))
        rows.append((name, f"{seconds:.1f}", f"{files / seconds:,.0f}", f"{requests.value:,}", f"{mebibytes:.0f}"))
    table(console, "audit", ("bucket", "seconds", "files a second", "requests", "peak MiB"), rows)
