"""Deploy, preview and destroy: the three stacks, and in turn the same in one module of Terraform's.

Times are those of whole commands, from start to end, on an emulator of each one's own. What is compared is

- the stacks, by ``python -m xfarm``;
- the same resources in one module of Terraform's (`benchmarks.peer`), as the provider's documentation would write them;
- the same module with the stacks' own graph, which tells what of the difference is the graph's.
"""

import json
import os
import shutil
import subprocess
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

ROUNDS: Final = 3
OPERATIONS: Final = ("deploy", "preview", "destroy")


@dataclass(frozen=True)
class Deployed:
    """What a deployment has made: when each resource was finished, in seconds, and what each had to wait for."""

    begun: float
    finished: Mapping[str, float]
    needs: Mapping[str, Iterable[str]]


class Contestant(Protocol):
    """Something that deploys the pipeline."""

    name: str
    emulator: Emulator

    def prepare(self) -> None:
        """Make ready what is not to be measured."""

    def run(self, operation: str) -> None:
        """Deploy, preview what is deployed, which has to find nothing to change, or destroy."""

    def deployed(self) -> Deployed:
        """Return what the last deployment has made."""


class Stacks:
    """The three Pulumi projects, run by the orchestrator."""

    name = "three stacks"

    def __init__(self, folder: Path) -> None:
        self._checkout = Checkout(folder)
        self.emulator = self._checkout.emulator
        self._begun = 0.0
        self.seconds: dict[str, dict[str, list[float]]] = {each: defaultdict(list) for each in OPERATIONS}
        """Of each operation and project: what the orchestrator reports."""

    def prepare(self) -> None:
        """Find the toolchain, build what is missing of it, and start the emulator."""
        check(self._checkout.run("env"))

    def run(self, operation: str) -> None:
        """See `Contestant`."""
        self._begun = time.time()
        done = self._checkout.run(operation, "--json")
        check(done)
        for report in json.loads(done.stdout):
            self.seconds[operation][report["project"]].append(report["seconds"])
            if operation == "preview" and set(report["changes"]) != {"same"}:
                raise UserError(f"{report['project']} has changes after it was deployed: {report['changes']}.")

    def deployed(self) -> Deployed:
        """See `Contestant`; a stack's first resources wait for the last one of those that it reads."""
        graph = dependencies()
        resources = {project: self._checkout.resources(project) for project in graph}
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
        return Deployed(self._begun, finished, needs)


def _name(urn: str) -> str:
    """Return what a resource is called in figures: ``messaging main-queue``."""
    _, project, _, name = urn.split("::")
    return f"{project} {name}"


@dataclass
class Module:
    """One module of Terraform's."""

    name: str
    folder: Path
    content: Mapping[str, object]
    """In Terraform's JSON syntax."""
    emulator: Emulator = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.emulator = Emulator(self.folder / "emulator", free_port())
        (self.folder / "main.tf.json").write_text(json.dumps(self.content, indent=2), encoding="utf-8")
        with ZipFile(self.folder / "code.zip", "w") as code:
            for source in (ROOT / "lambda_code").glob("*.py"):
                code.write(source, source.name)

    def prepare(self) -> None:
        """Start the emulator, and have Terraform find the provider."""
        self._mirror()
        self.emulator.start()
        self._terraform("init")

    def run(self, operation: str) -> None:
        """See `Contestant`."""
        if operation == "deploy":
            self._begun = time.time()
            said = self._terraform("apply", "-auto-approve", "-json")
            (self.folder / "applied.json").write_text(said, encoding="utf-8")
        elif operation == "preview":
            self._terraform("plan", "-detailed-exitcode")  # which is 2 where there is a change
        else:
            self._terraform("destroy", "-auto-approve")

    def deployed(self) -> Deployed:
        """See `Contestant`."""
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
        return Deployed(self._begun, finished, needs)

    def _mirror(self) -> None:
        """Let Terraform take the provider from where we do; where it is nowhere on this machine, it is downloaded."""
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
    """Return the address of a resource without that of an instance of it."""
    return address.partition("[")[0]


def critical_path(deployed: Deployed) -> list[tuple[str, float]]:
    """Return the resources that nothing could have been finished without, in order, each with its seconds.

    They are counted from when the last resource that it waits for was finished, or from the start of the command.
    """
    path = []
    resource = max(deployed.finished, key=deployed.finished.__getitem__)
    while True:
        needs = deployed.needs[resource]
        before = max(needs, key=deployed.finished.__getitem__) if needs else None
        since = deployed.finished[before] if before else deployed.begun
        path.insert(0, (resource, deployed.finished[resource] - since))
        if before is None:
            return path
        resource = before


def run(console: Console) -> None:
    """Measure, and print medians, ratios and the critical paths.

    Raises:
        UserError: Something can't be deployed.
    """
    with tempfile.TemporaryDirectory() as folder:
        stacks = Stacks(Path(folder) / "stacks")
        contestants: list[Contestant] = [stacks]
        try:
            if shutil.which("terraform"):
                usual, same = peer.module(same_graph=False), peer.module(same_graph=True)
                contestants.append(Module("one module", Path(folder) / "peer", usual))
                contestants.append(Module("one module, same graph", Path(folder) / "same", same))
            else:
                console.print(
                    "terraform is not on PATH, so there is no peer: these are the stacks' own figures only.\n"
                )
            _compare(console, contestants)
            _print_stacks(console, stacks)
        finally:
            for contestant in contestants:
                contestant.emulator.stop()


def _compare(console: Console, contestants: list[Contestant]) -> None:
    for contestant in contestants:
        contestant.prepare()
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    paths = {}
    for number in range(ROUNDS):
        for contestant in contestants:
            for operation in OPERATIONS:
                console.print(f"Round {number + 1} of {ROUNDS}: {contestant.name}, {operation}", style="dim")
                begun = time.monotonic()
                contestant.run(operation)
                taken[contestant.name, operation].append(time.monotonic() - begun)
                if operation == "deploy":
                    paths[contestant.name] = critical_path(contestant.deployed())
    ours, *others = (contestant.name for contestant in contestants)
    rows = []
    for operation in OPERATIONS:
        row = [operation, seconds(taken[ours, operation])]
        for other in others:
            ratio = median(taken[ours, operation]) / median(taken[other, operation])
            row += [seconds(taken[other, operation]), f"{ratio:.2f}"]
        rows.append(row)
    head = ["", ours, *(name for other in others for name in (other, "ratio"))]
    table(console, f"Medians of {ROUNDS} rounds, in turn", head, rows)
    for name, path in paths.items():
        steps = [(resource, f"{step:.2f}") for resource, step in path]
        total = sum(step for _, step in path)
        table(console, f"Critical path of {name}, last round", ["resource", "seconds"], [*steps, ("", f"{total:.2f}")])


def _print_stacks(console: Console, stacks: Stacks) -> None:
    rows = [
        (project, *(seconds(stacks.seconds[operation][project]) for operation in OPERATIONS))
        for project in dependencies()
    ]
    table(console, "Each stack", ["stack", *OPERATIONS], rows)
