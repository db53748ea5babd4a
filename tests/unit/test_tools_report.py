"""The reports of the workflows: one comment on a pull request, and one issue about drift."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.github import BOT, PAGE, TOKEN, GitHub
from tests.support.http_server import serving
from tools import report
from xfarm.paths import ROOT

MARKER = "<!-- xfarm-pipeline: plan of dev -->"


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    """Serve GitHub's API; the output of `xfarm` is in the current folder."""
    with serving(GitHub()) as github, pytest.MonkeyPatch.context() as patch:
        for name, value in github.environment.items():
            patch.setenv(name, value)
        patch.chdir(tmp_path)
        Path("result.txt").write_text("+ storage bucket\n", encoding="utf-8")
        yield github


def test_a_plan_is_one_comment_that_is_updated(github: GitHub) -> None:
    number = github.open(title="A pull request")
    github.comment(number, f"> {MARKER}\nI quote the plan.", login="anna")
    github.comment(number, f"{MARKER}\nI imitate the plan.", login="anna")
    github.comment(number, f"Another workflow's comment, which quotes {MARKER}.")
    report.plan("3", str(number), "4ead")
    (comment,) = list(github.comments.values())[3:]
    assert comment["body"] == (
        f"{MARKER}\nDeploying 4ead changes resources or outputs in `dev`.\n\n```text\n+ storage bucket\n\n```\n\n"
        "All of it is in [the log of the workflow](https://github.example/farm/pipeline/actions/runs/4711).\n"
    )
    before = [dict(each) for each in list(github.comments.values())[:3]]
    Path("result.txt").write_text("no change\n", encoding="utf-8")
    report.plan("0", str(number), "beef")
    assert "Deploying beef changes nothing in `dev`." in comment["body"]
    assert list(github.comments.values())[:3] == before
    assert len(github.comments) == 4


def test_the_comment_is_found_behind_a_hundred_others(github: GitHub) -> None:
    number = github.open()
    for _ in range(PAGE):
        github.comment(number, "Ship it!", login="anna")
    report.plan("3", str(number), "4ead")
    report.plan("3", str(number), "beef")
    assert len(github.comments) == PAGE + 1


@pytest.mark.parametrize("code", ["1", ""])
def test_a_plan_that_failed_is_shown_and_fails_the_job(github: GitHub, code: str) -> None:
    number = github.open()
    if not code:
        Path("result.txt").unlink()  # the preview did not run
    command = [sys.executable, "-m", "tools.report", "plan", code, str(number), "4ead"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT), **github.environment}, check=False, stderr=-1, text=True
    )
    (comment,) = github.comments.values()
    assert "Deploying 4ead can't be previewed in `dev`." in comment["body"]
    assert ("+ storage bucket" in comment["body"]) is bool(code)
    assert ("The reason is in [the log of the workflow](" in comment["body"]) is not bool(code)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no result for the plan: see the errors ")


def test_a_long_plan_is_cut_and_one_with_fences_has_a_longer_fence(github: GitHub) -> None:
    number = github.open()
    Path("result.txt").write_text("```\n@everybody\n" + "x" * 100_000, encoding="utf-8")
    report.plan("3", str(number), "4ead")
    (comment,) = github.comments.values()
    assert len(comment["body"]) < 2**16
    assert "\n\n````text\n```\n@everybody\nxxx" in comment["body"]
    assert "x\n````\n\nThis is the beginning. All of it is in [the log " in comment["body"]


def test_drift_is_one_issue_that_is_opened_updated_and_closed(github: GitHub) -> None:
    report.drift("0")
    assert github.issues == {}
    github.open(title="Drift in dev", user={"login": "anna"}, body="<!-- xfarm-pipeline: drift of dev -->")
    github.open(title="Another workflow's issue", body=None)

    report.drift("3")
    issue = github.issues[3]
    assert issue["title"] == "Drift in dev"
    assert "+ storage bucket" in issue["body"]
    assert issue["user"]["login"] == BOT

    Path("result.txt").write_text("~ messaging queue\n", encoding="utf-8")
    report.drift("3")
    assert "~ messaging queue" in issue["body"]

    report.drift("1")
    assert issue["state"] == "open"

    report.drift("0")
    assert issue["state"] == "closed"
    (comment,) = github.comments.values()
    assert comment["issue"] == 3
    assert comment["body"].startswith("The drift is gone: see [the log of the workflow](https://")
    assert {each["state"] for number, each in github.issues.items() if number != 3} == {"open"}

    report.drift("3")
    assert len(github.issues) == 4


def test_a_refusal_of_github_is_explained_without_the_token(github: GitHub) -> None:
    github.refusal = 403
    with pytest.raises(SystemExit) as ended:
        report.plan("3", "1", "4ead")
    assert str(ended.value).startswith("error: GitHub refused GET issues/1/comments?per_page=100&page=1: ")
    assert "Resource not accessible by integration" in str(ended.value)
    assert TOKEN not in str(ended.value)
