"""A stand-in for AWS that refuses what it is told to, and writes down what it was asked."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

IDENTITY = """<GetCallerIdentityResponse><GetCallerIdentityResult>
<Arn>arn:aws:iam::123456789012:user/anna</Arn><UserId>U</UserId><Account>123456789012</Account>
</GetCallerIdentityResult></GetCallerIdentityResponse>"""


class Aws(ThreadingHTTPServer):
    """An AWS that refuses what it is told to refuse, and writes down who asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.refusals: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Aws  # pyrefly: ignore[bad-override]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = parse_qs(body)["Action"][0]
        self.server.asked.append(action)
        if code := self.server.refusals.get(action):
            error = f"<Code>{code}</Code><Message>as told</Message>"
            self._answer(403, f"<ErrorResponse><Error>{error}</Error></ErrorResponse>")
        else:
            self._answer(200, IDENTITY)

    def do_HEAD(self) -> None:
        self.server.asked.append(f"HEAD {self.path}")
        self._answer(int(self.server.refusals.get("HEAD", "200")), "")

    def do_CONNECT(self) -> None:
        self.server.asked.append(f"CONNECT {self.path}")
        self._answer(403, "")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the class above
        """Keep quiet."""
