"""The HTTP server of the live page, for this machine only.

Any web site that the user visits can send requests to this machine. So the server refuses requests with another Host
header (from a site whose name resolves to 127.0.0.1, "DNS rebinding") and with another Origin header (from another
site's page). Requests that do more than read also need a token, which only the page has. The token is not a cookie,
because all ports of a host share their cookies.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import re
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from tornado.escape import json_encode, to_unicode
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from xfarm.aws_errors import explain
from xfarm.credentials import blank
from xfarm.errors import UserError
from xfarm.operations.dead_letters import MOST
from xfarm.operations.pipeline import printable
from xfarm.operations.redrive import FASTEST
from xfarm.watch.view import PipelineView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xfarm.operations.pipeline import Pipeline

ADDRESS: Final = "127.0.0.1"

MAX_FILE_BYTES: Final = 2**30
"""The largest upload that the page accepts; it passes through the folder for temporary files."""

LOCAL_REFRESH_S: Final = 1
ACCOUNT_REFRESH_S: Final = 5
"""How old the page's data may be, in seconds. AWS charges for each request, the emulator doesn't."""


def run(pipeline: Pipeline, *, port: int, writable: bool) -> None:
    """Serve the page of a pipeline until Ctrl-C.

    Args:
        pipeline: The pipeline.
        port: The port to listen on.
        writable: Whether the page can upload files and redrive dead letters.

    Raises:
        UserError: The port can't be used.
    """
    view = PipelineView(pipeline, refresh_s=LOCAL_REFRESH_S if writable else ACCOUNT_REFRESH_S)
    view.state()  # fails here, at the terminal, if it would fail on the page
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(view, port=port, writable=writable, ready=_print_url))


def _print_url(url: str) -> None:
    print(f"Serving the page at {url} until you press Ctrl-C.", flush=True)


async def serve(view: PipelineView, *, port: int, writable: bool, ready: Callable[[str], None]) -> None:
    """Serve the page until the task is cancelled.

    Args:
        view: The view of the pipeline.
        port: The port to listen on; 0 for any free port.
        writable: Whether the page can upload files and redrive dead letters.
        ready: Called with the page's URL once the server listens.

    Raises:
        UserError: The port can't be used.
    """
    try:
        sockets = bind_sockets(port, ADDRESS)
    except OSError as error:
        reason = (
            "is taken by another program" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
        )
        raise UserError(f"port {port} {reason}: choose another one with --port.") from error
    port = sockets[0].getsockname()[1]
    settings = {
        "view": view,
        "writable": writable,
        "token": secrets.token_urlsafe(),
        "hosts": {f"{name}:{port}".removesuffix(":80") for name in (ADDRESS, "localhost")},
    }
    server = HTTPServer(
        Application(
            [("/", Page), ("/state", State), ("/causes", Causes), ("/files", Files), ("/redrive", Redrive)],
            default_handler_class=NotFound,
            template_path=str(Path(__file__).parent),
            log_function=_log_nothing,
            **settings,
        )
    )
    server.add_sockets(sockets)
    try:
        ready(f"http://{ADDRESS}:{port}/")
        await asyncio.Event().wait()
    finally:
        server.stop()
        await server.close_all_connections()
        view.close()


def _log_nothing(_: RequestHandler) -> None:
    """Log no request: the page shows every error."""


class RefusedError(HTTPError):
    """An error response with a sentence for the user."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(status_code, message)
        self.message = message


