"""The GitHub workflows, by the linters of their trade, and their agreement with the README and CI."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from xfarm.orchestrator.targets import LOCAL, known_stacks
from xfarm.paths import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"
DEPLOY = WORKFLOWS / "deploy.yml"


def workflow(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML 1.1 takes the key `on` for a truth value.
    content["on"] = content.pop(True)
    return content


def test_zizmor_finds_nothing() -> None:
    command = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--persona", "pedantic", str(ROOT / ".github")]
    audit = subprocess.run(command, capture_output=True, text=True, check=False)
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_a_deployment_is_started_by_hand_only_and_asks_for_command_and_stack() -> None:
    triggers = workflow(DEPLOY)["on"]
    assert triggers.keys() == {"workflow_dispatch"}
    inputs = triggers["workflow_dispatch"]["inputs"]
    assert inputs.keys() == {"command", "stackName"}
    assert inputs["command"]["options"] == ["preview", "run", "delete"]
    assert inputs["command"]["default"] == "preview"
    assert inputs["stackName"]["options"] == [stack for stack in known_stacks() if stack != LOCAL]


def test_a_deployment_needs_the_four_secrets_and_no_other() -> None:
    text = DEPLOY.read_text(encoding="utf-8")
    named = {part.split("}}")[0].strip() for part in text.split("secrets.")[1:]}
    assert named == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ASSUME_ROLE"}


def test_no_run_in_progress_is_cancelled_and_there_is_one_for_each_stack() -> None:
    concurrency = workflow(DEPLOY)["concurrency"]
    assert concurrency["cancel-in-progress"] is False
    # GitHub keeps one waiting run in a group, so a preview, which changes nothing, has a group of its own.
    assert concurrency["group"] == (
        "deploy-${{ inputs.stackName }}${{ inputs.command == 'preview' && format('-{0}', github.run_id) || '' }}"
    )


def test_an_approval_is_optional_and_no_preview_needs_one() -> None:
    (job,) = workflow(DEPLOY)["jobs"].values()
    assert job["environment"] == "${{ inputs.command != 'preview' && vars.DEPLOY_ENVIRONMENT || '' }}"


def test_each_command_of_a_deployment_gets_the_signals_of_a_cancelled_run() -> None:
    (job,) = workflow(DEPLOY)["jobs"].values()
    steps = {step["name"]: step for step in job["steps"] if "run" in step and step["name"] != "Install"}
    for step in steps.values():
        assert re.fullmatch(r'exec xfarm \w+ "\$STACK"( --yes)?', step["run"])
    assert {name for name, step in steps.items() if "GITHUB_TOKEN" in step.get("env", {})} == {"Deploy", "Destroy"}
    assert job["permissions"] == {"contents": "read", "id-token": "write", "actions": "read"}


def test_a_preview_creates_no_state_bucket() -> None:
    (job,) = workflow(DEPLOY)["jobs"].values()
    (bootstrap,) = [step for step in job["steps"] if "bootstrap" in step.get("run", "")]
    assert bootstrap["if"] == "inputs.command == 'run'"


@pytest.mark.parametrize("path", [ROOT / ".ci" / "run", WORKFLOWS / "ci.yml"], ids=lambda path: path.name)
def test_ci_runs_the_test_command_of_the_readme(path: Path) -> None:
    line = next(
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "nox -s tests" in line
    )
    assert line in path.read_text(encoding="utf-8")
