"""Pulumi's engine with the plugin and language host of `xfarm.toolchain`, with features that no stack needs."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator import local_environment
from xfarm.toolchain import aws_types

PROJECT = Path(__file__).parent / "local_project"


@dataclass
class Project:
    """A deployed project with its own folder and emulator."""

    folder: Path
    environment: dict[str, str]

    def pulumi(self, *arguments: str, **environment: str) -> str:
        """Run the Pulumi CLI in the project, assert that it succeeds, and return its output."""
        result = self.run(*arguments, **environment)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the Pulumi CLI in the project."""
        return subprocess.run(
            ["pulumi", "--non-interactive", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def changes(self, *arguments: str, **environment: str) -> dict[str, list[str]]:
        """Return what a preview plans to change, or finds changed: the properties of each resource by its name."""
        preview = json.loads(self.pulumi("preview", "--json", *arguments, **environment))
        return {
            step["urn"].rpartition("::")[2]: step.get("diffReasons") or []
            for step in preview["steps"]
            if step["op"] not in ("same", "refresh")
            or (step["op"] == "refresh" and step["oldState"] != step["newState"])
        }

    def client(self, service: str) -> Any:  # noqa: ANN401 - each service has its own type of client
        return boto3.client(  # pyrefly: ignore[no-matching-overload]
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("checkout")
    folder = root / "project"
    shutil.copytree(PROJECT, folder)
    with socket.socket() as probe, pytest.MonkeyPatch.context() as patch:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        patch.setenv("GATEWAY_PORT", str(port))
        patch.setenv("AWS_PROFILE", "a-real-account")
        environment = local_environment.prepare(root, print)
    project = Project(folder, environment)
    project.pulumi("stack", "init", "dev")
    project.pulumi("up", "--yes", "--skip-preview")
    yield project
    Emulator(root / ".local" / "emulator", port).stop()


def test_every_type_is_deployed_with_the_names_of_the_sdk(project: Project) -> None:
    state = json.loads(project.pulumi("stack", "export"))["deployment"]["resources"]
    types = {resource["type"] for resource in state if resource["type"].startswith("aws:")}
    # The program also names functions and types of values.
    assert types <= aws_types.types_in_use(project.folder)
    outputs = project.outputs()
    assert outputs["account"] == "000000000000"
    assert outputs["queueRegion"] == REGION
    assert outputs["function"].startswith("function-")


def test_a_preview_after_a_deployment_shows_no_change(project: Project) -> None:
    assert project.changes() == {}


def test_a_refresh_after_a_deployment_shows_no_change(project: Project) -> None:
    assert project.changes("--refresh") == {}


def test_a_change_of_the_program_is_one_change(project: Project) -> None:
    assert project.changes(VISIBILITY="61") == {"main": ["visibilityTimeoutSeconds"]}


def test_a_change_of_the_code_is_one_change(project: Project) -> None:
    source = project.folder / "code" / "main.py"
    before = source.read_text()
    source.write_text(before.replace("return 1", "return 2"))
    changes = project.changes()
    source.write_text(before)
    assert list(changes) == ["function"]
    assert "code" in changes["function"]
    assert project.changes() == {}


def test_a_refresh_shows_a_change_made_elsewhere(project: Project) -> None:
    outputs = project.outputs()
    iam = project.client("iam")
    declared = iam.get_role_policy(RoleName=outputs["role"], PolicyName=outputs["policy"])["PolicyDocument"]

    def put(document: dict[str, Any]) -> None:
        text = json.dumps(document)
        iam.put_role_policy(RoleName=outputs["role"], PolicyName=outputs["policy"], PolicyDocument=text)

    put(declared | {"Statement": [statement | {"Resource": "*"} for statement in declared["Statement"]]})
    assert "policy" in project.changes("--refresh")
    put(declared)
    assert project.changes("--refresh") == {}


def test_an_uploaded_file_reaches_the_function(project: Project) -> None:
    outputs = project.outputs()
    project.client("s3").put_object(Bucket=outputs["bucket"], Key="key", Body=b"content")
    queue = project.client("sqs")
    (message,) = queue.receive_message(QueueUrl=outputs["reports"], WaitTimeSeconds=20)["Messages"]
    report = json.loads(message["Body"])
    assert report["key"] == "key"
    assert report["endpoint"] == project.environment["AWS_ENDPOINT_URL"]
    assert report["region"] == REGION
    assert report["own"] == "a function's own"
    assert "AWS_PROFILE" not in report["aws"]


def test_the_traceback_of_a_failed_program_has_only_its_own_frames(project: Project) -> None:
    result = project.run("preview", FAIL="yes")
    assert result.returncode != 0
    assert "ValueError: test failure" in result.stdout
    assert "__main__.py" in result.stdout
    assert "language_host" not in result.stdout
    assert "site-packages" not in result.stdout


def test_destroy_deletes_everything(project: Project) -> None:
    project.pulumi("destroy", "--yes", "--skip-preview")
    assert project.client("s3").list_buckets()["Buckets"] == []
    assert not project.client("sqs").list_queues().get("QueueUrls")
