"""Serves the page, to this machine only.

Any web site that the user visits can send requests to this machine. So each is refused whose Host header is not ours
(that of a site whose name was made to resolve to 127.0.0.1, "DNS rebinding"), or that another site's page sent (by its
Origin header), and nothing is done without a token that only our own page holds. It is no cookie, as cookies are shared
by all ports of a host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from xfarm.aws_errors import explain
from xfarm.errors import UserError
from xfarm.watch.view import PipelineView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xfarm.operations.pipeline import Pipeline

ADDRESS: Final = "127.0.0.1"

LARGEST: Final = 2**30
"""The largest file that is taken from the page, in bytes: it passes through the folder of temporary files."""


LOCAL_S, ACCOUNT_S = 1, 5
"""How often the page is refreshed, in seconds: AWS charges for each request."""


def run(pipeline: Pipeline, *, port: int, writable: bool) -> None:
    """Show a pipeline on a page until Ctrl-C.

    Args:
        pipeline: What is shown.
        port: Where to listen.
        writable: Whether files may be uploaded and dead letters be put back.

    Raises:
        UserError: The port can't be had.
    """
    view = PipelineView(pipeline, every=LOCAL_S if writable else ACCOUNT_S)
    view.state()  # what would be an error of every page is better reported here
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(view, port=port, writable=writable, ready=_ready))


def _ready(url: str) -> None:
    print(f"{url} shows it; Ctrl-C ends.", flush=True)


async def serve(view: PipelineView, *, port: int, writable: bool, ready: Callable[[str], None]) -> None:
    """Serve the page until this is cancelled.

    Args:
        view: What is shown.
        port: Where to listen; 0 for any port that is free.
        writable: Whether files may be uploaded and dead letters be put back.
        ready: Is told the page's address as soon as it is there.

    Raises:
        UserError: The port can't be had.
    """
    try:
        sockets = bind_sockets(port, ADDRESS)
    except OSError as error:
        reason = (
            "is taken by another program" if error.errno == errno.EADDRINUSE else f"can't be had ({error.strerror})"
        )
        raise UserError(f"Port {port} {reason}: name another one with --port.") from error
    port = sockets[0].getsockname()[1]
    settings = {
        "live": view,
        "writable": writable,
        "token": secrets.token_urlsafe(),
        "hosts": {f"{name}:{port}".removesuffix(":80") for name in (ADDRESS, "localhost")},
    }
    server = HTTPServer(
        Application(
            [("/", Page), ("/state", State), ("/files", Files), ("/redrive", Redrive)],
            default_handler_class=Nothing,
            template_path=str(Path(__file__).parent),
            log_function=_say_nothing,
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


def _say_nothing(_: RequestHandler) -> None:
    """Log no request: whoever asked has the answer."""


class RefusedError(HTTPError):
    """An answer that is no success, told in a sentence."""

    def __init__(self, status_code: int, said: str) -> None:
        super().__init__(status_code, said)
        self.said = said


class Handler(RequestHandler):
    """What all handlers have in common: who is let in, and how errors are told."""

    @property
    def live(self) -> PipelineView:
        """What is shown."""
        return self.settings["live"]

    def set_default_headers(self) -> None:
        """Let nobody keep, frame or reinterpret what is sent."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Refuse what does not come from our own page, and, in a read-only view, what would change anything."""
        if self.request.host not in self.settings["hosts"]:
            raise RefusedError(403, "this is not the name of this server")
        reading = self.request.method in {"GET", "HEAD"}
        ours = f"http://{self.request.host}"
        if self.request.headers.get("Origin", ours if reading else None) != ours:
            raise RefusedError(403, "another site's page asked for this")
        if reading:
            return
        if not self.settings["writable"]:
            raise RefusedError(403, f"'{self.live.pipeline.stack}' is only shown: nothing is changed from here")
        if not hmac.compare_digest(self.request.headers.get("X-Token", "").encode(), self.settings["token"].encode()):
            raise RefusedError(403, "the page is one of an earlier run: load it again")

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:  # noqa: ANN401  as in Tornado
        """Show a mistake of ours; what is refused is told to who asked."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ANN401  as in Tornado
        """Tell of an error in a sentence."""
        error = kwargs.get("exc_info", (None, None))[1]
        self.finish({"error": error.said if isinstance(error, RefusedError) else f"{status_code} {self._reason}"})


@contextlib.contextmanager
def errors_as_responses() -> Iterator[None]:
    """Turn what a person can mend, and what AWS answers, into an answer of ours."""
    try:
        yield
    except UserError as error:
        raise RefusedError(409, str(error)) from error
    except (ClientError, BotoCoreError, Boto3Error) as error:
        raise RefusedError(502, explain(error) or "") from error


class Nothing(Handler):
    """Whatever is asked for, it is not there."""

    def prepare(self) -> None:
        """Refuse it."""
        super().prepare()
        raise HTTPError(404)


class Page(Handler):
    """The page."""

    def get(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Send the page, with the token where it may write."""
        nonce = secrets.token_urlsafe()
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        writable = self.settings["writable"]
        self.render(
            "page.html",
            nonce=nonce,
            pipeline=self.live.pipeline,
            token=self.settings["token"] if writable else "",
            writable=writable,
        )


class State(Handler):
    """What is to be shown."""

    async def get(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Send it as JSON."""
        with errors_as_responses():
            self.write(await asyncio.to_thread(self.live.state))


@stream_request_body
class Files(Handler):
    """Takes the files that are dropped on the page."""

    def prepare(self) -> None:
        """Make ready for a body of any size."""
        super().prepare()
        self.request.connection.set_max_body_size(LARGEST)  # pyrefly: ignore[missing-attribute]
        self._body = tempfile.NamedTemporaryFile()  # noqa: SIM115  closed when the answer is out

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body."""
        self._body.write(chunk)

    async def post(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Upload the body as the file that the argument ``name`` says."""
        name = self.get_query_argument("name")
        self._body.flush()
        with errors_as_responses():
            await asyncio.to_thread(self.live.send, name, Path(self._body.name))
        self.write({})

    def on_finish(self) -> None:
        """Keep nothing of it."""
        if hasattr(self, "_body"):
            self._body.close()

    on_connection_close = on_finish


class Redrive(Handler):
    """Puts dead letters back."""

    async def post(self) -> None:  # pyrefly: ignore[bad-override-mutable-attribute]
        """Do so, and say what was done."""
        with errors_as_responses():
            self.write({"said": await asyncio.to_thread(self.live.redrive)})
