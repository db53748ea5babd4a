"""Changes stacks at random, and compares the plan of each change with what the deployment then does.

    python -m tests.support.planned [CHANGES] [SEED]

makes that many changes (default: 200) to four small stacks.
"""

import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkout import Checkout

LESSER = {"replace": ("replace", "update", "same"), "update": ("update", "same")}
"""What the deployment may do instead of a planned operation that only unknown values cause."""

Steps = dict[tuple[str, str], dict[str, Any]]


@dataclass
class Counts:
    """How well the deployments matched their plans."""

    changes: int = 0
    steps: int = 0
    mays: int = 0
    changes_with_mays: int = 0
    mismatches: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.changes} changes, {self.steps} steps, {self.mays} of them with a may (in {self.changes_with_mays} "
            f"changes), {len(self.mismatches)} mismatches"
        )


def mismatches(plan: list[dict[str, Any]], done: list[dict[str, Any]]) -> list[str]:
    """Return the differences between a plan and its deployment.

    Only an operation shown as "may" may do less, and only a property shown as unknown may have any value.
    """
    planned, did = _steps(plan), _steps(done)
    found = [f"not planned: {key} {did[key]}" for key in did.keys() - planned.keys()]
    for key, step in planned.items():
        actual = did.get(key, {"operation": "same", "properties": []})
        wanted = LESSER[step["operation"]] if step["may"] else (step["operation"],)
        if actual["operation"] not in wanted:
            found.append(f"{key}: planned {step}, did {actual}")
        elif actual["operation"] != "same":
            found += [f"{key}: {each}" for each in _properties(step, actual)]
    return found


def _steps(reports: list[dict[str, Any]]) -> Steps:
    return {(report["project"], step["resource"]): step for report in reports for step in report["steps"]}


def _properties(step: dict[str, Any], actual: dict[str, Any]) -> Iterator[str]:
    planned = {change["path"]: change for change in step["properties"]}
    did = {change["path"]: change for change in actual["properties"]}
    unknown = [path for path, change in planned.items() if change["unknown"]]
    for path in did.keys() - planned.keys():
        if not any(re.match(re.escape(other) + r"[.\[]", path) for other in unknown):
            yield f"{path} was not planned: {did[path]}"
    for path, change in planned.items():
        if not change["unknown"] and (path not in did or did[path]["new"] != change["new"]):
            yield f"{path} was planned as {change}, and is {did.get(path)}"


def check(checkout: Checkout, counts: Counts, name: str, *options: str) -> None:
    """Preview a change, deploy it, and count the differences."""
    reports = []
    for command in ("preview", "deploy"):
        answer = checkout.run(command, "--json", *options)
        assert answer.returncode == 0, f"{name}: {answer.returncode} {answer.stdout}{answer.stderr}"
        reports.append(json.loads(answer.stdout))
    plan, done = reports
    steps = _steps(plan).values()
    mays = sum(step["may"] for step in steps)
    counts.changes += 1
    counts.steps += len(steps)
    counts.mays += mays
    counts.changes_with_mays += bool(mays)
    counts.mismatches += [f"{name}: {each}" for each in mismatches(plan, done)]


@dataclass(frozen=True)
class Case:
    """A change, and the options for the commands."""

    name: str
    make: Callable[[Checkout], object]
    options: tuple[str, ...] = ()


def setting(project: str, **settings: object) -> Case:
    """Return a change of settings."""
    return Case(f"{project}: {settings}", lambda checkout: checkout.configure(project, "local", **settings))


def code(path: str, pattern: str, replacement: str) -> Case:
    """Return a change of a file: each match of a pattern is replaced."""

    def make(checkout: Checkout) -> None:
        file = checkout.root / path
        text, number = re.subn(pattern, replacement, file.read_text(encoding="utf-8"))
        assert number, path
        file.write_text(text, encoding="utf-8")

    return Case(f"{path}: {replacement}", make)


def several(*cases: Case) -> Case:
    """Return a change that consists of others."""
    return Case(" and ".join(case.name for case in cases), lambda checkout: [case.make(checkout) for case in cases])


def check_all(checkout: Checkout, cases: Iterable[Case], *, changes_with_mays: int) -> None:
    """Make each change, and compare its plan with its deployment.

    Args:
        checkout: The copy of the project to change.
        cases: The changes.
        changes_with_mays: The maximum number of changes with an operation that is shown as "may".
    """
    counts = Counts()
    for case in cases:
        case.make(checkout)
        check(checkout, counts, case.name, *case.options)
    print(counts)
    assert not counts.mismatches, "\n".join(counts.mismatches)
    assert counts.changes_with_mays <= changes_with_mays, counts
    assert counts.steps >= counts.changes, counts


PROJECTS: dict[str, list[str]] = {"alpha": [], "beta": ["alpha"], "gamma": ["alpha", "beta"], "delta": ["gamma"]}

