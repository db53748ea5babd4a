"""The real stacks, deployed, changed and destroyed on an emulator with AWS's habits (docs/habits.md).

The habits are divided between two accounts, which run in parallel, because a deployment takes a minute in any case.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import boto3
import pytest

from shared import names
from tests.support import habits, stress
from tests.support.checkout import Checkout
from tests.support.emulated_pipeline import create_pipeline, private_emulator, running
from tests.support.faulty_aws import FaultyAws, Habit, between
from tests.support.waiting import eventually
from xfarm.orchestrator import refusals
from xfarm.paths import ROOT

IMPATIENT = """
from xfarm.cli import xfarm
from xfarm.orchestrator import refusals

refusals.WAITS_S = (0, 0, 0, 0)
xfarm()
"""
"""The orchestrator without waits: the habits here end after a number of requests, not after a time."""

EMAIL = "ops@example.org"
GROUP = f"/aws/lambda/{names.FUNCTION}"
EXPECTED = {
    "buckets": ["xfarm-bucket-01"],
    "queues": [names.DEAD_LETTER_QUEUE, names.MAIN_QUEUE],
    "topics": [names.ALARM_TOPIC],
    "alarms": [
        "dead-letter-age-alarm",
        "dead-letter-alarm",
        "error-alarm",
        "oldest-message-alarm",
        "throttle-alarm",
    ],
    "groups": [GROUP],
    "functions": [names.FUNCTION],
    "mappings": [names.MAIN_QUEUE],
    "roles": [names.FUNCTION_ROLE],
    "policies": ["role-consume-queue", "role-makes-no-log-groups"],
    "attached": ["AWSLambdaBasicExecutionRole", "AmazonS3FullAccess"],
}
"""The contents of an account after a deployment."""


def contents(checkout: Checkout) -> dict[str, list[str]]:
    """Return the contents of an account, by the last part of each name; log groups by the whole name."""
    return {
        kind: sorted(each if kind == "groups" else re.split(r"[:/]", each)[-1] for each in found)
        for kind, found in stress.contents(checkout).items()
    }


@dataclass
class Account:
    """An account with habits, the result of each command run on it, and the contents found, by step."""

    checkout: Checkout
    proxy: FaultyAws
    habits: dict[type[Habit], Habit]
    results: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def run(self, step: str, *arguments: str) -> None:
        """Run the orchestrator, and record its result and the contents of the account afterwards."""
        self.results[step] = self.checkout.run(*arguments, module="impatient")
        self.found[step] = contents(self.checkout)

    def status(self) -> str:
        """Return the output of `status` on one line."""
        return " ".join(self.checkout.run("status").stdout.split())

    def configure(self, **settings: object) -> None:
        """Change settings of all stacks that the provider applies without waiting for half a minute."""
        self.checkout.configure("storage", "local", inputPrefix="drop/")
        self.checkout.configure("messaging", "local", **settings)
        self.checkout.configure("compute", "local", memorySize=512, logRetentionDays=7)
        with (self.checkout.root / "lambda_code" / "process.py").open("a") as code:
            code.write("\n# changed\n")


def settled(account: Account) -> None:
    """Deploy where changes propagate slowly, and a notification is refused for longer than the retries last."""
    young = cast("habits.Refusing", account.habits[habits.NotificationForANewPolicy])
    young.times = 1000
    account.run("refused", "deploy")
    young.times = young.occurrences + 1
    account.run("deploy", "deploy")
    account.configure()
    account.run("change", "deploy")
    account.run("again", "preview", "--json")
    account.run("destroy", "destroy")


def crowded(account: Account) -> None:
    """Deploy where responses are lost, late or refused, a log group exists, and somebody recreates the role by hand."""
    account.checkout.client("logs").create_log_group(logGroupName=GROUP)
    account.run("deploy", "deploy")
    account.found["group"] = log_group(account.checkout)
    recreate_role(account.checkout)
    account.found["broken"] = invoke(account.checkout)
    account.configure(alarmEmail=EMAIL)
    account.run("change", "deploy", "--refresh")
    account.found["repaired"] = invoke(account.checkout)
    account.found["pending"] = account.status()
    account.run("again", "preview", "--json")
    expire_subscription(account.checkout)
    account.found["gone"] = account.status()
    account.run("confirmation again", "deploy", "--refresh")
    account.found["pending again"] = account.status()
    account.run("destroy", "destroy")


def log_group(checkout: Checkout) -> dict[str, Any]:
    """Return the retention and the tags of the function's log group."""
    logs = checkout.client("logs")
    (group,) = logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]
    return {"retention": group.get("retentionInDays"), "tags": logs.list_tags_log_group(logGroupName=GROUP)["tags"]}


