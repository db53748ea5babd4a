"""A fake AWS that refuses requests on demand, and records them."""

from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

IDENTITY = """<GetCallerIdentityResponse><GetCallerIdentityResult>
<Arn>arn:aws:iam::123456789012:user/anna</Arn><UserId>U</UserId><Account>123456789012</Account>
</GetCallerIdentityResult></GetCallerIdentityResponse>"""

ROLE = """<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{key}</AccessKeyId>
<SecretAccessKey>secret-of-the-role</SecretAccessKey><SessionToken>token-of-the-role</SessionToken><Expiration>{end}</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>"""


class Aws(ThreadingHTTPServer):
    """A server for STS, HEAD requests to S3, and CONNECT requests to a proxy."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals: dict[str, str] = {}
        """The error code by action, or for `HEAD` the status."""
        self.quoted = ""
        """The header that refusals quote."""
        self.requests: list[str] = []
        self.keys: list[str] = []
        """The access key of each request to STS."""
        self.role_s = 3600
        """How long the credentials of an assumed role are valid, in seconds."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Aws  # pyrefly: ignore[bad-override]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = parse_qs(body)["Action"][0]
        self.server.requests.append(action)
        self.server.keys.append(self.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
        if code := self.server.refusals.get(action):
            message = f"'{self.headers[self.server.quoted]}' is not valid" if self.server.quoted else "test refusal"
            error = f"<Code>{code}</Code><Message>{message}</Message>"
            self._respond(403, f"<ErrorResponse><Error>{error}</Error></ErrorResponse>")
        elif action == "AssumeRole":
            end = datetime.now(UTC) + timedelta(seconds=self.server.role_s)
            key = f"ASIAROLE{self.server.requests.count('AssumeRole')}"
            self._respond(200, ROLE.format(key=key, end=end.isoformat()))
        else:
            self._respond(200, IDENTITY)

    def do_HEAD(self) -> None:
        self.server.requests.append(f"HEAD {self.path}")
        self._respond(int(self.server.refusals.get("HEAD", "200")), "")

    def do_CONNECT(self) -> None:
        self.server.requests.append(f"CONNECT {self.path}")
        self._respond(403, "")

    def _respond(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Log nothing."""
