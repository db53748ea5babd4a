"""The AWS types that the bridge includes, found in the programs and the state."""

import json
from pathlib import Path

import pytest

from tests.support import stack_program
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT, STACKS
from xfarm.toolchain.aws_types import types_in_use


@pytest.mark.parametrize(
    ("line", "token"),
    [
        ('aws.s3.BucketPolicy("policy")', "aws:s3/bucketPolicy:BucketPolicy"),
        ('aws.lambda_.Function("function")', "aws:lambda/function:Function"),
        ("made: aws.ssm.Parameter | None = None", "aws:ssm/parameter:Parameter"),
        ("s3.Bucket(name)", "aws:s3/bucket:Bucket"),
        ("aws.get_caller_identity_output().account_id", "aws:index/getCallerIdentity:getCallerIdentity"),
        ("aws.iam.get_policy_document(statements=[])", "aws:iam/getPolicyDocument:getPolicyDocument"),
    ],
)
def test_a_type_is_found_in_a_program(line: str, token: str, tmp_path: Path) -> None:
    source = tmp_path / "project" / "module.py"
    source.parent.mkdir()
    source.write_text(f"import pulumi_aws as aws\n{line}\n", encoding="utf-8")
    assert token in types_in_use(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"alarmEmail": "ops@example.org", "s3Access": "scoped"}])
def test_every_type_of_the_stacks_is_found_in_their_sources(settings: dict[str, str]) -> None:
    found = types_in_use(STACKS, ROOT / "shared")
    for project in dependencies():
        program = stack_program.run(project, settings, upstream=stack_program.UPSTREAM)
        assert set(program.types.values()) <= found


def test_a_type_that_is_only_in_the_state_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "aws:ssm/parameter:Parameter"
    state = tmp_path / "a state" / ".pulumi" / "stacks" / "storage" / "local.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"resources": [{"type": token}, {"type": "pulumi:pulumi:Stack"}]}), encoding="utf-8")
    monkeypatch.setenv("PULUMI_BACKEND_URL", (tmp_path / "a state").as_uri())
    assert types_in_use() == {token}


@pytest.mark.parametrize("url", ["", "s3://{}"])
def test_a_state_that_is_not_in_a_folder_is_not_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / ".pulumi" / "stacks" / "local.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"type": "aws:ssm/parameter:Parameter"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PULUMI_BACKEND_URL", url.format(tmp_path))
    assert types_in_use() == set()
