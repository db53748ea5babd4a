"""The workflows that show a plan on pull requests and look for drift: when they run, and with which permissions."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.support.github import evaluate, pull_request
from xfarm.paths import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"
READER = ROOT / ".github" / "actions" / "reader" / "action.yml"
TEXTS = {name: (WORKFLOWS / name).read_text(encoding="utf-8") for name in ("plan.yml", "drift.yml")}
PLAN, DRIFT = (yaml.safe_load(TEXTS[name]) for name in ("plan.yml", "drift.yml"))
FORK = {"github.event.pull_request.head.repo.full_name": "eve/pipeline"}
DELETED_FORK = {"github.event.pull_request.head.repo.full_name": ""}
DEPENDABOT = {"github.event.pull_request.user.login": "dependabot[bot]"}
OFF = {"vars.SHOW_PLANS": ""}


@pytest.mark.parametrize(
    ("other", "jobs"),
    [
        ({}, {"plan"}),
        (FORK, {"no-plan"}),
        (DELETED_FORK, {"no-plan"}),
        (DEPENDABOT, {"no-plan"}),
        (OFF, set()),
        (OFF | FORK, set()),
    ],
    ids=["own", "fork", "deleted fork", "Dependabot", "off", "off for a fork"],
)
def test_pull_requests_of_the_repository_show_a_plan_and_others_say_why_not(
    other: dict[str, str], jobs: set[str]
) -> None:
    context = pull_request(7) | other
    runs = {name for name in ("plan", "no-plan") if evaluate(PLAN["jobs"][name]["if"], context)}
    assert runs == jobs


@pytest.mark.parametrize(
    ("result", "runs"), [("success", True), ("failure", True), ("skipped", False), ("cancelled", False)]
)
def test_a_plan_that_failed_is_commented_on_but_none_that_was_not_made(result: str, runs: bool) -> None:  # noqa: FBT001
    assert evaluate(PLAN["jobs"]["comment"]["if"], {"needs.plan.result": result}) is runs


def test_looking_for_drift_is_off_until_a_variable_switches_it_on() -> None:
    (job,) = DRIFT["jobs"].values()
    assert not evaluate(job["if"], {})
    assert evaluate(job["if"], {"vars.LOOK_FOR_DRIFT": "true"})


def test_a_pull_request_shows_a_plan_if_it_changes_what_a_plan_is_compared_by() -> None:
    # As in `xfarm.orchestrator.scratch.sources`, and the versions of Pulumi and its AWS plugin.
    assert set(PLAN[True]["pull_request"]["paths"]) == {"stacks/**", "shared/**", "lambda_code/**", "constraints.txt"}


def permissions(job: dict[str, Any]) -> set[str]:
    """Return what a job may write, besides the tokens that it gets for AWS."""
    return {scope for scope, access in job.get("permissions", {}).items() if access == "write"} - {"id-token"}


def test_code_of_a_pull_request_never_runs_with_a_token_that_can_write() -> None:
    writing = {name for name, job in PLAN["jobs"].items() if permissions(job)}
    assert PLAN["permissions"] == {}
    assert writing == {"comment"}
    checkout = PLAN["jobs"]["comment"]["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert "secrets." not in json.dumps(PLAN["jobs"]["comment"])


def test_dependencies_are_installed_before_there_are_credentials() -> None:
    names = [step.get("uses", step.get("name")) for step in yaml.safe_load(READER.read_text())["runs"]["steps"]]
    (credentials,) = [name for name in names if name.startswith("aws-actions/configure-aws-credentials@")]
    assert names.index("Install") < names.index(credentials)


@pytest.mark.parametrize("name", TEXTS)
def test_the_four_secrets_are_enough(name: str) -> None:
    assert set(re.findall(r"secrets\.(\w+)", TEXTS[name])) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_ASSUME_ROLE",
    }


@pytest.mark.parametrize("name", TEXTS)
def test_a_reading_role_has_precedence_over_the_deploying_one(name: str) -> None:
    (expression,) = re.findall(r"role: \$\{\{(.+)\}\}", TEXTS[name])
    deploying = {"secrets.AWS_ASSUME_ROLE": "deployer"}
    assert evaluate(expression, deploying) == "deployer"
    assert evaluate(expression, deploying | {"vars.AWS_READING_ROLE": "reader"}) == "reader"


def test_the_session_reads_and_of_the_contents_of_buckets_only_the_state() -> None:
    (credentials,) = [
        step["with"]
        for step in yaml.safe_load(READER.read_text())["runs"]["steps"]
        if "inline-session-policy" in step.get("with", {})
    ]
    policy = credentials["inline-session-policy"]
    assert len(policy) <= 2048  # "AssumeRole", AWS STS API Reference
    everything, state = json.loads(policy)["Statement"]
    for action in everything["Action"]:
        assert re.fullmatch(r"\w+:(Describe|Get|List)\w*\*\w*", action)
    assert not {"s3:Get*", "s3:GetObject", "s3:GetObject*"} & set(everything["Action"])
    assert state == {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:*:s3:::*/.pulumi/*"}


def test_each_action_has_the_same_version_everywhere() -> None:
    versions: dict[str, set[str]] = {}
    for file in (READER, *WORKFLOWS.glob("*.yml")):
        for action, version in re.findall(r"uses: ([\w/-]+)@(.+)", file.read_text(encoding="utf-8")):
            versions.setdefault(action, set()).add(version)
    assert {action: found for action, found in versions.items() if len(found) > 1} == {}
