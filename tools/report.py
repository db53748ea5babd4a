"""Reports to GitHub what a workflow found in `dev`: a plan as a comment on a pull request, drift as an issue.

`python -m tools.report plan EXIT_CODE PULL_REQUEST COMMIT` and `python -m tools.report drift EXIT_CODE` take the output
of `xfarm` from `result.txt`. A later report updates the same comment or issue, which a hidden line marks.

The workflows run this without an installation, so it needs nothing but Python.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

AUTHOR: Final = "github-actions[bot]"
"""The author of what is written with a job's token ("GITHUB_TOKEN", GitHub Docs)."""
PAGE: Final = 100
"""The largest number of items in a page ("Using pagination in the REST API", GitHub Docs)."""
LONGEST: Final = 60_000
"""The number of characters of the output that are shown. GitHub accepts 65,536 in a comment or an issue."""

NOTHING: Final = "0"
SOMETHING: Final = "3"
"""The exit codes of `xfarm preview --exit-code` and `xfarm drift`; with any other, they failed."""


def plan(code: str, pull_request: str, commit: str) -> None:
    """Comment on a pull request what it would change.

    Args:
        code: The exit code of the preview; empty if it did not run.
        pull_request: The number of the pull request.
        commit: Its newest commit.
    """
    outcome = {NOTHING: "changes nothing", SOMETHING: "changes resources or outputs"}.get(code, "can't be previewed")
    marker, body = _body("plan", f"Deploying {commit} {outcome} in `dev`.")
    comments = f"issues/{pull_request}/comments"
    if comment := _find(comments, marker):
        _call("PATCH", f"issues/comments/{comment['id']}", {"body": body})
    else:
        _call("POST", comments, {"body": body})


def drift(code: str) -> None:
    """Open or update an issue if there is drift; close it if the drift is gone.

    Args:
        code: The exit code of `xfarm drift`; empty if it did not run.
    """
    marker, body = _body(
        "drift", "Resources of `dev` were changed by hand. `xfarm deploy dev --refresh` restores them."
    )
    issue = _find("issues", marker)
    path = f"issues/{issue['number']}" if issue else "issues"
    if code == SOMETHING:
        _call("PATCH" if issue else "POST", path, {"title": "Drift in dev", "body": body})
    elif code == NOTHING and issue:
        _call("POST", f"{path}/comments", {"body": f"The drift is gone: see {_run()}."})
        _call("PATCH", path, {"state": "closed"})


def _body(kind: str, sentence: str) -> tuple[str, str]:
    """Return a hidden line that marks the reports of this kind, and the report."""
    marker = f"<!-- xfarm-pipeline: {kind} of dev -->"
    result = Path("result.txt")
    text = result.read_text(encoding="utf-8", errors="replace") if result.exists() else ""
    if not text.strip():
        return marker, f"{marker}\n{sentence}\n\nThe reason is in {_run()}.\n"
    more = "" if len(text) <= LONGEST else "This is the beginning. "
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=2))
    return (
        marker,
        f"{marker}\n{sentence}\n\n{fence}text\n{text[:LONGEST]}\n{fence}\n\n{more}All of it is in {_run()}.\n",
    )


def _run() -> str:
    run = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}".format_map(os.environ)
    return f"[the log of the workflow]({run})"


def _find(path: str, marker: str) -> dict[str, Any] | None:
    """Return the comment, or the open issue, that begins with the marker. Others may quote it."""
    number = 1
    while items := _call("GET", f"{path}?per_page={PAGE}&page={number}"):
        for item in items:
            if item["user"]["login"] == AUTHOR and (item["body"] or "").startswith(marker):
                return dict(item)
        number += 1
    return None


def _call(method: str, path: str, document: dict[str, str] | None = None) -> Any:  # noqa: ANN401 - any JSON
    url = "{GITHUB_API_URL}/repos/{GITHUB_REPOSITORY}/".format_map(os.environ) + path
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    content = json.dumps(document).encode() if document else None
    try:
        with urlopen(Request(url, content, headers, method=method)) as answer:  # noqa: S310 - GitHub sets the URL
            return json.load(answer)
    except HTTPError as error:
        sys.exit(f"error: GitHub refused {method} {path}: {error.read().decode(errors='replace')} ({error.code}).")


if __name__ == "__main__":
    name, exit_code, *rest = sys.argv[1:]
    {"plan": plan, "drift": drift}[name](exit_code, *rest)
    if exit_code not in {NOTHING, SOMETHING}:
        sys.exit(f"error: there is no result for the {name}: see the errors of the steps and jobs before this one.")
