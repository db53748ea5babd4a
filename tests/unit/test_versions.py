"""What is in more than one file, and has to be the same in all of them."""

import tomllib

import pytest
import yaml

from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT, STACKS
from xfarm.toolchain.build import ENGINE_VERSION


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_pulumi_has_one_version() -> None:
    needed = tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]
    assert f"pulumi=={ENGINE_VERSION}" in needed
    assert f"\npulumi=={ENGINE_VERSION}\n" in text("constraints.txt")
    assert f"pulumi/pkg/v3 v{ENGINE_VERSION}" in text("xfarm/toolchain/engine/go.mod")
    for file in (".github/workflows/deploy.yml", ".github/actions/reader/action.yml"):
        assert f"pulumi-version: {ENGINE_VERSION}" in text(file)


@pytest.mark.parametrize("project", dependencies())
def test_every_project_is_named_as_its_folder(project: str) -> None:
    assert yaml.safe_load((STACKS / project / "Pulumi.yaml").read_text(encoding="utf-8"))["name"] == project
