"""GitHub, as far as the workflows of this project need it: its API for comments, issues and runs, and its runner."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from xfarm.paths import ROOT

Json = dict[str, Any]
BOT = "github-actions[bot]"
REPOSITORY = "farm/pipeline"
TOKEN = "ghs_EXAMPLETOKEN"
PAGE = 100


class GitHub(ThreadingHTTPServer):
    """An API server with the issues, comments and runs of one repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.issues: dict[int, Json] = {}
        """Issues and pull requests by number; both have comments."""
        self.comments: dict[int, Json] = {}
        self.runs: dict[str, str] = {}
        """The status of each attempt of a run, by "ID/attempts/NUMBER"."""
        self.requests: list[str] = []
        self.refusal = 0
        """The status to refuse all requests with; 0 to answer them."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that GitHub sets for each step, and the job's token."""
        return {
            "GITHUB_API_URL": f"http://127.0.0.1:{self.server_port}",
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "4711",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_TOKEN": TOKEN,
        }

    def runner(self, number: int, attempt: int = 1) -> dict[str, str]:
        """Let a run begin, and return the environment of its steps on a runner of GitHub's."""
        self.runs[f"{number}/attempts/{attempt}"] = "in_progress"
        return self.environment | {
            "GITHUB_ACTIONS": "true",
            "GITHUB_RUN_ATTEMPT": str(attempt),
            "GITHUB_RUN_ID": str(number),
            "RUNNER_ENVIRONMENT": "github-hosted",
        }

    def end(self, number: int, attempt: int = 1) -> None:
        """Let a run end."""
        self.runs[f"{number}/attempts/{attempt}"] = "completed"

    def open(self, **values: object) -> int:
        """Open an issue or a pull request, and return its number."""
        number = len(self.issues) + 1
        self.issues[number] = {"number": number, "state": "open", "user": {"login": BOT}, "body": None} | values
        return number

    def comment(self, issue: int, body: str, login: str = BOT) -> Json:
        """Add a comment to an issue or a pull request, and return it."""
        identity = 1000 + len(self.comments)
        self.comments[identity] = {"id": identity, "issue": issue, "body": body, "user": {"login": login}}
        return self.comments[identity]

    def answer(self, method: str, path: str, values: Json) -> tuple[int, Any]:
        """Do what a request asks for, and return the status and the answer."""
        place, _, query = path.removeprefix(f"/repos/{REPOSITORY}/").partition("?")
        self.requests.append(f"{method} {place}")
        if self.refusal:
            return self.refusal, {"message": "Resource not accessible by integration"}
        if run := re.fullmatch(r"actions/runs/(.+)", place):  # "Get a workflow run attempt", GitHub's REST API
            status = self.runs.get(run[1])
            return (200, {"status": status}) if status else (404, {"message": "Not Found"})
        if method == "GET":
            found = [each for each in self.issues.values() if each["state"] == "open"]
            if comments := re.fullmatch(r"issues/(\d+)/comments", place):
                found = [each for each in self.comments.values() if each["issue"] == int(comments[1])]
            page = int(dict(part.split("=") for part in query.split("&"))["page"])
            return 200, found[PAGE * (page - 1) : PAGE * page]
        if method == "POST" and place == "issues":
            return 201, self.issues[self.open(**values)]
        _, *rest = place.split("/")
        if method == "POST":
            return 201, self.comment(int(rest[0]), values["body"])
        changed = self.comments[int(rest[1])] if rest[0] == "comments" else self.issues[int(rest[0])]
        changed |= values
        return 200, changed


class _Api(BaseHTTPRequestHandler):
    server: GitHub  # pyrefly: ignore[bad-override]

    def do_GET(self) -> None:
        """Answer a request, if it comes with the job's token."""
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            status, document = self.server.answer(self.command, self.path, json.loads(content or b"{}"))
        else:
            status, document = 401, {"message": "Bad credentials"}
        answer = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_GET  # noqa: N815 - as in the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Log nothing."""


