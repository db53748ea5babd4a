"""The steps of the deploy workflow, read from its file, run against an empty account on the emulator."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.checkout import HOST, PLUGIN, Checkout
from tests.support.waiting import eventually
from xfarm.emulator.server import REGION
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT

ROLE = "arn:aws:iam::000000000000:role/deployer"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_REGION": REGION,
    "AWS_ASSUME_ROLE": ROLE,
}
STATE_BUCKET = f"xfarm-pipeline-state-000000000000-{REGION}"


class Runner:
    """GitHub's runner, as far as `deploy.yml` needs it."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        self.job: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text(encoding="utf-8"))
        self.summary = checkout.root / "summary.md"
        self.temporary: set[str] = set()

    def run(self, command: str) -> str:
        """Run the workflow with the input `command`, and return what its steps print."""
        self.summary.unlink(missing_ok=True)
        values = {"inputs.command": command, "inputs.stackName": "dev"}
        values |= {"github.token": "ghs_16C7e42F292c6912E7710c838347Ae178B4a"}
        values |= {f"secrets.{name}": value for name, value in SECRETS.items()}

        def expand(text: str) -> str:
            return re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda match: values[match[1]], text)

        (job,) = self.job["jobs"].values()
        environment = self.checkout.environment | {
            "AWS_ENDPOINT_URL": self.checkout.emulator.endpoint,
            "GITHUB_STEP_SUMMARY": str(self.summary),
            **{name: expand(value) for name, value in job["env"].items()},
        }
        printed = ""
        for step in job["steps"]:
            wanted = re.search(r"inputs\.command == '(\w+)'", step.get("if", ""))
            if wanted and wanted[1] != command:
                continue
            if "uses" in step:
                arguments = {name: expand(str(value)) for name, value in step.get("with", {}).items()}
                environment |= self._use(step["uses"].partition("@")[0], arguments)
            elif step["name"] != "Install":  # which the environment of these tests was made by
                shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
                done = subprocess.run(
                    shell,
                    cwd=self.checkout.root,
                    env=environment | {name: expand(value) for name, value in step.get("env", {}).items()},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                printed += done.stdout + done.stderr
                assert done.returncode == 0, printed
        return printed

    def _use(self, action: str, arguments: dict[str, str]) -> dict[str, str]:
        if action == "pulumi/actions":
            return self.checkout.pulumi(HOST, PLUGIN)
        if action == "aws-actions/configure-aws-credentials":
            answer = self.checkout.client("sts").assume_role(
                RoleArn=arguments["role-to-assume"], RoleSessionName="GitHubActions"
            )["Credentials"]
            self.temporary |= {answer["SecretAccessKey"], answer["SessionToken"]}
            return {
                "AWS_ACCESS_KEY_ID": answer["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": answer["SecretAccessKey"],
                "AWS_SESSION_TOKEN": answer["SessionToken"],
                "AWS_REGION": arguments["aws-region"],
            }
        assert action in {"actions/checkout", "actions/setup-python"}
        return {}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    checkout = Checkout(tmp_path_factory.mktemp("workflow"))
    for project in dependencies():
        # Where the emulator differs from AWS: a bucket's name is no host's name there.
        checkout.configure(project, "dev", **{"aws:s3UsePathStyle": True})
    checkout.emulator.start()
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": "000000000000"}, "Action": "sts:AssumeRole"}]}
    checkout.client("iam").create_role(RoleName="deployer", AssumeRolePolicyDocument=json.dumps(trust))
    yield Runner(checkout)
    checkout.emulator.stop()


def versions(s3: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a client
    """Return the versions of all objects in the state bucket."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=STATE_BUCKET)
    return [version for page in pages for version in page.get("Versions", [])]


def assert_refused(second: subprocess.CompletedProcess[str]) -> None:
    """Assert that a deployment during another one of the same stack was refused, and for the right reason."""
    printed = second.stdout + second.stderr
    if "the plan is incomplete" in printed:  # its plan already met what the other one was creating
        assert "but is not in its state: if a deployment of it is running, wait for its end" in printed
        return
    locked = r"messaging failed: the stack is locked by \S+ \(process \d+\) since \S+, and .*'xfarm unlock dev'"
    assert re.search(f"{locked}|messaging: its state changed after the plan was shown", printed)
    assert re.search(r"compute +left out", printed)


def test_preview_then_run_then_preview_then_run_then_delete(runner: Runner) -> None:
    checkout, s3 = runner.checkout, runner.checkout.client("s3")

    runner.run("preview")
    assert "+ compute    function" in runner.summary.read_text(encoding="utf-8")
    assert s3.list_buckets()["Buckets"] == []

    # Somebody else deploys the same stack while the workflow does.
    failures: list[BaseException] = []
    printed: list[str] = []

    def run() -> None:
        try:
            printed.append(runner.run("run"))
        except BaseException as error:  # noqa: BLE001 - for the test's own thread
            failures.append(error)

    deploying = threading.Thread(target=run)
    deploying.start()
    locks = ".pulumi/locks/organization/messaging/dev/"
    eventually(lambda: failures or s3.list_buckets()["Buckets"])
    eventually(lambda: failures or s3.list_objects_v2(Bucket=STATE_BUCKET, Prefix=locks)["KeyCount"])
    environment = SECRETS | checkout.pulumi(HOST, PLUGIN) | {"AWS_ENDPOINT_URL": checkout.emulator.endpoint}
    second = checkout.run("deploy", "dev", "--yes", **environment)
    deploying.join()
    assert not failures, failures
    assert second.returncode == 1
    assert f"the bucket '{STATE_BUCKET}', which was created" in printed[0]
    assert s3.get_bucket_versioning(Bucket=STATE_BUCKET)["Status"] == "Enabled"
    assert_refused(second)

    summary = runner.summary.read_text(encoding="utf-8")
    assert f"region {REGION}, Europe (Ireland), as arn:aws:sts::000000000000:assumed-role/deployer/" in summary
    assert "+ compute    function" in summary.partition("stack      outcome  create ")[0]
    assert re.search(r"stack +outcome +created", summary)
    assert "function_name = xFarmLambdaFunction" in summary
    assert summary.count("```") == 4
    (function,) = checkout.client("lambda").list_functions()["Functions"]
    assert function["FunctionName"] == "xFarmLambdaFunction"

    before = [(version["Key"], version["VersionId"]) for version in versions(s3)]
    runner.run("preview")
    summary = " ".join(runner.summary.read_text(encoding="utf-8").split())
    for project in dependencies():
        assert f"{project} no change" in summary
    assert [(version["Key"], version["VersionId"]) for version in versions(s3)] == before

    runner.run("run")
    summary = " ".join(runner.summary.read_text(encoding="utf-8").split())
    for project in dependencies():
        assert f"{project} no change" in summary

    runner.run("delete")
    assert checkout.client("lambda").list_functions()["Functions"] == []
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [STATE_BUCKET]
    assert checkout.client("sqs").list_queues().get("QueueUrls", []) == []


def test_no_credential_is_kept_anywhere(runner: Runner) -> None:
    credentials = runner.temporary | {SECRETS["AWS_ACCESS_KEY_ID"], SECRETS["AWS_SECRET_ACCESS_KEY"]}
    s3 = runner.checkout.client("s3")
    kept = [
        s3.get_object(Bucket=STATE_BUCKET, Key=version["Key"], VersionId=version["VersionId"])["Body"].read().decode()
        for version in versions(s3)
    ]
    assert any('"xFarmLambdaFunction"' in text for text in kept)
    kept += [
        path.read_text(encoding="utf-8", errors="replace")
        for path in runner.checkout.root.rglob("*")
        if path.is_file() and "emulator" not in path.relative_to(runner.checkout.root).parts
    ]
    for credential in credentials:
        assert not [text for text in kept if credential in text]
