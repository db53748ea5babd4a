"""The pipeline as the stack `local`: deployed by Pulumi on the emulator, used and destroyed."""

import hashlib
import json
import subprocess
import sys
from itertools import takewhile
from typing import Any

import pytest

from tests.support import stack_program
from tests.support.aws import Aws
from tests.support.checkout import Checkout
from tests.support.waiting import eventually
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT

pytestmark = pytest.mark.usefixtures("deployed")

BUCKET = "xfarm-bucket-01"
EXAMPLES = ROOT / "examples"
MAX_RECEIVES = 5
"""The maxReceiveCount of the redrive policy."""


def documents(checkout: Checkout) -> dict[str, dict[str, Any]]:
    s3 = checkout.client("s3")
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="outputs/").get("Contents", [])
    return {item["Key"]: json.load(s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"]) for item in listed}


def document(checkout: Checkout, key: str) -> dict[str, Any]:
    return eventually(lambda: documents(checkout).get(key))


def test_a_preview_after_a_deployment_shows_no_change(deployed: Checkout) -> None:
    for refresh in ((), ("--refresh",)):
        preview = deployed.run("preview", *refresh)
        assert preview.returncode == 0, preview.stdout + preview.stderr
        for project in ("storage", "messaging", "compute"):
            assert f"{project} no change" in " ".join(preview.stdout.split()), (
                f"{preview.stdout}\nIf a refresh shows what another resource has changed, add a line to _MIRRORS in "
                "xfarm/toolchain/aws_types.py."
            )


@pytest.mark.parametrize("project", ["storage", "messaging", "compute"])
def test_the_deployed_resources_are_those_in_the_picture(deployed: Checkout, project: str) -> None:
    found = {
        resource["urn"].rpartition("::")[2]: sorted(urn.rpartition("::")[2] for urn in resource.get("dependencies", []))
        for resource in deployed.resources(project)
    }
    program = stack_program.run(project, upstream=stack_program.UPSTREAM)
    declared = {
        name: sorted(needed.replace("/dev", "/local") for needed in program.dependencies[name])
        for name in program.types
    }
    assert found == declared


@pytest.mark.parametrize("project", dependencies())
def test_every_property_that_a_stack_sets_is_one_of_the_providers(deployed: Checkout, project: str) -> None:
    for resource in deployed.resources(project):
        ignored = resource["inputs"].keys() - resource["outputs"].keys() - {"__defaults"}
        assert not ignored, (
            f"Terraform's provider ignores {ignored} of {resource['type']}: if it has them by another name, add a line "
            "to _SDK_PROPERTIES in xfarm/toolchain/aws_types.py."
        )


def test_the_policies_of_a_queue_are_deleted_with_it(deployed: Checkout) -> None:
    found = {
        resource["urn"].rpartition("::")[2]: resource["deletedWith"].rpartition("::")[2]
        for resource in deployed.resources("messaging")
        if "deletedWith" in resource
    }
    assert found == {
        "main-queue-policy": "main-queue",
        "main-queue-redrive-policy": "main-queue",
        "dead-letter-queue-redrive-allow-policy": "dead-letter-queue",
    }


def test_local_reaches_no_account_whatever_the_environment(deployed: Checkout, aws: Aws) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_REGION": "us-east-1",
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ENDPOINT_URL_SQS": aws.url,
        "AWS_ASSUME_ROLE": "arn:aws:iam::123456789012:role/admin",
        "PULUMI_BACKEND_URL": "s3://production-state",
        "HTTPS_PROXY": aws.url,
        "HTTP_PROXY": aws.url,
    }
    preview = deployed.run("preview", "--refresh", **environment)
    assert preview.returncode == 0, preview.stdout + preview.stderr
    assert "no change" in preview.stdout
    assert aws.requests == []


def test_each_stack_is_an_ordinary_pulumi_project(deployed: Checkout) -> None:
    by_hand = f"""
        eval "$({sys.executable} -m xfarm env)"
        cd stacks/messaging && pulumi preview --stack local --non-interactive --expect-no-changes
    """
    done = subprocess.run(
        ["bash", "-euc", by_hand],
        cwd=deployed.root,
        env=deployed.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with_the_stack_itself = len(deployed.resources("messaging")) + 1
    assert f"{with_the_stack_itself} unchanged" in done.stdout


def test_outputs_are_available_as_json(deployed: Checkout) -> None:
    outputs = deployed.run("outputs", "--json")
    exported = json.loads(outputs.stdout)
    assert exported["storage"]["bucket_name"] == BUCKET
    assert exported["messaging"]["consumer_timeout_seconds"] == 2
    assert exported["compute"]["function_name"] == "xFarmLambdaFunction"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("readings.csv", {"rows": 3, "columns": ["sensor", "temperature", "unit"]}),
        ("milk.jsonl", {"rows": 2, "columns": ["animal", "litres", "note"]}),
        ("weather + forecast für Łódź.txt", {}),
        ("empty.csv", {"rows": 0, "columns": []}),
    ],
)
def test_every_file_has_a_result(deployed: Checkout, name: str, facts: dict[str, Any]) -> None:
    content = (EXAMPLES / name).read_bytes()
    deployed.client("s3").put_object(Bucket=BUCKET, Key=f"inputs/{name}", Body=content)
    result = document(deployed, f"outputs/{name}.json")
    assert result["key"] == f"inputs/{name}"
    assert result["size"] == len(content)
    assert result["sha256"] == hashlib.sha256(content).hexdigest()
    assert {key: result[key] for key in facts} == facts