def recreate_role(checkout: Checkout) -> None:
    """Delete the function's role, and create it again by hand with the same name and policies."""
    iam, name = checkout.client("iam"), names.FUNCTION_ROLE
    role = iam.get_role(RoleName=name)["Role"]
    attached = [each["PolicyArn"] for each in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]]
    written = {
        policy: iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
    }
    for arn in attached:
        iam.detach_role_policy(RoleName=name, PolicyArn=arn)
    for policy in written:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)
    iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(role["AssumeRolePolicyDocument"]), Tags=role["Tags"]
    )
    for arn in attached:
        iam.attach_role_policy(RoleName=name, PolicyArn=arn)
    for policy, document in written.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))


def invoke(checkout: Checkout) -> str:
    """Invoke the function without a message, and return its response."""
    answer = checkout.client("lambda").invoke(FunctionName=names.FUNCTION, Payload=b'{"Records": []}')
    return answer["Payload"].read().decode()


def expire_subscription(checkout: Checkout) -> None:
    """Delete the subscription, as SNS does if nobody confirms it within 48 hours."""
    sns = checkout.client("sns")
    (subscription,) = sns.list_subscriptions()["Subscriptions"]
    sns.confirm_subscription(
        TopicArn=subscription["TopicArn"], Token=subscription["SubscriptionArn"].rpartition(":")[2]
    )
    sns.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])


STORIES: dict[Callable[[Account], None], list[type[Habit]]] = {
    settled: [
        habits.NotificationForANewPolicy,
        habits.RoleNotYetAssumable,
        habits.RoleNotYetAllowedToRead,
        habits.RoleNotYetThere,
        habits.PolicyForANewRole,
        habits.RolePolicyNotYetThere,
        habits.RoleChangedAtTheSameTime,
        habits.RoleStillInUse,
        habits.ConfigurationOfABusyFunction,
        habits.CodeOfABusyFunction,
        habits.MappingStillInUse,
        habits.QueueDeletedRecently,
        habits.QueueNotYetThere,
        habits.BucketNotYetThere,
        habits.BucketChangedAtTheSameTime,
        habits.LateLogLines,
    ],
    crowded: [habits.Throttling, habits.SlowAnswers, habits.LostAnswers],
}


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Account]]:
    """The accounts after their stories, by the story's name."""
    checkouts = {story: Checkout(tmp_path_factory.mktemp(story.__name__)) for story in STORIES}

    def live(story: Callable[[Account], None]) -> Account:
        checkout = checkouts[story]
        (checkout.root / "impatient.py").write_text(IMPATIENT, encoding="utf-8")
        assert checkout.run("emulator", "start").returncode == 0
        # The provider's default, as one request may meet several habits.
        with between(checkout, "storage", "messaging", "compute", retries=25) as proxy:
            met = {habit: habit(checkout.client) for habit in STORIES[story]}
            proxy.habits = list(met.values())
            account = Account(checkout, proxy, met)
            story(account)
            return account

    try:
        with ThreadPoolExecutor() as pool:
            lived = list(pool.map(live, STORIES))
        yield {story.__name__: account for story, account in zip(STORIES, lived, strict=True)}
    finally:
        for checkout in checkouts.values():
            checkout.emulator.stop()


EACH = [(story.__name__, habit) for story, listed in STORIES.items() for habit in listed]


@pytest.mark.parametrize(("story", "habit"), EACH)
def test_each_habit_was_met(accounts: dict[str, Account], story: str, habit: type[Habit]) -> None:
    assert accounts[story].habits[habit].occurrences > 0


@pytest.mark.parametrize("story", ["settled", "crowded"])
def test_the_stacks_are_deployed_changed_and_destroyed(accounts: dict[str, Account], story: str) -> None:
    account = accounts[story]
    for step in ("deploy", "change", "again", "destroy"):
        assert account.results[step].returncode == 0, account.results[step].stdout + account.results[step].stderr
        assert "Warning" not in account.results[step].stderr
    assert account.found["deploy"] == EXPECTED
    assert account.found["change"] == EXPECTED
    assert {kind: found for kind, found in account.found["destroy"].items() if found} == {}
    planned = json.loads(account.results["again"].stdout)
    assert [set(stack["changes"]) for stack in planned] == [{"same"}] * 3, planned


