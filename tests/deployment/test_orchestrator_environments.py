"""Folders, shells and terminals as people have them."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import stress
from tests.support.checkout import Checkout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A copy in a folder whose name means something in a URL, with a bucket in it."""
    root = tmp_path_factory.mktemp("folder") / "100% #1? %41"
    root.mkdir()
    checkout = Checkout(root)
    stress.finish(checkout, "deploy", "--only", "storage")
    yield checkout
    checkout.emulator.stop()


def test_the_state_is_in_the_checkout_s_own_folder(checkout: Checkout) -> None:
    assert any(resource["type"] == "aws:s3/bucket:Bucket" for resource in checkout.resources("storage"))


def test_a_lock_in_such_a_folder_is_seen_and_released_by_hand(checkout: Checkout) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    lock = checkout.root / ".local/state/.pulumi/locks/organization/storage/local/1234.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner = {
        "pid": process.pid,
        "username": "anna",
        "hostname": socket.gethostname(),
        "timestamp": "2026-11-24T12:00:00Z",
    }
    lock.write_text(json.dumps(owner), encoding="utf-8")
    refused = checkout.run("deploy", "--only", "storage")
    assert refused.returncode == 1
    assert f"locked by anna@{socket.gethostname()} (process {process.pid}) since 2026-11-24T12" in refused.stdout
    assert "it is not known as a lock of xfarm on this machine" in refused.stdout
    assert lock.exists()
    assert "Unlocked: " in stress.finish(checkout, "unlock", "--yes")
    assert not lock.exists()
    stress.finish(checkout, "deploy", "--only", "storage")


@pytest.mark.parametrize("command", ["preview", "drift"])
def test_a_terminal_without_umlauts_is_written_to(checkout: Checkout, command: str) -> None:
    done = checkout.run(command, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr


ANOTHER_STATE = """
import os, pathlib, sys
from xfarm.orchestrator import local_environment
environment = local_environment.prepare(pathlib.Path.cwd(), print) | {
    "PULUMI_BACKEND_URL": f"file://{sys.argv[1]}", "PULUMI_CONFIG_PASSPHRASE": "other"
}
os.execve(sys.executable, [sys.executable, "-m", "xfarm", "preview", "dev"], environment)
"""


def test_another_passphrase_in_the_shell_is_told_with_what_to_do(
    checkout: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_STATE, str(tmp_path_factory.mktemp("state"))],
        cwd=checkout.root,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "PULUMI_CONFIG_PASSPHRASE holds another passphrase than the stacks have, an empty one unless you changed it: "
        "unset PULUMI_CONFIG_PASSPHRASE.\n"
    ) in done.stdout


def test_everything_in_such_a_folder_is_destroyed(checkout: Checkout) -> None:
    stress.finish(checkout, "destroy")
    assert not stress.left(checkout)