def evaluate(expression: str, context: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any value of an expression
    """Return the value of an expression ("Evaluate expressions in workflows and actions", GitHub Docs).

    Args:
        expression: The expression, of names, texts, `==`, `!=`, `!`, `&&`, `||`, parentheses and `always()`.
        context: The values by name, for example "github.repository"; any other name has the value "".
    """
    words = {"&&": " and ", "||": " or ", "!": " not ", "always()": " True "}

    def translate(token: re.Match[str]) -> str:
        text = token[0]
        return words.get(text) or (text if text.startswith("'") else f"context.get({text!r}, '')")

    pattern = r"'[^']*'|&&|\|\||!(?!=)|always\(\)|[A-Za-z_][\w.-]*"
    return eval(re.sub(pattern, translate, " ".join(expression.split())), {"context": context})  # noqa: S307 - ours


def expand(text: str, context: Mapping[str, Any]) -> str:
    """Return a text with the values of the expressions in it."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(evaluate(match[1], context)), text, flags=re.DOTALL)


@dataclass
class Runner:
    """A runner: it runs the steps of a workflow's jobs, one after the other.

    Attributes:
        workspace: The folder with the checkout that steps run in.
        environment: The environment of the steps.
        use: Does what an action does that is not part of this repository, given its name and inputs, and returns the
            variables that it sets for the steps after it.
        artifacts: Where artifacts are kept.
    """

    workspace: Path
    environment: dict[str, str]
    use: Callable[[str, dict[str, str]], dict[str, str]]
    artifacts: Path
    printed: str = ""
    refs: dict[str, str] = field(default_factory=dict)
    """The ref that each job has checked out."""

    def run(self, workflow: str, context: Mapping[str, Any]) -> dict[str, str]:
        """Run a workflow, and return the result of each of its jobs: "success", "failure" or "skipped"."""
        jobs = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text(encoding="utf-8"))["jobs"]
        values = dict(context)
        results = {}
        self.printed = ""
        for name, job in jobs.items():
            values = {key: value for key, value in values.items() if not key.startswith("steps.")}
            needed = results.get(job.get("needs", ""), "success")
            condition = job.get("if", "")
            wanted = evaluate(condition, values) if condition else True
            if not wanted or (needed != "success" and "always()" not in condition):
                results[name] = "skipped"
            else:
                results[name] = self._job(name, job, values)
            values[f"needs.{name}.result"] = results[name]
            for output, text in job.get("outputs", {}).items():
                values[f"needs.{name}.outputs.{output}"] = expand(text, values)
        return results

    def _job(self, name: str, job: Json, values: Json) -> str:
        environment = dict(self.environment)
        for file in self.workspace.glob("*.txt"):  # each job has a machine of its own
            file.unlink()
        for step in self._steps(job["steps"], values):
            if not evaluate(step.get("if", "always()"), values):
                continue
            inputs = {key: expand(str(value), values) for key, value in step.get("with", {}).items()}
            action = step.get("uses", "").partition("@")[0]
            if action == "actions/checkout":
                self.refs[name] = inputs.get("ref", "")
            elif action == "actions/upload-artifact":
                shutil.copy(self.workspace / inputs["path"], self.artifacts / inputs["name"])
            elif action == "actions/download-artifact":
                shutil.copy(self.artifacts / inputs["name"], self.workspace / "result.txt")
            elif action:
                try:
                    environment |= self.use(action, inputs)
                except RuntimeError as error:
                    self.printed += str(error)
                    return "failure"
            elif step["name"] != "Install" and not self._shell(step, environment, values):
                return "failure"
        return "success"

    def _steps(self, steps: list[Json], values: Json) -> Iterator[Json]:
        """Yield the steps of a job, and in place of one that uses an action of this repository, the steps of that."""
        for step in steps:
            if not step.get("uses", "").startswith("./"):
                yield step
                continue
            action = yaml.safe_load((ROOT / step["uses"] / "action.yml").read_text(encoding="utf-8"))
            values |= {f"inputs.{name}": expand(str(value), values) for name, value in step["with"].items()}
            yield from action["runs"]["steps"]

    def _shell(self, step: Json, environment: dict[str, str], values: Json) -> bool:
        """Run the commands of a step, and return whether they succeeded."""
        outputs, summary = self.workspace / "outputs.txt", self.artifacts / "summary.md"
        outputs.write_text("", encoding="utf-8")
        files = {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
        own = {key: expand(str(value), values) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.workspace,
            env=environment | files | own,
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed += done.stdout + done.stderr
        for line in outputs.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            values[f"steps.{step['id']}.outputs.{name}"] = value
        return done.returncode == 0


def pull_request(number: int, **context: str) -> dict[str, str]:
    """Return the context of a workflow for a pull request of the repository itself."""
    return {
        "github.repository": REPOSITORY,
        "github.token": TOKEN,
        "github.event.pull_request.number": str(number),
        "github.event.pull_request.base.sha": "ba5e",
        "github.event.pull_request.head.sha": "4ead",
        "github.event.pull_request.head.repo.full_name": REPOSITORY,
        "github.event.pull_request.user.login": "anna",
        "vars.SHOW_PLANS": "true",
    } | {f"{name.replace('__', '.')}": value for name, value in context.items()}


def python_path() -> str:
    """Return a PATH with this Python first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