PROGRAM = """
import json
from dataclasses import make_dataclass

import pulumi
import pulumi_aws as aws

from shared.outputs import StackOutputs

MODEL = json.loads({model!r})
value = pulumi.Config().require("value")
read = []
for project, names in MODEL["reads"].items():
    contract = make_dataclass(project, [(name, pulumi.Output) for name in names], bases=(StackOutputs,), kw_only=True,
                              frozen=True)
    contract.project = project
    outputs = contract.read()
    read += [getattr(outputs, name) for name in names]
text = pulumi.Output.json_dumps([value, *read], separators=(",", ":"))
short = pulumi.Output.all(*read).apply(lambda values: "-".join(str(len(json.dumps(one))) for one in values))
known = dict(text=text, value=value, literal=MODEL["literal"], listed=[value, MODEL["literal"]],
             number=len(value), nested=dict(value=value, literal=[MODEL["literal"]]))

if "group" in MODEL["resources"]:
    group = aws.cloudwatch.LogGroup(
        "group",
        name=pulumi.Output.concat(MODEL["name"], "-", short) if MODEL["named_by"] else MODEL["name"],
        retention_in_days=MODEL["days"],
        tags=dict(value=value),
    )
    known |= dict(group_name=group.name, group_arn=group.arn)
if "topic" in MODEL["resources"]:
    topic = aws.sns.Topic("topic", name=MODEL["name"], display_name=text.apply(lambda text: text[:90]))
    known |= dict(topic_arn=topic.arn, topic_name=topic.name)
if "alarm" in MODEL["resources"]:
    alarm = aws.cloudwatch.MetricAlarm(
        "alarm",
        name=MODEL["alarm"] or None,
        alarm_description=text,
        comparison_operator="GreaterThanThreshold",
        evaluation_periods=1,
        metric_name="Errors",
        namespace="AWS/Lambda",
        period=60,
        statistic="Sum",
        threshold=MODEL["days"],
        alarm_actions=[topic.arn] if "topic" in MODEL["resources"] else [],
    )
    known |= dict(alarm_name=alarm.name)
for name, source in MODEL["outputs"].items():
    pulumi.export(name, known.get(source, "nothing"))
"""

DAYS = (1, 3, 5, 7, 14, 30)
SOURCES = (
    "text",
    "value",
    "literal",
    "listed",
    "number",
    "nested",
    "alarm_name",
    "group_name",
    "group_arn",
    "topic_arn",
    "topic_name",
)
RESOURCES = ("group", "topic", "alarm")
SETTINGS = 'config:\n  aws:allowedAccountIds: ["000000000000"]\n  {project}:value: {value}\n'


KINDS = (
    "setting",
    "code",
    "physical name",
    "name from outputs",
    "resource",
    "more outputs",
    "fewer outputs",
    "another type",
    "added",
    "destroyed",
    "changed by hand",
    "deleted by hand",
    "interrupted",
    "several",
)
"""The kinds of changes: each is a method of `Small`."""