class Handler(RequestHandler):
    """The base class of all handlers, which refuses foreign requests and sends errors as JSON."""

    changes = True
    """Whether a POST changes something, which a read-only page refuses."""

    @property
    def view(self) -> PipelineView:
        """The view of the pipeline."""
        return self.settings["view"]

    def set_default_headers(self) -> None:
        """Forbid caching, framing and content sniffing."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Refuse requests from anywhere but the page, and changes if the page is read-only."""
        if self.request.host not in self.settings["hosts"]:
            raise RefusedError(403, "the Host header names another server.")
        reading = self.request.method in {"GET", "HEAD"}
        origin = f"http://{self.request.host}"
        if not reading and "Origin" not in self.request.headers:
            raise RefusedError(403, f"the request has no Origin header, which would be {origin}.")
        if self.request.headers.get("Origin", origin) != origin:
            raise RefusedError(403, "the request comes from another site's page.")
        if reading:
            return
        if self.changes and not self.settings["writable"]:
            raise RefusedError(403, f"the page of '{self.view.pipeline.stack}' is read-only.")
        if not hmac.compare_digest(self.request.headers.get("X-Token", "").encode(), self.settings["token"].encode()):
            raise RefusedError(403, "the page belongs to an earlier run: reload it.")

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        """Write a part of a response, without credentials."""
        if isinstance(chunk, dict):
            self.set_header("Content-Type", "application/json; charset=UTF-8")
            chunk = json_encode(chunk)
        super().write(blank(to_unicode(chunk)))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:  # noqa: ANN401 - as in Tornado
        """Log unexpected errors only: the page shows the others."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ANN401 - as in Tornado
        """Send an error as JSON."""
        error = kwargs.get("exc_info", (None, None))[1]
        self.finish({"error": error.message if isinstance(error, RefusedError) else f"{status_code} {self._reason}"})


@contextlib.contextmanager
def errors_as_responses(stack: str) -> Iterator[None]:
    """Turn errors that the user can fix, and errors of AWS about the pipeline of `stack`, into error responses."""
    try:
        yield
    except UserError as error:
        raise RefusedError(409, str(error)) from error
    except (ClientError, BotoCoreError, Boto3Error) as error:
        raise RefusedError(502, explain(error, stack) or "") from error


class NotFound(Handler):
    """404 for any other path."""

    def prepare(self) -> None:
        """Respond with 404."""
        super().prepare()
        raise HTTPError(404)


class Page(Handler):
    """The page."""

    def get(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Send the page, with the token."""
        nonce = secrets.token_urlsafe()
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        self.render(
            "page.html",
            nonce=nonce,
            pipeline=self.view.pipeline,
            token=self.settings["token"],
            writable=self.settings["writable"],
        )


class State(Handler):
    """The state of the pipeline."""

    async def get(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Send the state as JSON."""
        with errors_as_responses(self.view.pipeline.stack):
            self.write(await asyncio.to_thread(self.view.state))


class Causes(Handler):
    """The causes of the dead letters.

    Reading the dead-letter queue hides its messages for a moment, so this is a POST, which no other site can send.
    """

    changes = False

    async def post(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Send the causes as JSON."""
        with errors_as_responses(self.view.pipeline.stack):
            self.write(await asyncio.to_thread(self.view.causes))


@stream_request_body
class Files(Handler):
    """The files that are dropped on the page."""

    def prepare(self) -> None:
        """Open a temporary file for the body."""
        super().prepare()
        self.request.connection.set_max_body_size(MAX_FILE_BYTES)  # pyrefly: ignore[missing-attribute]
        self._body = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed in `on_finish`

    def data_received(self, chunk: bytes) -> None:
        """Write a chunk of the body to the temporary file."""
        self._body.write(chunk)

    async def post(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Upload the body to the bucket, under the name in the argument `name`."""
        name = self.get_query_argument("name")
        self._body.flush()
        with errors_as_responses(self.view.pipeline.stack):
            await asyncio.to_thread(self.view.send, name, Path(self._body.name))
        self.write({})

    def on_finish(self) -> None:
        """Delete the temporary file."""
        if hasattr(self, "_body"):
            self._body.close()

    on_connection_close = on_finish


class Redrive(Handler):
    """The redrive of dead letters."""

    async def post(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Start to redrive the dead letters that the arguments `cause` and `limit` choose."""
        with errors_as_responses(self.view.pipeline.stack):
            self.view.redrive(
                cause=self.get_query_argument("cause", "") or None,
                limit=self._number("limit", MOST),
                rate=self._number("rate", FASTEST),
                trial=self.get_query_argument("trial", "true") == "true",
            )
        self.write({})

    def _number(self, name: str, most: int) -> int | None:
        """Return the number in an argument, or None if there is none.

        Raises:
            UserError: It is not a number from 1 to `most`.
        """
        text = self.get_query_argument(name, "")
        if not text:
            return None
        if not re.fullmatch(r"0*[1-9]\d{0,8}", text) or int(text) > most:
            raise UserError(f"'{printable(text)}' is not a {name} from 1 to {most:,}: nothing was moved.")
        return int(text)