def test_a_file_outside_of_the_input_prefix_has_no_result(deployed: Checkout) -> None:
    s3 = deployed.client("s3")
    s3.put_object(Bucket=BUCKET, Key="elsewhere/ignored.csv", Body=b"a,b\n")
    s3.put_object(Bucket=BUCKET, Key="inputs/after-the-ignored.csv", Body=b"a,b\n")
    document(deployed, "outputs/after-the-ignored.csv.json")
    assert not [key for key in documents(deployed) if "ignored.csv" in key and "after-the" not in key]


def test_a_poison_message_is_received_five_times_and_its_neighbours_succeed(deployed: Checkout) -> None:
    sqs, s3 = deployed.client("sqs"), deployed.client("s3")
    main = sqs.get_queue_url(QueueName="xFarmMainQueue")["QueueUrl"]
    dead = sqs.get_queue_url(QueueName="xFarmDeadLetterSqs")["QueueUrl"]
    sent = sqs.send_message(QueueUrl=main, MessageBody="this is no event of S3")["MessageId"]
    for number in range(9):
        s3.put_object(Bucket=BUCKET, Key=f"inputs/neighbour-{number}.csv", Body=b"a,b\n1,2\n")
    for number in range(9):
        document(deployed, f"outputs/neighbour-{number}.csv.json")

    (letter,) = eventually(
        lambda: sqs.receive_message(QueueUrl=dead, AttributeNames=["All"]).get("Messages"), seconds=180
    )
    assert letter["MessageId"] == sent
    assert letter["Body"] == "this is no event of S3"
    # SQS counts this receive from the dead-letter queue, too.
    assert int(letter["Attributes"]["ApproximateReceiveCount"]) == MAX_RECEIVES + 1
    waiting = sqs.get_queue_attributes(QueueUrl=main, AttributeNames=["All"])["Attributes"]
    assert waiting["ApproximateNumberOfMessages"] == waiting["ApproximateNumberOfMessagesNotVisible"] == "0"
    assert sqs.receive_message(QueueUrl=dead).get("Messages") is None


def test_a_preview_shows_a_change_of_the_code_only_if_there_is_one(deployed: Checkout) -> None:
    source = deployed.root / "lambda_code" / "process.py"
    unchanged = source.read_bytes()
    source.write_bytes(unchanged + b"# a change\n")
    (source.parent / "__pycache__").mkdir(exist_ok=True)
    changed = deployed.run("preview")
    assert "~ compute    function" in changed.stdout
    source.write_bytes(unchanged)
    assert "~" not in deployed.run("preview").stdout


def test_after_developing_a_preview_shows_the_change_of_the_code_only(deployed: Checkout) -> None:
    source = deployed.root / "lambda_code" / "process.py"
    before = source.read_text(encoding="utf-8")
    source.write_text(f"{before}# changed\n", encoding="utf-8")
    function, settings = {"FunctionName": "xFarmLambdaFunction"}, deployed.client("lambda").get_function_configuration
    code = settings(**function)["CodeSha256"]
    command = [sys.executable, "-um", "xfarm", "develop", "local", "examples/readings.csv"]
    with subprocess.Popen(
        command, cwd=deployed.root, env=deployed.environment, stdout=subprocess.PIPE, text=True
    ) as developing:
        lines = takewhile(lambda line: not line.startswith("Waiting"), developing.stdout or ())
        assert any(line.startswith("readings.csv -> outputs/readings.csv.json (") for line in lines)
        assert settings(**function)["CodeSha256"] != code
        developing.terminate()
    assert settings(**function)["CodeSha256"] == code  # an undone change would be no change for Pulumi
    for options in ((), ("--refresh",)):
        plans = json.loads(deployed.run("preview", "--json", *options).stdout)
        steps = [step for plan in plans for step in plan["steps"]]
        assert [step["resource"] for step in steps] == ["function"]
        assert {change["path"].partition("[")[0] for change in steps[0]["properties"]} == {"code", "lastModified"}
    source.write_text(before, encoding="utf-8")
    assert deployed.run("deploy").returncode == 0


def test_destroy_deletes_everything_and_can_be_repeated(deployed: Checkout) -> None:
    for key in ("inputs/control \x01\x1f\x7f", "inputs/line\r\nbreak\t", "inputs/no character \uffff"):
        deployed.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"x")
    destroy = deployed.run("destroy")
    assert destroy.returncode == 0, destroy.stdout + destroy.stderr
    assert deployed.client("s3").list_buckets()["Buckets"] == []
    assert deployed.client("sqs").list_queues().get("QueueUrls", []) == []
    assert deployed.client("lambda").list_functions()["Functions"] == []
    assert deployed.client("lambda").list_event_source_mappings()["EventSourceMappings"] == []
    assert deployed.client("logs").describe_log_groups()["logGroups"] == []
    assert "xFarmLambdaRole" not in str(deployed.client("iam").list_roles()["Roles"])
    again = deployed.run("destroy")
    assert again.returncode == 0
    assert "Nothing to destroy" in again.stdout
