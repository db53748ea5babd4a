"""Measures the commands for the three stacks: deploy, preview and destroy in comparison with one Terraform module.

Each has its own emulator, and the times are those of whole commands. The benchmark alternates between

- the stacks, run by `xfarm`;
- the same resources as one Terraform module (`benchmarks.peer`), written as in the provider's documentation;
- the same module with the stacks' graph, which shows how much of the difference is due to the graph.

A change is a new input prefix, which changes resources of two stacks.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final, Protocol
from zipfile import ZipFile

from rich.console import Console

from benchmarks import peer
from benchmarks.commands import check
from benchmarks.figures import seconds, table
from tests.support.checkout import Checkout, free_port
from xfarm.emulator.server import REGION, Emulator
from xfarm.errors import UserError
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT
from xfarm.toolchain import terraform

ROUNDS: Final = 2
PREVIEWS: Final = 3
"""Previews a round: they are short."""
OPERATIONS: Final = ("deploy", "preview", "preview of a change", "destroy")
COMMANDS: Final = (
    ("deploy", "--json"),
    ("outputs",),
    ("status",),
    ("dead-letters",),
    ("logs",),
    ("--help",),
)
"""Commands that change nothing."""


@dataclass(frozen=True)
class Deployed:
    """The resources of a deployment.

    Attributes:
        started: When the command started, in seconds since the epoch.
        finished: When each resource was finished.
        needs: The resources that each resource had to wait for.
    """

    started: float
    finished: Mapping[str, float]
    needs: Mapping[str, Iterable[str]]


class Deployer(Protocol):
    """A way to deploy the pipeline."""

    name: str
    emulator: Emulator

    def prepare(self) -> None:
        """Do what is not measured."""

    def run(self, operation: str) -> None:
        """Deploy, destroy, or preview without changes or with one."""

    def deployed(self) -> Deployed:
        """Return the resources of the last deployment."""


class Stacks:
    """The three Pulumi projects, run by the orchestrator."""

    name = "three stacks"

    def __init__(self, folder: Path) -> None:
        self._checkout = Checkout(folder)
        self.emulator = self._checkout.emulator
        self._started = 0.0
        self.seconds: dict[str, dict[str, list[float]]] = {each: defaultdict(list) for each in OPERATIONS}
        """The times that the orchestrator reports, by operation and project."""

    def prepare(self) -> None:
        """Prepare the toolchain, and start the emulator."""
        check(self._checkout.run("env"))

    def run(self, operation: str) -> None:
        """Implement `Deployer`."""
        self._started = time.time()
        changed = operation == "preview of a change"
        if changed:
            self._checkout.configure("storage", "local", inputPrefix="incoming/")
        done = self._checkout.run("preview" if changed else operation, "--json")
        if changed:
            self._checkout.configure("storage", "local", inputPrefix="inputs/")
        check(done)
        reports = json.loads(done.stdout)
        for report in reports:
            self.seconds[operation][report["project"]].append(report["seconds"])
        changes = {change for report in reports for change in report["changes"]}
        if operation.startswith("preview") and changed is not (changes != {"same"}):
            raise UserError(f"the {operation} shows other changes than expected: {', '.join(changes)}.")

    def command(self, *arguments: str) -> float:
        """Run a command, and return how long it took in seconds."""
        started = time.monotonic()
        check(self._checkout.run(*arguments))
        return time.monotonic() - started

    def develop(self) -> list[float]:
        """Return how long it took from each of three changes of the code to the new result, in seconds."""
        file = self._checkout.root / "file.csv"
        file.write_text("a,b\n1,2\n", encoding="utf-8")
        process = self._checkout.root / "lambda_code" / "process.py"
        shipped = process.read_text(encoding="utf-8")
        taken = []
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "xfarm", "develop", "local", str(file)],
            cwd=self._checkout.root,
            env=self._checkout.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as loop:
            _until_it_waits(loop)
            for number in range(3):
                started = time.monotonic()
                process.write_text(f"{shipped}\n# {number}\n", encoding="utf-8")
                _until_it_waits(loop)
                taken.append(time.monotonic() - started)
            loop.terminate()
        process.write_text(shipped, encoding="utf-8")
        return taken

    def deployed(self) -> Deployed:
        """Implement `Deployer`; the first resources of a stack wait for the last ones of the stacks that it reads."""
        graph = dependencies()
        resources = {  # one that was taken over has no time of creation
            project: [each for each in self._checkout.resources(project) if "created" in each] for project in graph
        }
        finished = {
            _name(each["urn"]): datetime.fromisoformat(each["created"]).timestamp()
            for stack in resources.values()
            for each in stack
        }
        last = {
            project: max((_name(each["urn"]) for each in stack), key=finished.__getitem__)
            for project, stack in resources.items()
        }
        needs = {
            _name(each["urn"]): [name for name in map(_name, each.get("dependencies", [])) if name in finished]
            or [last[other] for other in graph[project]]
            for project, stack in resources.items()
            for each in stack
        }
        return Deployed(self._started, finished, needs)


def _until_it_waits(loop: subprocess.Popen[str]) -> None:
    """Read what `xfarm develop` prints until it has shown a result and waits for a change.

    Raises:
        UserError: It ended.
    """
    printed = ""
    for line in loop.stdout or ():
        printed += line
        if line.startswith("Waiting for a change") and " -> " in printed:
            return
    raise UserError(f"'xfarm develop' ended, or showed no result:\n{printed}")


def _name(urn: str) -> str:
    """Return the name of a resource in a table: `messaging main-queue`."""
    _, project, _, name = urn.split("::")
    return f"{project} {name}"


@dataclass
class Module:
    """A Terraform module."""

    name: str
    folder: Path
    content: Mapping[str, object]
    """The module in Terraform's JSON syntax."""
    emulator: Emulator = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.emulator = Emulator(self.folder / "emulator", free_port())
        with ZipFile(self.folder / "code.zip", "w") as code:
            for source in (ROOT / "lambda_code").glob("*.py"):
                code.write(source, source.name)

    def prepare(self) -> None:
        """Start the emulator, and have Terraform find the provider."""
        self._mirror()
        self.emulator.start()
        self._write()
        self._terraform("init")

    def run(self, operation: str) -> None:
        """Implement `Deployer`."""
        self._write("incoming/" if operation == "preview of a change" else "inputs/")
        if operation == "deploy":
            self._started = time.time()
            output = self._terraform("apply", "-auto-approve", "-json")
            (self.folder / "applied.json").write_text(output, encoding="utf-8")
        elif operation == "preview":
            self._terraform("plan", "-detailed-exitcode")  # fails if there is a change
        elif operation == "preview of a change":
            self._terraform("plan")
        else:
            self._terraform("destroy", "-auto-approve")

    def deployed(self) -> Deployed:
        """Implement `Deployer`."""
        lines = map(json.loads, (self.folder / "applied.json").read_text(encoding="utf-8").splitlines())
        finished = {
            _resource(line["hook"]["resource"]["addr"]): datetime.fromisoformat(line["@timestamp"]).timestamp()
            for line in lines
            if line["type"] == "apply_complete"
        }
        state = json.loads((self.folder / "terraform.tfstate").read_text(encoding="utf-8"))
        needs = {
            f"{resource['type']}.{resource['name']}": [
                name for name in resource["instances"][0].get("dependencies", []) if name in finished
            ]
            for resource in state["resources"]
            if resource["mode"] == "managed"
        }
        return Deployed(self._started, finished, needs)

    def _write(self, input_prefix: str = "inputs/") -> None:
        content = json.dumps(self.content, indent=2).replace("inputs/", input_prefix)
        (self.folder / "main.tf.json").write_text(content, encoding="utf-8")

    def _mirror(self) -> None:
        """Let Terraform use the provider on this machine; if there is none, Terraform downloads it."""
        try:
            provider = terraform.find_provider()
        except UserError:
            return
        (self.folder / "cli.tfrc").write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{provider.parents[5]}"\n  }}\n}}\n',
            encoding="utf-8",
        )

    def _terraform(self, command: str, *arguments: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
        if (configuration := self.folder / "cli.tfrc").exists():
            kept["TF_CLI_CONFIG_FILE"] = str(configuration)
        done = subprocess.run(
            ["terraform", command, "-input=false", "-no-color", *arguments],
            cwd=self.folder,
            env=kept
            | {
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_ENDPOINT_URL": self.emulator.endpoint,
                "AWS_REGION": REGION,
                "AWS_SECRET_ACCESS_KEY": "test",
                "CHECKPOINT_DISABLE": "1",
                "TF_VAR_code": "code.zip",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        check(done)
        return done.stdout


def _resource(address: str) -> str:
    """Return the address of a resource without the index of an instance."""
    return address.partition("[")[0]


def critical_path(deployed: Deployed) -> list[tuple[str, float]]:
    """Return the resources on the critical path in order, each with its time in seconds.

    The time starts when the last resource that it waits for is finished, or with the command.
    """
    path = []
    resource = max(deployed.finished, key=deployed.finished.__getitem__)
    while True:
        needs = deployed.needs[resource]
        previous = max(needs, key=deployed.finished.__getitem__) if needs else None
        start = deployed.finished[previous] if previous else deployed.started
        path.insert(0, (resource, deployed.finished[resource] - start))
        if previous is None:
            return path
        resource = previous


def run(console: Console) -> None:
    """Measure, and print medians, ratios and critical paths.

    Raises:
        UserError: A deployment failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        stacks = Stacks(Path(folder) / "stacks")
        deployers: list[Deployer] = [stacks]
        try:
            if shutil.which("terraform"):
                usual, same = peer.module(same_graph=False), peer.module(same_graph=True)
                deployers.append(Module("one module", Path(folder) / "peer", usual))
                deployers.append(Module("one module, same graph", Path(folder) / "same", same))
            else:
                console.print("terraform is not on PATH, so the stacks are measured without a comparison.\n")
            _compare(console, stacks, deployers)
            _print_stacks(console, stacks)
        finally:
            for deployer in deployers:
                deployer.emulator.stop()


def _compare(console: Console, stacks: Stacks, deployers: list[Deployer]) -> None:
    for deployer in deployers:
        deployer.prepare()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    commands: dict[str, list[float]] = defaultdict(list)
    paths: dict[str, list[tuple[str, float]]] = {}

    def measure(operation: str, measured: Iterable[Deployer]) -> None:
        for deployer in measured:
            console.print(f"{deployer.name}: {operation}", style="dim")
            started = time.monotonic()
            deployer.run(operation)
            times[deployer.name, operation].append(time.monotonic() - started)
            if operation == "deploy":
                paths[deployer.name] = critical_path(deployer.deployed())

    for number in range(ROUNDS):
        # The modules are deployed and destroyed once, as nearly all of that are waits, which take the same time again.
        measure("deploy", deployers if number == 0 else [stacks])
        for _ in range(PREVIEWS):
            measure("preview", deployers)
            measure("preview of a change", deployers)
            for command in COMMANDS:
                commands[" ".join(command)].append(stacks.command(*command))
        commands["develop: a change to its result"] += stacks.develop()
        measure("destroy", deployers if number == ROUNDS - 1 else [stacks])
    _print_times(console, [deployer.name for deployer in deployers], times)
    rows = [(name, seconds(each)) for name, each in commands.items()]
    table(console, "The stacks' other commands", ["command", "seconds"], rows)
    for name, path in paths.items():
        steps = [(resource, f"{step:.2f}") for resource, step in path]
        total = sum(step for _, step in path)
        table(console, f"Critical path of {name}, last round", ["resource", "seconds"], [*steps, ("", f"{total:.2f}")])


def _print_times(console: Console, names: list[str], times: Mapping[tuple[str, str], list[float]]) -> None:
    ours, *others = names
    rows = []
    for operation in OPERATIONS:
        row = [operation, seconds(times[ours, operation])]
        for other in others:
            ratio = median(times[ours, operation]) / median(times[other, operation])
            row += [seconds(times[other, operation]), f"{ratio:.2f}"]
        rows.append(row)
    head = ["", ours, *(name for other in others for name in (other, "ratio"))]
    title = f"Medians of {ROUNDS} rounds, with {PREVIEWS} alternating previews each; modules are deployed once"
    table(console, title, head, rows)


def _print_stacks(console: Console, stacks: Stacks) -> None:
    rows = [
        (project, *(seconds(stacks.seconds[operation][project]) for operation in OPERATIONS))
        for project in dependencies()
    ]
    table(console, "Each stack", ["stack", *OPERATIONS], rows)
