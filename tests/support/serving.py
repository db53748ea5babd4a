"""Serves the page of a pipeline in a thread, and sends requests to it as a browser or another program would."""

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

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request with these headers only, and return the status, headers and body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=body if method == "POST" else None, headers=headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the page's own requests."""
        return {"Origin": self.url.rstrip("/"), "X-Token": self.token}

    def state(self) -> dict[str, Any]:
        status, _, body = self.request("GET", "/state")
        assert status == 200, body
        return json.loads(body)

    def file(self, name: str) -> dict[str, Any]:
        return next(file for file in self.state()["files"] if file["name"] == name)

    def send(self, name: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        status, _, response = self.request("POST", f"/files?name={quote(name)}", headers or self.headers, body)
        return status, json.loads(response)


@contextmanager
def served(pipeline: Pipeline, *, writable: bool = True, refresh_s: float = 0) -> Iterator[Served]:
    """Serve a pipeline's page on a free port."""
    urls: Queue[str] = Queue()
    loop = asyncio.new_event_loop()
    view = PipelineView(pipeline, refresh_s=refresh_s)
    task = loop.create_task(serve(view, port=0, writable=writable, ready=urls.put))

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
        page = Served(url, "").request("GET", "/")[2].decode()
        yield Served(url, page.partition('data-token="')[2].partition('"')[0])
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
