"""The real stacks on an AWS with its habits: deployed, changed, destroyed. docs/habits.md lists them.

Two accounts share the habits among them, at the same time, as a deployment takes a minute whatever its habits are.
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
"""The orchestrator, without the waits that an AWS needs which does not count requests instead of seconds."""

EMAIL = "ops@example.org"
GROUP = f"/aws/lambda/{names.FUNCTION}"
THERE = {
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
"""All that there is to be after a deployment, each once."""


def there(checkout: Checkout) -> dict[str, list[str]]:
    """Return what is in an account, by the last part of each name; a log group's name is all of it."""
    return {
        kind: sorted(each if kind == "groups" else re.split(r"[:/]", each)[-1] for each in found)
        for kind, found in stress.contents(checkout).items()
    }


@dataclass
class Account:
    """An account with habits, and what the commands said that were run on it, by what they were for."""

    checkout: Checkout
    proxy: FaultyAws
    habits: dict[type[Habit], Habit]
    said: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def run(self, step: str, *arguments: str) -> None:
        """Run the orchestrator, and note what it said, and what is there afterwards."""
        self.said[step] = self.checkout.run(*arguments, module="impatient")
        self.found[step] = there(self.checkout)

    def status(self) -> str:
        """Return what ``status`` says, on one line."""
        return " ".join(self.checkout.run("status").stdout.split())

    def configure(self, **settings: object) -> None:
        """Change what every stack can change without half a minute's wait."""
        self.checkout.configure("storage", "local", inputPrefix="drop/")
        self.checkout.configure("messaging", "local", **settings)
        self.checkout.configure("compute", "local", memorySize=512, logRetentionDays=7)
        with (self.checkout.root / "lambda_code" / "process.py").open("a") as code:
            code.write("\n# changed\n")


def settled(account: Account) -> None:
    """Deploy where things settle slowly, and a notification is refused for longer than anybody has patience."""
    young = cast("habits.Refusing", account.habits[habits.NotificationForAYoungPolicy])
    young.times = 1000
    account.run("refused", "deploy")
    young.times = young.occurrences + 1
    account.run("deploy", "deploy")
    account.configure()
    account.run("change", "deploy")
    account.run("again", "preview", "--json")
    account.run("destroy", "destroy")


def crowded(account: Account) -> None:
    """Deploy where answers are lost, late or refused; a log group is there, somebody makes the role again by hand."""
    account.checkout.client("logs").create_log_group(logGroupName=GROUP)
    account.run("deploy", "deploy")
    account.found["group"] = log_group(account.checkout)
    make_role_again(account.checkout)
    account.found["broken"] = invoke(account.checkout)
    account.configure(alarmEmail=EMAIL)
    account.run("change", "deploy", "--refresh")
    account.found["mended"] = invoke(account.checkout)
    account.found["pending"] = account.status()
    account.run("again", "preview", "--json")
    unconfirmed(account.checkout)
    account.found["gone"] = account.status()
    account.run("asked again", "deploy", "--refresh")
    account.found["pending again"] = account.status()
    account.run("destroy", "destroy")


def log_group(checkout: Checkout) -> dict[str, Any]:
    """Return retention and tags of the function's log group."""
    logs = checkout.client("logs")
    (group,) = logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]
    return {"retention": group.get("retentionInDays"), "tags": logs.list_tags_log_group(logGroupName=GROUP)["tags"]}


def make_role_again(checkout: Checkout) -> None:
    """Delete the function's role, and make it again with the same name and policies, as a person in a panic does."""
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
    """Call the function with no message, and return what it answers."""
    answer = checkout.client("lambda").invoke(FunctionName=names.FUNCTION, Payload=b'{"Records": []}')
    return answer["Payload"].read().decode()


def unconfirmed(checkout: Checkout) -> None:
    """Let 48 hours pass in which nobody confirms the subscription."""
    sns = checkout.client("sns")
    (subscription,) = sns.list_subscriptions()["Subscriptions"]
    sns.confirm_subscription(
        TopicArn=subscription["TopicArn"], Token=subscription["SubscriptionArn"].rpartition(":")[2]
    )
    sns.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])


