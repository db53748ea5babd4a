"""GitHub's API on loopback, as far as it says whether a run of a workflow has ended."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "ghs_16C7e42F292c6912E7710c838347Ae178B4a"
REPOSITORY = "farm/pipeline"


class GitHub(ThreadingHTTPServer):
    """An API that knows the status of one repository's runs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, str] = {}
        """The status of each attempt, by "ID/attempts/NUMBER"."""
        self.refusal = 0
        """The status code of each answer, if it isn't 0."""
        self.asked: list[str] = []

    def runner(self, number: int, attempt: int = 1) -> dict[str, str]:
        """Let a run begin, and return the environment of its steps on a runner of GitHub's."""
        self.runs[f"{number}/attempts/{attempt}"] = "in_progress"
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": f"http://127.0.0.1:{self.server_port}",
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ATTEMPT": str(attempt),
            "GITHUB_RUN_ID": str(number),
            "GITHUB_TOKEN": TOKEN,
            "RUNNER_ENVIRONMENT": "github-hosted",
        }

    def end(self, number: int, attempt: int = 1) -> None:
        """Let a run end."""
        self.runs[f"{number}/attempts/{attempt}"] = "completed"


class _Handler(BaseHTTPRequestHandler):
    server: GitHub  # pyrefly: ignore[bad-override]

    def do_GET(self) -> None:
        """Answer as "Get a workflow run attempt" of GitHub's REST API does."""
        self.server.asked.append(self.path)
        status = self.server.runs.get(self.path.removeprefix(f"/repos/{REPOSITORY}/actions/runs/"))
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        code = self.server.refusal or (401 if not allowed else 200 if status else 404)
        content = json.dumps({"status": status} if code == 200 else {"message": "Not Found"}).encode()
        self.send_response_only(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[GitHub]:
    """Serve the API."""
    with GitHub() as github:
        threading.Thread(target=github.serve_forever, daemon=True).start()
        yield github
        github.shutdown()
