"""A proxy between the AWS provider and the emulator, with AWS's habits, or that makes requests fail."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from tests.support.checkout import Checkout

SERVICES = ("cloudwatch", "iam", "lambda", "logs", "s3", "sns", "sqs", "sts")


@dataclass(frozen=True)
class Request:
    """What the provider asks.

    Attributes:
        action: "CreateRole" where the protocol names it, else "PUT /bucket".
        subject: What follows the path's question mark, without values: "notification" in "PUT /bucket?notification".
        values: The parameters of the request, from its form or its JSON document.
    """

    action: str
    subject: str
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """What is asked, and of S3 also what of a bucket: "PUT /bucket?notification"."""
        return f"{self.action}?{self.subject}" if self.subject else self.action

    @property
    def is_s3(self) -> bool:
        """Whether it is asked of S3, which names no action, and has no date in its paths as Lambda has."""
        return " /" in self.action and " /20" not in self.action


@dataclass(frozen=True)
class Refusal:
    """An answer that refuses, in the protocol of the request."""

    status: int
    code: str
    message: str = "as told"


class Habit:
    """One habit of AWS, whose docstring says what it is and ends with its source.

    The provider's own name for a request is its action, and for S3, the method and what follows the question mark.
    """

    delay_s = 0.0
    """How long it keeps each answer back, in seconds."""

    who: ClassVar[Literal["provider", "orchestrator", "stack", "status"]] = "provider"
    """What deals with it: the AWS provider asks again, or the orchestrator does, or the stack's own order and options
    leave nothing to ask, or `status` says what a person has to do."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        self.client = client
        """Makes clients of the account, past the proxy."""
        self.bitten = 0
        """How often it has been met."""

    @classmethod
    def title(cls) -> str:
        """Return what it is called in docs/habits.md."""
        return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in cls.__name__).strip()

    @classmethod
    def source(cls) -> str:
        """Return the page or thread that tells of it."""
        return " ".join((cls.__doc__ or "").rpartition("Source:")[2].split()).rstrip(".")

    def before(self, request: Request) -> Refusal | None:
        """Return how a request is refused, if it is."""

    def after(self, request: Request, status: int) -> bool:  # noqa: ARG002
        """Return whether the answer to a request that was done with this status is to be lost."""
        return False


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
        self.habits: list[Habit]
        """What it does as AWS does; one request meets all of them, until one refuses it."""
        self.lock = threading.Lock()
        self.behave()

    def behave(self) -> None:
        """Do all that is asked, at once."""
        self.refuse = lambda _: None
        self.keep_back = lambda _: None
        self.habits = []

    def refusal(self, request: Request) -> Refusal | None:
        """Return how a request is refused, if it is."""
        if told := self.refuse(request.action):
            return Refusal(*told)
        with self.lock:
            return next((refusal for habit in self.habits if (refusal := habit.before(request))), None)

    def loses(self, request: Request, status: int) -> bool:
        """Return whether the answer to a request that was done is to be lost."""
        self.keep_back(request.action)
        time.sleep(sum(habit.delay_s for habit in self.habits))
        with self.lock:
            return any(habit.after(request, status) for habit in self.habits)

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
        request = self._request(body)
        if refusal := self.server.refusal(request):
            self._refuse(refusal)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "transfer-encoding":
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        if self.server.loses(request, answer.status):
            self.close_connection = True
            return
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

    def _request(self, body: bytes) -> Request:
        path, _, query = self.path.partition("?")
        if target := self.headers.get("X-Amz-Target"):
            return Request(target.rpartition(".")[2], "", json.loads(body))
        if "form" in self.headers.get("Content-Type", ""):
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            return Request(form["Action"], "", form)
        values = json.loads(body) if body.startswith(b"{") else {}
        return Request(f"{self.command} {path}", query.partition("=")[0].partition("&")[0], values)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer as the protocol of the request has it: JSON, a form's XML, or S3's."""
        code, message = refusal.code, refusal.message
        content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if self.headers.get("X-Amz-Target") or urlsplit(self.path).path.startswith("/20"):  # Lambda's begin with a date
            content = json.dumps({"__type": code, "message": message})
        elif "form" in self.headers.get("Content-Type", ""):
            content = f"<ErrorResponse>{content}</ErrorResponse>"
        self.send_response_only(refusal.status)
        self.send_header("x-amzn-ErrorType", code)
        if self.headers.get("x-amzn-query-mode"):
            self.send_header("x-amzn-query-error", f"{code};Sender")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content.encode())


@contextmanager
def between(checkout: Checkout, *projects: str, retries: int = 3) -> Iterator[FaultyAws]:
    """Let the projects of a copy reach its emulator through a proxy, which their state remembers."""
    with FaultyAws(checkout.port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for project in projects:
            endpoints = [dict.fromkeys(SERVICES, f"http://127.0.0.1:{proxy.server_port}")]
            checkout.configure(project, "local", **{"aws:endpoints": endpoints, "aws:maxRetries": retries})
        yield proxy
        proxy.shutdown()