STORIES: dict[Callable[[Account], None], list[type[Habit]]] = {
    settled: [
        habits.NotificationForAYoungPolicy,
        habits.RoleNotYetAssumable,
        habits.RoleNotYetAllowedToRead,
        habits.RoleNotYetThere,
        habits.PolicyForAYoungRole,
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
        # As many as the provider has by default: several habits may meet one request.
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
def test_the_stacks_are_deployed_changed_and_destroyed_on_them(accounts: dict[str, Account], story: str) -> None:
    account = accounts[story]
    for step in ("deploy", "change", "again", "destroy"):
        assert account.said[step].returncode == 0, account.said[step].stdout + account.said[step].stderr
        assert "Warning" not in account.said[step].stderr
    assert account.found["deploy"] == THERE
    assert account.found["change"] == THERE
    assert {kind: found for kind, found in account.found["destroy"].items() if found} == {}
    planned = json.loads(account.said["again"].stdout)
    assert [set(stack["changes"]) for stack in planned] == [{"same"}] * 3, planned


def test_only_what_the_provider_does_not_ask_again_for_is_asked_again_by_the_orchestrator(
    accounts: dict[str, Account],
) -> None:
    account = accounts["settled"]
    said = "".join(account.said[step].stdout for step in ("refused", "deploy", "change", "destroy"))
    assert set(re.findall(r"'[\w-]+' as (the .+?)(?=, '|\. It is asked again)", said)) == {
        "the queue's policy is not known everywhere yet",
        "the role is being changed elsewhere",
        "the role is not known everywhere yet",
        "the function is still being changed",
    }
    assert [habit for habit in account.habits if habit.handled_by == "orchestrator"] == [
        habits.NotificationForAYoungPolicy,
        habits.PolicyForAYoungRole,
        habits.RoleChangedAtTheSameTime,
        habits.CodeOfABusyFunction,
    ]


def test_what_is_refused_for_longer_is_named_with_its_stack_and_done_by_the_next_run(
    accounts: dict[str, Account],
) -> None:
    refused = accounts["settled"].said["refused"]
    assert refused.returncode == 1
    assert refused.stdout.count("AWS refuses 'bucket-notification' as the queue's policy is not known everywhere") == 4
    assert "messaging bucket-notification" in refused.stdout
    assert "Unable to validate the following destination configurations" in refused.stdout
    assert "messaging failed: see the errors above." in refused.stdout


def test_a_log_group_that_is_there_already_is_taken_over(accounts: dict[str, Account]) -> None:
    account = accounts["crowded"]
    tags = {"Application": "xfarm-pipeline", "PulumiProject": "compute", "PulumiStack": "local"}
    assert account.found["group"] == {"retention": 14, "tags": tags}


def test_what_was_made_though_the_answer_was_lost_is_taken_over(accounts: dict[str, Account]) -> None:
    said = accounts["crowded"].said["deploy"].stdout
    taken = re.findall(r"already there, and taken over: (.+)\.", said)
    assert {name for names in taken for name in names.split(", ")} == {
        "bucket",
        "event-source-mapping",
        "log-group",
        "role",
    }


def test_a_role_made_again_by_hand_gets_its_function_made_again(accounts: dict[str, Account]) -> None:
    account = accounts["crowded"]
    assert "KMSAccessDeniedException" in account.found["broken"]
    assert json.loads(account.found["mended"]) == {"batchItemFailures": []}
    assert "± compute    function" in account.said["change"].stdout


def test_an_address_that_has_not_confirmed_is_shown_and_asked_again(accounts: dict[str, Account]) -> None:
    account = accounts["crowded"]
    for step in ("pending", "pending again"):
        assert f"mails nothing yet: {EMAIL} must follow the link in AWS's mail" in account.found[step]
    assert "'xfarm deploy local --refresh'" in account.found["gone"]
    assert "+ messaging  alarm-email" in account.said["asked again"].stdout


# Late log lines, on a pipeline that is made within a second


def test_a_function_makes_its_log_group_only_where_its_role_may(tmp_path: Path) -> None:
    with running(private_emulator(tmp_path / "emulator")):
        pipeline = create_pipeline(visibility_s=60)
        logs, iam, lambdas = boto3.client("logs"), boto3.client("iam"), boto3.client("lambda")

        def groups_after_a_call() -> list[str]:
            lambdas.invoke(FunctionName=pipeline.function_name, Payload=b'{"Records": []}')
            return [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]

        assert groups_after_a_call() == [GROUP]
        logs.delete_log_group(logGroupName=GROUP)
        assert groups_after_a_call() == []
        iam.delete_role_policy(RoleName=names.FUNCTION_ROLE, PolicyName="role-makes-no-log-groups")
        assert eventually(groups_after_a_call, seconds=10) == [GROUP]


# What is written about them


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def documented() -> dict[str, tuple[str, str]]:
    """Return what docs/habits.md says of each habit: its source, and who deals with it."""
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
