"""Where the state is: the backend that the environment, the projects or nobody names, and what contradicts another."""

from pathlib import Path

import boto3
import pytest

from xfarm.errors import UserError
from xfarm.orchestrator import settings, state
from xfarm.orchestrator.aws_account import Account

THEIRS, OTHER = "s3://theirs", "postgres://anna:secret@host/state"
PROJECTS = ("storage", "messaging", "compute")


def account(identity: str = "arn:aws:iam::123456789012:user/anna", **environment: str) -> Account:
    return Account("123456789012", "eu-west-1", identity, boto3.Session(region_name="eu-west-1"), environment)


@pytest.fixture
def projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the projects, whose `Pulumi.yaml` have no backend."""
    monkeypatch.setattr(state, "STACKS", tmp_path)
    monkeypatch.setattr(settings, "STACKS", tmp_path)
    for project in PROJECTS:
        (tmp_path / project).mkdir()
        declare(tmp_path, project, "")
    return tmp_path


def declare(projects: Path, project: str, url: str) -> None:
    backend = f"backend:\n  url: {url}\n" if url else ""
    (projects / project / "Pulumi.yaml").write_text(f"name: {project}\n{backend}", encoding="utf-8")


@pytest.mark.usefixtures("projects")
def test_by_default_the_state_is_in_a_bucket_of_account_and_region() -> None:
    assert state.backend(account()) == "s3://xfarm-pipeline-state-123456789012-eu-west-1?region=eu-west-1"


def test_the_environment_decides_before_the_projects(projects: Path) -> None:
    for project in PROJECTS:
        declare(projects, project, THEIRS)
    assert state.backend(account()) == THEIRS
    assert state.backend(account(PULUMI_BACKEND_URL=OTHER)) == OTHER


def test_projects_that_differ_are_refused(projects: Path) -> None:
    declare(projects, "messaging", OTHER)
    with pytest.raises(UserError, match="different backends") as refusal:
        state.backend(account())
    assert "(storage: none, messaging: postgres://host/state, compute: none)" in str(refusal.value)
    assert "set PULUMI_BACKEND_URL" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("backend: s3://bucket", "the backend in stacks/storage/Pulumi.yaml has no URL: write 'backend:', and in the"),
        ("backend:\n  address: s3://bucket", "the backend in stacks/storage/Pulumi.yaml has no URL"),
        ("backend: {", r"storage/Pulumi.yaml is not YAML: .* in line"),
    ],
)
def test_a_backend_that_is_written_wrongly_is_one_sentence(projects: Path, written: str, sentence: str) -> None:
    (projects / "storage" / "Pulumi.yaml").write_text(f"name: storage\n{written}\n", encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        state.backend(account())


def test_bootstrap_refuses_a_backend_that_it_would_ignore(projects: Path) -> None:
    declare(projects, "compute", THEIRS)
    with pytest.raises(UserError, match=r"PULUMI_BACKEND_URL is set, so the backend in stacks/compute/Pulumi\.yaml"):
        state.bootstrap(account(PULUMI_BACKEND_URL="file:///tmp"), print)
    for project in PROJECTS:
        declare(projects, project, "file:///tmp")
    said: list[str] = []
    state.bootstrap(account(PULUMI_BACKEND_URL="file:///tmp"), said.append)
    assert said == ["The state is in file:///tmp, so there is nothing to create."]


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_the_partition_is_that_of_the_identity(partition: str) -> None:
    assert account(f"arn:{partition}:sts::123456789012:assumed-role/deployer/anna").partition == partition