def test_the_orchestrator_retries_only_what_the_provider_does_not(
    accounts: dict[str, Account],
) -> None:
    account = accounts["settled"]
    said = "".join(account.results[step].stdout for step in ("refused", "deploy", "change", "destroy"))
    assert set(re.findall(r"'[\w-]+' because (.+?)(?=, '|\. Retrying in)", said)) == {
        "the queue's policy has not propagated yet",
        "another request is changing the role",
        "the role has not propagated yet",
        "another change of the function is in progress",
    }
    assert [habit for habit in account.habits if habit.handled_by == "orchestrator"] == [
        habits.NotificationForANewPolicy,
        habits.PolicyForANewRole,
        habits.RoleChangedAtTheSameTime,
        habits.CodeOfABusyFunction,
    ]


def test_a_longer_refusal_is_reported_with_its_stack_and_the_next_run_succeeds(
    accounts: dict[str, Account],
) -> None:
    refused = accounts["settled"].results["refused"]
    assert refused.returncode == 1
    assert refused.stdout.count("AWS refuses 'bucket-notification' because the queue's policy has not propagated") == 4
    assert "messaging bucket-notification" in refused.stdout
    assert "Unable to validate the following destination configurations" in refused.stdout
    assert "messaging failed: see the errors above." in refused.stdout


def test_an_existing_log_group_is_taken_over(accounts: dict[str, Account]) -> None:
    account = accounts["crowded"]
    tags = {"Application": "xfarm-pipeline", "PulumiProject": "compute", "PulumiStack": "local"}
    assert account.found["group"] == {"retention": 14, "tags": tags}


def test_resources_whose_creation_got_no_response_are_taken_over(accounts: dict[str, Account]) -> None:
    said = accounts["crowded"].results["deploy"].stdout
    taken = re.findall(r"taking over existing resources: (.+)\.", said)
    assert {name for names in taken for name in names.split(", ")} == {
        "bucket",
        "event-source-mapping",
        "log-group",
        "role",
    }


def test_the_function_of_a_role_recreated_by_hand_is_replaced(accounts: dict[str, Account]) -> None:
    account = accounts["crowded"]
    assert "KMSAccessDeniedException" in account.found["broken"]
    assert json.loads(account.found["repaired"]) == {"batchItemFailures": []}
    assert "± compute    function" in account.results["change"].stdout


def test_an_unconfirmed_address_is_shown_and_mailed_again(accounts: dict[str, Account]) -> None:
    account = accounts["crowded"]
    for step in ("pending", "pending again"):
        assert f"mails nothing yet: {EMAIL} must follow the link in AWS's mail" in account.found[step]
    assert "'xfarm deploy local --refresh'" in account.found["gone"]
    assert "+ messaging  alarm-email" in account.results["confirmation again"].stdout


# Late log lines, on a pipeline that is created within a second


def test_a_function_creates_its_log_group_only_if_its_role_may(tmp_path: Path) -> None:
    with running(private_emulator(tmp_path / "emulator")):
        pipeline = create_pipeline(visibility_s=60)
        logs, iam, lambdas = boto3.client("logs"), boto3.client("iam"), boto3.client("lambda")

        def groups_after_an_invocation() -> list[str]:
            lambdas.invoke(FunctionName=pipeline.function_name, Payload=b'{"Records": []}')
            return [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]

        assert groups_after_an_invocation() == [GROUP]
        logs.delete_log_group(logGroupName=GROUP)
        assert groups_after_an_invocation() == []
        iam.delete_role_policy(RoleName=names.FUNCTION_ROLE, PolicyName="role-makes-no-log-groups")
        assert eventually(groups_after_an_invocation) == [GROUP]


# Documentation


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def documented() -> dict[str, tuple[str, str]]:
    """Return each habit's source and what handles it, from docs/habits.md."""
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \| ([^|]+?) \| (\w+)[^|]* \|$", text("docs/habits.md"), re.MULTILINE)
    return {
        habit: (re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", source), who) for habit, source, who in rows if habit != "habit"
    }


def test_the_documentation_lists_these_habits_and_no_others() -> None:
    listed = {habit.title(): (habit.source(), habit.handled_by) for _, habit in EACH}
    listed |= {habit.title(): (habit.source(), habit.handled_by) for habit in habits.ALWAYS}
    assert documented() == listed
    *waits, last = refusals.WAITS_S
    assert f"after {', '.join(map(str, waits))} and {last} seconds" in " ".join(text("docs/habits.md").split())
    assert len(listed) >= 12
