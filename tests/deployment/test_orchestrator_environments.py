"""Folders, shells and terminals as people have them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path

import pytest

from tests.support import small_stacks, stress
from tests.support.checkout import Checkout
from tests.support.keys import names
from tests.support.waiting import eventually
from xfarm.file_locks import acquire
from xfarm.paths import STACKS

NAME = "a  100% #1? %41 &x=y; 'q' \"d\" \\ $HOME `x` * ~ \u00e9 e\u0301 \u65e5\u672c "
"""Means something in a URL, a shell and a TOML file, and has letters in both of Unicode's normal forms."""
LONG = 200


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A copy in a folder with an unusual name, with a project deployed."""
    root = tmp_path_factory.mktemp("folder") / f"{NAME:n<{LONG}}"
    root.mkdir()
    checkout = small_stacks.install(Checkout(root))
    for project in ("alpha", "beta"):
        shutil.copy(STACKS / "messaging" / "Pulumi.dev.yaml", root / "stacks" / project)  # with the passphrase's salt
    stress.finish(checkout, "deploy", "--only", "alpha")
    yield checkout
    checkout.emulator.stop()


def test_the_state_is_in_the_checkout_s_own_folder(checkout: Checkout) -> None:
    assert any(resource["type"] == "aws:s3/bucket:Bucket" for resource in checkout.resources("alpha"))


def test_a_lock_in_such_a_folder_is_seen_and_released_by_hand(checkout: Checkout) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    lock = checkout.root / ".local/state/.pulumi/locks/organization/alpha/local/1234.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner = {
        "pid": process.pid,
        "username": "anna",
        "hostname": socket.gethostname(),
        "timestamp": "2026-11-24T12:00:00Z",
    }
    lock.write_text(json.dumps(owner), encoding="utf-8")
    refused = checkout.run("deploy", "--only", "alpha")
    assert refused.returncode == 1
    assert f"locked by anna@{socket.gethostname()} (process {process.pid}) since 2026-11-24T12" in refused.stdout
    assert "it is not known as a lock of xfarm on this machine" in refused.stdout
    assert lock.exists()
    assert "Unlocked: " in stress.finish(checkout, "unlock", "--yes")
    assert not lock.exists()
    stress.finish(checkout, "deploy", "--only", "alpha")


@pytest.mark.parametrize("command", ["preview", "drift"])
def test_a_terminal_without_umlauts_is_written_to(checkout: Checkout, command: str) -> None:
    done = checkout.run(command, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr


VARIABLES = {
    "AWS_PROFILE": "none",
    "AWS_ENDPOINT_URL": "nonsense",
    "AWS_MAX_ATTEMPTS": "x",
    "CI": "true",
    "COLUMNS": "20",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "LC_ALL": "C",
    "LOGNAME": "x" * 300,
    "NO_COLOR": "1",
    "PULUMI_BACKEND_URL": "nonsense",
    "PULUMI_CONFIG_PASSPHRASE": "other",
    "PULUMI_HOME": "/none",
    "PULUMI_STACK": "other",
    "TERM": "dumb",
    "TMPDIR": "/none",
    "TZ": "nonsense",
    "USER": "CORP\\Anna Müller",
    "XDG_CONFIG_HOME": "/none",
}
"""Variables that change nothing; `tests/emulator/test_environments.py` has each of them alone."""


def test_the_engine_does_the_same_under_all_variables_at_once(
    checkout: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shadow = tmp_path_factory.mktemp("path")
    (shadow / "shared").mkdir()
    (shadow / "shared" / "__init__.py").touch()
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    usual = checkout.run("preview")
    done = checkout.run(
        "preview", **VARIABLES, XDG_CACHE_HOME=cache, HOME="/dev/null", PYTHONPATH=f"{shadow}:{checkout.root}"
    )
    assert (done.returncode, usual.returncode) == (0, 0), done.stdout + done.stderr
    number = r" *[\d.]+|\u00b1"  # with the blanks that align it
    assert re.sub(number, "", done.stdout) == re.sub(number, "", usual.stdout)


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


@contextmanager
def ends(checkout: Checkout) -> Iterator[None]:
    """Wait at the end until the plugins and language hosts that ran at the beginning have ended."""
    with ExitStack() as opened:
        running = [opened.enter_context(path.open()) for path in checkout.root.glob(".local/servers/*/server")]
        assert running
        yield
        for server in running:
            eventually(lambda server=server: acquire(server))


def unchanged(done: subprocess.CompletedProcess[str]) -> bool:
    """Return whether a preview has found what is deployed, and nothing to change."""
    return done.returncode == 0 and "alpha  no change" in done.stdout and "ended before it saved" not in done.stderr


def test_the_first_commands_of_two_shells_start_together(checkout: Checkout) -> None:
    checkout.emulator.stop()
    (checkout.root / ".local" / "toolchain.json").unlink()
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(checkout.run, "preview", "--only", "alpha") for _ in range(2)]:
            assert unchanged(done.result()), done.result().stdout + done.result().stderr


def test_a_checkout_is_the_same_by_a_symbolic_link(checkout: Checkout) -> None:
    link = checkout.root.with_name("link")
    link.symlink_to(checkout.root)
    before = (checkout.root / ".local" / "toolchain.json").stat().st_mtime_ns
    done = checkout.run("preview", "--only", "alpha", PYTHONPATH=str(link))
    assert unchanged(done), done.stdout + done.stderr
    assert (checkout.root / ".local" / "toolchain.json").stat().st_mtime_ns == before


def test_a_checkout_that_is_moved_while_the_emulator_runs_loses_nothing(checkout: Checkout) -> None:
    with ends(checkout):
        checkout.root = checkout.root.rename(checkout.root.with_name(f"moved {NAME}"))
        eventually(lambda: not checkout.emulator.running())
    done = checkout.run("preview", "--only", "alpha")
    assert unchanged(done), done.stdout + done.stderr


def test_a_copy_of_a_checkout_uses_nothing_of_the_other(checkout: Checkout) -> None:
    checkout.emulator.stop()
    other = copy(checkout)
    other.root = checkout.root.with_name("copy")
    shutil.copytree(checkout.root, other.root)
    try:
        assert unchanged(done := other.run("preview", "--only", "alpha")), done.stdout + done.stderr
        launchers = [path.read_text(encoding="utf-8") for path in other.root.glob(".local/pulumi/plugins/*/pulumi-*")]
        assert launchers
        assert not any(str(checkout.root) in text for text in launchers)
    finally:
        other.emulator.stop()


def test_after_git_clean_while_the_emulator_runs_everything_starts_again(checkout: Checkout) -> None:
    stress.finish(checkout, "preview")
    with ends(checkout):
        shutil.rmtree(checkout.root / ".local")
    stress.finish(checkout, "deploy", "--only", "alpha")
    assert unchanged(checkout.run("preview", "--only", "alpha"))


def test_objects_of_any_key_are_kept_when_the_emulator_stops_and_deleted_with_their_bucket(
    checkout: Checkout,
) -> None:
    keys = {"a", "a/b", "A", *names("", seed=2)}
    for key in keys:
        checkout.client("s3").put_object(Bucket="alpha-bucket", Key=key, Body=key.encode())
    checkout.emulator.stop()
    checkout.emulator.start()
    s3 = checkout.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="alpha-bucket")
    assert {each["Key"] for page in pages for each in page["Contents"]} == keys
    for key in keys:
        assert s3.get_object(Bucket="alpha-bucket", Key=key)["Body"].read() == key.encode()
    print(f"{len(keys)} keys")
    stress.finish(checkout, "destroy")
    assert not stress.left(checkout)
