"""Serves the credentials of a role on the loopback, so that they can be renewed while a command runs.

A role's credentials end after an hour by default ("AssumeRole", AWS STS API Reference), and what is in an environment
variable can't be renewed. Every AWS SDK, those of this process, of Pulumi and of its plugins, asks the URL in
`AWS_CONTAINER_CREDENTIALS_FULL_URI` again before the credentials end ("Container credential provider", AWS SDKs and
Tools Reference Guide).
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from xfarm.credentials import remember
from xfarm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Credentials = dict[str, str]
"""The answer of the server, in the words of that protocol."""

_OTHER_SOURCES: Final = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
}
"""The variables that take precedence over the server."""


def variables(environment: Mapping[str, str], fetch: Callable[[], Credentials]) -> dict[str, str]:
    """Return an environment in which AWS SDKs get their credentials from `fetch`, until this process ends.

    The configuration files are left out as well: credentials in the default profile take precedence over the server.

    Args:
        environment: The environment so far.
        fetch: Returns credentials that are still valid for some minutes, or raises a `UserError`.
    """
    server = _Server(fetch)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {name: value for name, value in environment.items() if name not in _OTHER_SOURCES} | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.server_port}/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": server.token,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fetch: Callable[[], Credentials]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fetch = fetch
        self.lock = threading.Lock()
        """Held while credentials are fetched: clients of boto3 can't be created in two threads at a time."""
        self.token = secrets.token_urlsafe()
        """What a request has to contain: any user of this machine can connect."""
        remember(self.token)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyrefly: ignore[bad-override]

    def do_GET(self) -> None:
        """Send the credentials, or why there are none."""
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN, {"code": "Forbidden", "message": "the token is wrong."})
            return
        try:
            with self.server.lock:
                credentials = self.server.fetch()
            self._send(HTTPStatus.OK, credentials)
        except UserError as error:
            self._send(HTTPStatus.BAD_REQUEST, {"code": "NoCredentials", "message": str(error)})

    def _send(self, status: HTTPStatus, document: dict[str, str]) -> None:
        content = json.dumps(document).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Log nothing."""
