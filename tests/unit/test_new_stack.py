"""The settings of a new stack: what `xfarm new-stack` writes, refuses and completes."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.killed import at_each_line
from xfarm.errors import UserError
from xfarm.orchestrator import new_stack, targets
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT, STACKS

BUCKET = "storage:bucketName"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of what `new-stack` reads and writes."""
    shutil.copytree(STACKS, tmp_path / "stacks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    for module in (new_stack, targets):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "STACKS", tmp_path / "stacks")
    monkeypatch.setattr(new_stack, "WORKFLOW", tmp_path / ".github/workflows/deploy.yml")
    return tmp_path


def settings(checkout: Path, project: str, stack: str) -> dict[str, dict[str, object]]:
    return yaml.safe_load((checkout / f"stacks/{project}/Pulumi.{stack}.yaml").read_text(encoding="utf-8"))


def choices(checkout: Path) -> list[str]:
    content = yaml.safe_load((checkout / ".github/workflows/deploy.yml").read_text(encoding="utf-8"))
    return content[True]["workflow_dispatch"]["inputs"]["stackName"]["options"]


def without_bucket(content: dict[str, dict[str, object]]) -> dict[str, object]:
    config = {key: value for key, value in content.get("config", {}).items() if key != BUCKET}
    return {key: value for key, value in content.items() if key != "config"} | config


@pytest.mark.parametrize(
    "config",
    [
        "",
        "config:\n  storage:inputPrefix: drop/\n",
        "config:\n  storage:bucketName: ours\n  aws:s3UsePathStyle: true\n",
    ],
)
def test_a_new_stack_has_the_settings_of_dev_and_a_bucket_of_its_own(checkout: Path, config: str) -> None:
    model = checkout / "stacks/storage/Pulumi.dev.yaml"
    model.write_text(model.read_text(encoding="utf-8") + config, encoding="utf-8")
    said: list[str] = []
    new_stack.create("prod", said.append)
    for project in dependencies():
        assert without_bucket(settings(checkout, project, "prod")) == without_bucket(settings(checkout, project, "dev"))
    assert re.fullmatch(r"xfarm-bucket-prod-[0-9a-f]{8}", str(settings(checkout, "storage", "prod")["config"][BUCKET]))
    assert "prod" in targets.known_stacks()
    assert said[:2] == [
        "Added prod to the choices of .github/workflows/deploy.yml.",
        "Wrote stacks/storage/Pulumi.prod.yaml.",
    ]
    assert "'xfarm bootstrap prod'" in said[-1]
    assert "'xfarm deploy prod'" in said[-1]


def test_the_workflow_s_choices_are_the_stacks_for_an_account(checkout: Path) -> None:
    new_stack.create("prod", print)
    new_stack.create("dev-us", print)
    assert sorted(choices(checkout)) == [stack for stack in targets.known_stacks() if stack != targets.LOCAL]
    text = (checkout / ".github/workflows/deploy.yml").read_text(encoding="utf-8")
    original = (ROOT / ".github/workflows/deploy.yml").read_text(encoding="utf-8")
    changed = [pair for pair in zip(text.splitlines(), original.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1


@pytest.mark.parametrize("word", ["true", "null", "no", "off"])
def test_a_word_of_yaml_can_be_the_name_of_a_stack(checkout: Path, word: str) -> None:
    new_stack.create(word, print)
    (checkout / f"stacks/storage/Pulumi.{word}.yaml").unlink()
    new_stack.create(word, print)  # completes it, and finds it among the choices
    assert choices(checkout) == ["dev", word]
    assert word in targets.known_stacks()


def test_without_a_workflow_or_a_list_in_it_the_files_are_written_all_the_same(checkout: Path) -> None:
    workflow = checkout / ".github/workflows/deploy.yml"
    workflow.write_text("on: push\n", encoding="utf-8")
    said: list[str] = []
    new_stack.create("prod", said.append)
    assert said[0] == "Add prod to the options of stackName in .github/workflows/deploy.yml."
    workflow.unlink()
    new_stack.create("stage", print)
    assert {"prod", "stage"} <= set(targets.known_stacks())


@pytest.mark.parametrize("stack", ["dev", "local"])
def test_a_stack_that_exists_is_refused(checkout: Path, stack: str) -> None:
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"the stack '{stack}' exists already"):
        new_stack.create(stack, print)
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before


def test_settings_of_local_are_not_those_of_dev(checkout: Path) -> None:
    (checkout / "stacks" / "compute" / "Pulumi.local.yaml").unlink()
    with pytest.raises(UserError, match=r"has settings of its own: restore stacks/compute/Pulumi\.local\.yaml\."):
        new_stack.create("local", print)
    assert choices(checkout) == ["dev"]


@pytest.mark.parametrize("stack", ["Prod", "a/b", "../x", "", "prod_1", "prod-", "x" * 41])
def test_an_invalid_name_is_refused(checkout: Path, stack: str) -> None:
    with pytest.raises(
        UserError, match=r"must be a lower-case letter, .* digits and hyphens, 40 .*, the last one not a hyphen"
    ):
        new_stack.create(stack, print)
    assert targets.known_stacks() == ["dev", "local"]
    assert choices(checkout) == ["dev"]


class Killed(Exception):  # noqa: N818 - not an error
    pass


@pytest.mark.parametrize("after", range(4))
def test_the_same_command_completes_what_was_interrupted(
    checkout: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = new_stack._write, list[Path]()  # noqa: SLF001 - where it can be killed

    def write_some(path: Path, text: str) -> None:
        if len(written) == after:
            raise Killed
        written.append(path)
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(new_stack, "_write", write_some)
        with pytest.raises(Killed):
            new_stack.create("prod", print)
    kept = {path: path.read_bytes() for path in written}
    assert "prod" not in targets.known_stacks()
    new_stack.create("prod", print)
    assert "prod" in targets.known_stacks()
    assert choices(checkout) == ["dev", "prod"]
    assert {path: path.read_bytes() for path in written} == kept


def test_a_project_without_settings_to_copy_is_named(checkout: Path) -> None:
    (checkout / "stacks/compute/Pulumi.dev.yaml").unlink()
    with pytest.raises(UserError, match=r"stacks/compute/Pulumi\.dev\.yaml is missing"):
        new_stack.create("prod", print)
    assert targets.known_stacks() == ["local"]
    assert not list(checkout.rglob("Pulumi.prod.yaml"))


@pytest.mark.parametrize(
    "config",
    [
        "config: {}\n",
        "config: null\n",
        "config: {storage:inputPrefix: drop/}\n",
        "config:\n    storage:inputPrefix: drop/\n",
        'config:\n  "storage:bucketName": ours\n',
    ],
)
def test_settings_that_cannot_be_copied_with_another_bucket_are_refused_before_anything_is_written(
    checkout: Path, config: str
) -> None:
    (checkout / "stacks/storage/Pulumi.dev.yaml").write_text(config, encoding="utf-8")
    before = choices(checkout)
    with pytest.raises(UserError, match="can't be copied with another bucket name"):
        new_stack.create("prod", print)
    assert choices(checkout) == before
    assert "prod" not in targets.known_stacks()


def test_it_completes_what_was_killed_at_any_line(checkout: Path) -> None:
    fresh = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    for _line in at_each_line(lambda: new_stack.create("prod", print)):
        if "prod" not in targets.known_stacks():
            new_stack.create("prod", print)
        assert choices(checkout) == ["dev", "prod"]
        assert BUCKET in settings(checkout, "storage", "prod")["config"]
        added = {path for path in checkout.rglob("*") if path.is_file()} - fresh.keys()
        assert added == {checkout / f"stacks/{project}/Pulumi.prod.yaml" for project in dependencies()}
        for path in added:
            path.unlink()
        for path, content in fresh.items():
            path.write_bytes(content)


def test_settings_that_cannot_be_written_are_named(checkout: Path) -> None:
    (checkout / "stacks/compute/.Pulumi.prod.yaml.new").mkdir()
    with pytest.raises(UserError, match=r"stacks/compute/Pulumi\.prod\.yaml can't be written \(Is a directory\): make"):
        new_stack.create("prod", print)
