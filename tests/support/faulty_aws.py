"""A proxy between the AWS provider and the emulator that has AWS's habits, or makes requests fail."""

import http.client
import json
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from tests.support.checkout import Checkout
from tests.support.http_server import serving
from xfarm.toolchain import terraform
from xfarm.toolchain.resolve import resolve

SERVICES = ("cloudwatch", "iam", "lambda", "logs", "s3", "sns", "sqs", "sts")


@dataclass(frozen=True)
class Request:
    """A request of the provider.

    Attributes:
        action: Its action, "CreateRole" for example, or if the protocol has none, "PUT /bucket".
        subject: The first name in the query string: "notification" in "PUT /bucket?notification".
        values: Its parameters, from a form or a JSON document.
        key: The access key that signed it.
    """

    action: str
    subject: str
    values: dict[str, Any]
    key: str = ""

    @property
    def name(self) -> str:
        """The action with the subject: "PUT /bucket?notification"."""
        return f"{self.action}?{self.subject}" if self.subject else self.action

    @property
    def is_s3(self) -> bool:
        """Whether it is a request to S3, which has no action, and unlike Lambda no date in its paths."""
        return " /" in self.action and " /20" not in self.action


@dataclass(frozen=True)
class Refusal:
    """An error response of AWS."""

    status: int
    code: str
    message: str = "test refusal"


class Habit:
    """A habit of AWS; the docstring of each subclass describes it and ends with the source."""

    delay_s = 0.0
    """How long it delays each response, in seconds."""

    handled_by: ClassVar[Literal["provider", "orchestrator", "stack", "status"]] = "provider"
    """What handles it: the AWS provider retries, or the orchestrator does, or the stack's order and options avoid it,
    or `status` says what a person has to do."""

    def __init__(self, client: Callable[[str], Any]) -> None:
        self.client = client
        """Creates clients of the account that bypass the proxy."""
        self.occurrences = 0

    @classmethod
    def title(cls) -> str:
        """Return its name in docs/habits.md."""
        return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in cls.__name__).strip()

    @classmethod
    def source(cls) -> str:
        """Return the page or thread that describes it."""
        return " ".join((cls.__doc__ or "").rpartition("Source:")[2].split()).rstrip(".")

    def before(self, request: Request) -> Refusal | None:
        """Return a refusal of the request, or None to forward it."""

    def after(self, request: Request, status: int) -> bool:  # noqa: ARG002 - for subclasses
        """Return whether the response with this status is dropped."""
        return False


class FaultyAws(ThreadingHTTPServer):
    """An AWS that does what is requested, unless a test makes it refuse, delay or drop responses."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = port
        self.refuse: Callable[[str], tuple[int, str] | None]
        """Returns the status and code to refuse an action with, or None to forward it."""
        self.delay: Callable[[str], None]
        """Called with the action before the response is sent."""
        self.habits: list[Habit]
        """The habits; the first one that refuses a request decides."""
        self.role_s: float | None
        """How long the credentials of a role are valid, in seconds; None for as long as AWS says."""
        self.ends: dict[str, float] = {}
        """When the credentials of roles end, by access key."""
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forward all requests at once."""
        self.refuse = lambda _: None
        self.delay = lambda _: None
        self.habits = []
        self.role_s = None

    def shorten(self, content: bytes) -> bytes:
        """Return the response to AssumeRole with credentials that end after `role_s`."""
        if self.role_s is None:
            return content
        text, end = content.decode(), time.time() + self.role_s
        if key := re.search("<AccessKeyId>(.+?)<", text):
            self.ends[key[1]] = end
        expiration = datetime.fromtimestamp(end, UTC).isoformat()
        return re.sub("(?<=<Expiration>)[^<]+", expiration, text).encode()

    def refusal(self, request: Request) -> Refusal | None:
        """Return a refusal of the request, or None to forward it."""
        if time.time() > self.ends.get(request.key, float("inf")):
            # "Error responses" of Amazon S3, and "Common error types" of the other services.
            return Refusal(400, "ExpiredToken") if request.is_s3 else Refusal(403, "ExpiredTokenException")
        if refused := self.refuse(request.action):
            return Refusal(*refused)
        with self.lock:
            return next((refusal for habit in self.habits if (refusal := habit.before(request))), None)

    def drops(self, request: Request, status: int) -> bool:
        """Wait for the delays, and return whether the response with this status is dropped."""
        self.delay(request.action)
        time.sleep(sum(habit.delay_s for habit in self.habits))
        with self.lock:
            return any(habit.after(request, status) for habit in self.habits)

    @property
    def url(self) -> str:
        """The URL that it listens at."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyAws  # pyrefly: ignore[bad-override]
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """Forward a request of any method."""
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
        response = connection.getresponse()
        content = response.read()
        if request.action == "AssumeRole":
            content = self.server.shorten(content)
        if self.server.drops(request, response.status):
            self.close_connection = True
            return
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _request(self, body: bytes) -> Request:
        path, _, query = self.path.partition("?")
        key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        if target := self.headers.get("X-Amz-Target"):
            return Request(target.rpartition(".")[2], "", json.loads(body), key)
        if "form" in self.headers.get("Content-Type", ""):
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            return Request(form["Action"], "", form, key)
        values = json.loads(body) if body.startswith(b"{") else {}
        return Request(f"{self.command} {path}", query.partition("=")[0].partition("&")[0], values, key)

    def _refuse(self, refusal: Refusal) -> None:
        """Send an error in the protocol of the request: JSON, the query protocol's XML, or S3's XML."""
        code, message = refusal.code, refusal.message
        content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if self.headers.get("X-Amz-Target") or urlsplit(self.path).path.startswith(
            "/20"
        ):  # a date, as in Lambda's paths
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


def redirect(checkout: Checkout, stack: str, projects: Iterable[str], url: str) -> None:
    """Let the AWS provider of a copy's projects send its requests to a URL, and nothing else of the copy.

    The provider takes two seconds of the processor to check the setting `endpoints`, each time that an engine starts.
    So where it can be started in another way, it finds the URL in its environment.
    """
    if not resolve(checkout.root, print).shared_plugin:  # it is the official plugin
        for project in projects:
            checkout.configure(project, stack, **{"aws:endpoints": [dict.fromkeys(SERVICES, url)]})
        return
    provider, folder = terraform.find_provider(), checkout.root / "terraform"
    launcher = folder.joinpath(*provider.parts[-6:])  # registry.terraform.io/hashicorp/aws/VERSION/SYSTEM/PROGRAM
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f'#!/bin/sh\nAWS_ENDPOINT_URL={url} exec {shlex.quote(str(provider))} "$@"\n', encoding="utf-8")
    launcher.chmod(0o755)
    checkout.variables[terraform.FOLDER_VARIABLE] = str(folder)


@contextmanager
def between(checkout: Checkout, *projects: str, retries: int = 3) -> Iterator[FaultyAws]:
    """Let the provider of the projects of a copy reach its emulator through a proxy."""
    with serving(FaultyAws(checkout.port)) as proxy:
        redirect(checkout, "local", projects, proxy.url)
        for project in projects:
            checkout.configure(project, "local", **{"aws:maxRetries": retries})
        yield proxy
