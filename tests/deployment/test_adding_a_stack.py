"""A stack is added by its folder and one line, and the orchestrator takes it along."""

from collections.abc import Iterator

import pytest

from tests.support.checkout import Checkout

PROGRAM = """
import pulumi
import pulumi_aws as aws

from shared.outputs import MessagingOutputs, StorageOutputs

storage = StorageOutputs.read()
messaging = MessagingOutputs.read()
print("the program runs")
log = aws.cloudwatch.LogGroup("audit-log", name="/audit", tags={"Bucket": storage.bucket_name})
pulumi.export("watches", pulumi.Output.concat(storage.bucket_name, " and ", messaging.main_queue_url))
"""


@pytest.fixture
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("audit"))
    folder = checkout.root / "stacks" / "audit"
    folder.mkdir()
    (folder / "__main__.py").write_text(PROGRAM, encoding="utf-8")
    (folder / "Pulumi.yaml").write_text("name: audit\nruntime: python\n", encoding="utf-8")
    for stack in ("dev", "local"):
        settings = (folder.parent / "storage" / f"Pulumi.{stack}.yaml").read_bytes()
        (folder / f"Pulumi.{stack}.yaml").write_bytes(settings)
    with (folder.parent / "stacks.toml").open("a", encoding="utf-8") as declared:
        declared.write('audit = ["storage", "messaging"]\n')
    yield checkout
    checkout.emulator.stop()


def test_a_stack_is_added_by_its_folder_and_one_line(checkout: Checkout) -> None:
    # Nothing was ever deployed: what the stacks read of each other is not known yet, and the plan is whole.
    preview = checkout.run("preview")
    assert preview.returncode == 0, preview.stdout + preview.stderr
    for project, resource in (
        ("storage", "bucket"),
        ("messaging", "bucket-notification"),
        ("compute", "event-source-mapping"),
        ("audit", "audit-log"),
    ):
        assert f"+ {project:10} {resource} " in preview.stdout
    assert "  audit the program runs\n" in preview.stdout
    refused = checkout.run("deploy", "--only", "audit")
    assert refused.returncode == 1
    assert "'audit' can't be deployed because it needs 'storage', which is not deployed" in refused.stderr
