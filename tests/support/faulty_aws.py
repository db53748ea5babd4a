"""A proxy between the AWS provider and the emulator, in which tests make requests fail, or keep their answers back."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from tests.support.checkout import Checkout

SERVICES = ("cloudwatch", "iam", "lambda", "logs", "s3", "sns", "sqs", "sts")


class FaultyAws(ThreadingHTTPServer):
    """An AWS that does what is asked of it, unless told otherwise."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = port
        self.refuse: Callable[[str], tuple[int, str] | None]
        """Answers, for a request by its action, with the status and code to refuse it with, if it is to be."""
        self.keep_back: Callable[[str], None]
        """Is called when a request has been done, before it is answered."""
        self.behave()

    def behave(self) -> None:
        """Do all that is asked, at once."""
        self.refuse = lambda _: None
        self.keep_back = lambda _: None

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of those who are killed while they ask."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyAws  # pyrefly: ignore[bad-override]
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """Hand on whatever the method is."""
        self.raw_requestline = self.rfile.readline()
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self._body()
        action = self._action(body)
        if refusal := self.server.refuse(action):
            self._refuse(*refusal)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "transfer-encoding":
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        self.server.keep_back(action)
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _action(self, body: bytes) -> str:
        """Return what is asked: "CreateRole" where the protocol names it, else "PUT /bucket"."""
        if target := self.headers.get("X-Amz-Target"):
            return target.rpartition(".")[2]
        if "form" in self.headers.get("Content-Type", ""):
            return parse_qs(body.decode())["Action"][0]
        return f"{self.command} {self.path.partition('?')[0]}"

    def _refuse(self, status: int, code: str) -> None:
        """Answer as the protocol of the request has it: JSON, a form's XML, or S3's."""
        content = f"<Error><Code>{code}</Code><Message>as told</Message></Error>"
        if self.headers.get("X-Amz-Target") or self.path.startswith("/20"):  # Lambda's paths begin with a date
            content = json.dumps({"__type": code, "message": "as told"})
        elif "form" in self.headers.get("Content-Type", ""):
            content = f"<ErrorResponse>{content}</ErrorResponse>"
        self.send_response_only(status)
        self.send_header("x-amzn-ErrorType", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content.encode())


@contextmanager
def between(checkout: Checkout, *projects: str) -> Iterator[FaultyAws]:
    """Let the projects of a copy reach its emulator through a proxy, which their state remembers."""
    with FaultyAws(checkout.port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for project in projects:
            endpoints = [dict.fromkeys(SERVICES, f"http://127.0.0.1:{proxy.server_port}")]
            checkout.configure(project, "local", **{"aws:endpoints": endpoints, "aws:maxRetries": 3})
        yield proxy
        proxy.shutdown()