class Small:
    """Four small stacks, and changes to them."""

    def __init__(self, checkout: Checkout, seed: int) -> None:
        self._checkout = checkout
        self._chance = random.Random(seed)  # noqa: S311 - not for security
        self._number = 0
        self._graph: dict[str, list[str]] = {}
        self._values = dict.fromkeys(PROJECTS, "first")
        self._models: dict[str, dict[str, Any]] = {
            project: {
                "name": project,
                "alarm": "" if project == "beta" else f"{project}-alarm",
                "named_by": False,
                "literal": "one",
                "days": 7,
                "resources": list(RESOURCES),
                "outputs": {"first": "value", "second": "topic_arn"},
                "reads": {},
            }
            for project in PROJECTS
        }
        shutil.rmtree(checkout.root / "stacks")
        for project in ("alpha", "beta", "gamma"):
            self.add(project)

    def add(self, project: str) -> None:
        """Add a stack that was never deployed, and reads all outputs of the stacks that it needs."""
        folder = self._checkout.root / "stacks" / project
        folder.mkdir(parents=True)
        (folder / "Pulumi.yaml").write_text(f"name: {project}\nruntime: python\n", encoding="utf-8")
        self._graph[project] = PROJECTS[project]
        lines = "".join(f"{name} = {json.dumps(needs)}\n" for name, needs in self._graph.items())
        (self._checkout.root / "stacks" / "stacks.toml").write_text(lines, encoding="utf-8")
        self._write()

    def _write(self) -> None:
        for project, needs in self._graph.items():
            model = self._models[project]
            model["reads"] = {other: sorted(self._models[other]["outputs"]) for other in needs}
            folder = self._checkout.root / "stacks" / project
            (folder / "__main__.py").write_text(PROGRAM.format(model=json.dumps(model)), encoding="utf-8")
            settings = SETTINGS.format(project=project, value=self._values[project])
            (folder / "Pulumi.local.yaml").write_text(settings, encoding="utf-8")

    def _new(self, kind: str) -> str:
        self._number += 1
        return f"{kind}{self._number}"

    def change(self, kind: str = "", project: str = "") -> tuple[str, list[str]]:
        """Make a change, chosen at random unless given; return its name, and the options for the commands."""
        kind = kind or self._chance.choice(KINDS)
        project = project or self._chance.choice(sorted(self._graph))
        options = self._make(kind, project)
        self._write()
        return f"{kind} of {project}", options

    def _make(self, kind: str, project: str) -> list[str]:
        return getattr(self, f"_{kind.replace(' ', '_')}")(project) or []

    def _setting(self, project: str) -> None:
        self._values[project] = self._new("value")

    def _code(self, project: str) -> None:
        model = self._models[project]
        model["days"] = self._chance.choice([days for days in DAYS if days != model["days"]])
        model["literal"] = self._new("literal")

    def _physical_name(self, project: str) -> None:
        self._models[project]["name"] = self._new(f"{project}-")

    def _name_from_outputs(self, project: str) -> None:
        self._models[project]["named_by"] = not self._models[project]["named_by"]

    def _resource(self, project: str) -> None:
        present = self._models[project]["resources"]
        name = self._chance.choice(RESOURCES)
        present.remove(name) if name in present else present.append(name)

    def _more_outputs(self, project: str) -> None:
        self._models[project]["outputs"][self._new("output")] = self._chance.choice(SOURCES)

    def _fewer_outputs(self, project: str) -> None:
        outputs = self._models[project]["outputs"]
        if outputs:
            del outputs[self._chance.choice(sorted(outputs))]

    def _another_type(self, project: str) -> None:
        outputs = self._models[project]["outputs"]
        if outputs:
            outputs[self._chance.choice(sorted(outputs))] = self._chance.choice(SOURCES)

    def _added(self, _project: str) -> None:
        if "delta" not in self._graph:
            self.add("delta")

    def _destroyed(self, project: str) -> None:
        done = self._checkout.run("destroy", "--from", project, "--json")
        assert done.returncode == 0, done.stderr

    def _changed_by_hand(self, project: str) -> list[str]:
        sns = self._checkout.client("sns")
        for resource in self._deployed(project, "aws:sns/topic:Topic"):
            sns.set_topic_attributes(
                TopicArn=resource["id"], AttributeName="DisplayName", AttributeValue=self._new("by hand ")
            )
        return ["--refresh"]

    def _deleted_by_hand(self, project: str) -> list[str]:
        delete: dict[str, Callable[[str], Any]] = {
            "aws:sns/topic:Topic": lambda arn: self._checkout.client("sns").delete_topic(TopicArn=arn),
            "aws:cloudwatch/logGroup:LogGroup": lambda name: self._checkout.client("logs").delete_log_group(
                logGroupName=name
            ),
            "aws:cloudwatch/metricAlarm:MetricAlarm": lambda name: self._checkout.client("cloudwatch").delete_alarms(
                AlarmNames=[name]
            ),
        }
        kind = self._chance.choice(sorted(delete))
        for resource in self._deployed(project, kind):
            delete[kind](resource["id"])
        return ["--refresh"]

    def _interrupted(self, project: str) -> None:
        """Change the state to that of a deployment that was killed after AWS created a log group."""
        path = self._checkout.root / ".local/state/.pulumi/stacks" / project / "local.json"
        for resource in self._deployed(project, "aws:cloudwatch/logGroup:LogGroup"):
            state = json.loads(path.read_text(encoding="utf-8"))
            latest = state["checkpoint"]["latest"]
            latest["resources"].remove(resource)
            latest["pending_operations"] = [{"resource": resource | {"id": "", "outputs": {}}, "type": "creating"}]
            path.write_text(json.dumps(state), encoding="utf-8")

    def _several(self, project: str) -> list[str]:
        kinds = self._chance.sample([kind for kind in KINDS if kind not in {"several", "destroyed"}], 3)
        return [option for kind in kinds for option in self._make(kind, project)][:1]

    def _deployed(self, project: str, kind: str) -> list[dict[str, Any]]:
        path = self._checkout.root / ".local/state/.pulumi/stacks" / project / "local.json"
        state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        resources = (state.get("checkpoint", {}).get("latest") or {}).get("resources", [])
        return [resource for resource in resources if resource["type"] == kind]


@contextmanager
def small(folder: Path, seed: int) -> Iterator[tuple[Checkout, Small, Counts]]:
    """Deploy the small stacks, compare that with its plan too, and stop their emulator at the end."""
    checkout = Checkout(folder)
    counts = Counts()
    stacks = Small(checkout, seed)
    try:
        check(checkout, counts, "never deployed")
        yield checkout, stacks, counts
    finally:
        checkout.emulator.stop()


def main() -> None:
    """Make the number of changes given on the command line."""
    arguments = sys.argv[1:]
    number, seed = int(arguments[0]) if arguments else 200, int(arguments[1]) if len(arguments) > 1 else 1
    with tempfile.TemporaryDirectory(prefix="xfarm-planned-") as folder, small(Path(folder), seed) as parts:
        checkout, stacks, counts = parts
        for _ in range(number):
            name, options = stacks.change()
            check(checkout, counts, name, *options)
            print(f"{name}: {counts}", flush=True)
        assert not counts.mismatches, "\n".join(counts.mismatches)


if __name__ == "__main__":
    main()
