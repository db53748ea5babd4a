"""Only `destroy` deletes files, whatever changes in the settings or the program."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import stress
from tests.support.checkout import Checkout

OLD, NEW = "xfarm-bucket-01", "xfarm-bucket-02"
KEYS = [f"inputs/{number}" for number in range(8)]

BY_HAND = """
import os, pathlib, sys
from xfarm.orchestrator import local_environment
root = pathlib.Path.cwd()
environment = local_environment.prepare(root, print, root / "stacks")  # with the plugin that runs already
os.chdir("stacks/storage")
os.execvpe("pulumi", ["pulumi", *sys.argv[1:], "--stack", "local"], environment)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("protection"))
    yield checkout
    checkout.emulator.stop()


@pytest.fixture
def full(checkout: Checkout) -> Iterator[Checkout]:
    """Yield a checkout whose storage stack is deployed and has files; destroy the stack afterwards."""
    checkout.configure("storage", "local", bucketName=OLD)
    stress.finish(checkout, "deploy", "--only", "storage")
    for key in KEYS:
        checkout.client("s3").put_object(Bucket=OLD, Key=key, Body=key.encode())
    yield checkout
    stress.finish(checkout, "destroy")
    assert not stress.left(checkout)


def by_hand(checkout: Checkout, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BY_HAND, *arguments]
    return subprocess.run(
        command, cwd=checkout.root, env=checkout.environment, capture_output=True, text=True, check=False
    )


def unprotect(checkout: Checkout) -> None:
    """Change the state to that of version 0.1.0."""
    done = by_hand(checkout, "state", "unprotect", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    assert not any(resource.get("protect") for resource in checkout.resources("storage"))


def files(checkout: Checkout, bucket: str = OLD) -> list[str]:
    return [item["Key"] for item in checkout.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]


REFUSED = (
    f"the bucket '{OLD}' and all files in it would be deleted, and only destroy may do that: undo the change of its "
    "name (in stacks/storage/Pulumi.local.yaml) or of the program, or, if the files may go, run "
    "'xfarm destroy local' first."
)


def refuses(checkout: Checkout, *arguments: str) -> None:
    before = stress.contents(checkout), checkout.resources("storage")
    done = checkout.run(*arguments)
    assert done.returncode == 1
    assert REFUSED in done.stdout
    assert "unprotect" not in done.stdout + done.stderr
    assert "see the errors above" not in done.stdout
    assert files(checkout) == KEYS
    after = stress.contents(checkout), checkout.resources("storage")
    assert [resource["urn"] for resource in after[1]] == [resource["urn"] for resource in before[1]]
    assert after[0] == before[0]


COMMANDS = [
    ("preview",),
    ("preview", "--refresh"),
    ("deploy",),
    ("deploy", "--only", "storage"),
    ("deploy", "--from", "storage", "--refresh"),
]


@pytest.mark.parametrize("state", ["protected", "of 0.1.0"])
def test_another_bucket_name_is_refused_by_every_command_and_no_file_is_lost(full: Checkout, state: str) -> None:
    if state == "of 0.1.0":
        unprotect(full)
    full.configure("storage", "local", bucketName=NEW)
    for command in COMMANDS:
        refuses(full, *command)
    assert json.loads(stress.finish(full, "drift", "--json"))[0]["outcome"] == "done"

    full.configure("storage", "local", bucketName=OLD)
    stress.finish(full, "deploy", "--only", "storage")
    (bucket,) = [resource for resource in full.resources("storage") if resource["type"] == "aws:s3/bucket:Bucket"]
    assert bucket["protect"]
    assert files(full) == KEYS


@pytest.mark.parametrize("command", [("preview",), ("up", "--yes"), ("up", "--yes", "--skip-preview")])
def test_another_bucket_name_and_a_destruction_by_hand_are_refused_by_pulumi(
    full: Checkout, command: tuple[str, ...]
) -> None:
    full.configure("storage", "local", bucketName=NEW)
    done = by_hand(full, *command)
    assert done.returncode != 0
    assert "marked for protection" in done.stdout + done.stderr
    assert by_hand(full, "destroy", "--yes").returncode != 0
    assert files(full) == KEYS
    assert stress.contents(full)["buckets"] == [OLD]


@pytest.mark.parametrize("state", ["protected", "of 0.1.0"])
def test_a_program_without_the_bucket_is_refused(full: Checkout, state: str) -> None:
    if state == "of 0.1.0":
        unprotect(full)
    program = full.root / "stacks/storage/__main__.py"
    before = program.read_text(encoding="utf-8")
    program.write_text(
        re.sub(r'aws.s3.Bucket\(\n    "bucket"', 'aws.s3.Bucket(\n    "other"', before), encoding="utf-8"
    )
    try:
        full.configure("storage", "local", bucketName=NEW)
        for command in (("preview",), ("deploy", "--only", "storage")):
            done = full.run(*command)
            assert done.returncode == 1
            assert REFUSED in done.stdout
            assert files(full) == KEYS
    finally:
        program.write_text(before, encoding="utf-8")


def test_after_a_destruction_the_new_name_is_deployed(full: Checkout) -> None:
    full.configure("storage", "local", bucketName=NEW)
    stress.finish(full, "destroy")
    stress.finish(full, "deploy", "--only", "storage")
    assert stress.contents(full)["buckets"] == [NEW]


@pytest.mark.parametrize("state", ["protected", "of 0.1.0"])
def test_a_bucket_deleted_by_hand_is_created_by_a_deployment_with_refresh(full: Checkout, state: str) -> None:
    if state == "of 0.1.0":
        unprotect(full)
    s3 = full.client("s3")
    for key in KEYS:
        s3.delete_object(Bucket=OLD, Key=key)
    s3.delete_bucket(Bucket=OLD)
    full.configure("storage", "local", bucketName=NEW)
    stress.finish(full, "deploy", "--only", "storage", "--refresh")
    assert stress.contents(full)["buckets"] == [NEW]


def test_a_state_of_0_1_0_is_destroyed(full: Checkout) -> None:
    unprotect(full)
    stress.finish(full, "destroy")
    assert not stress.left(full)
