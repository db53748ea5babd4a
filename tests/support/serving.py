"""Serves the page of a pipeline in a thread, and asks it as a browser or somebody else would."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any
from urllib.parse import quote, urlsplit

from xfarm.operations.pipeline import Pipeline
from xfarm.watch.server import serve
from xfarm.watch.view import PipelineView


@dataclass(frozen=True)
class Served:
    """A page that is being served."""

    url: str
    token: str

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body that a request is answered with; no header is sent but these."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=body if method == "POST" else None, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    @property
    def ours(self) -> dict[str, str]:
        """The headers that the page's own requests have."""
        return {"Origin": self.url.rstrip("/"), "X-Token": self.token}

    def state(self) -> dict[str, Any]:
        status, _, body = self.ask("GET", "/state")
        assert status == 200, body
        return json.loads(body)

    def file(self, name: str) -> dict[str, Any]:
        return next(file for file in self.state()["files"] if file["name"] == name)

    def send(self, name: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        status, _, answer = self.ask("POST", f"/files?name={quote(name)}", headers or self.ours, body)
        return status, json.loads(answer)


@contextmanager
def served(pipeline: Pipeline, *, writable: bool = True, every: float = 0) -> Iterator[Served]:
    """Serve a pipeline's page on a free port."""
    urls: Queue[str] = Queue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(PipelineView(pipeline, every=every), port=0, writable=writable, ready=urls.put))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        url = urls.get(timeout=30)
        page = Served(url, "").ask("GET", "/")[2].decode()
        yield Served(url, page.partition('data-token="')[2].partition('"')[0])
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
