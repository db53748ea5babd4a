"""Runs a stack's program under Pulumi's mocks, and returns what it declares."""

import asyncio
import contextlib
import gc
import json
import runpy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml
from google.protobuf import empty_pb2, json_format
from pulumi.runtime import mocks, run_in_stack, set_all_config
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import SETTINGS, set_root_resource

from xfarm.paths import STACKS

ACCOUNT = "123456789012"

Properties = dict[str, Any]


@dataclass
class Program:
    """What a stack's program has declared."""

    resources: dict[str, Properties] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    dependencies: dict[str, list[str]] = field(default_factory=dict)
    protected: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    outputs: Properties = field(default_factory=dict)

    def document(self, resource: str, property_name: str) -> Any:  # noqa: ANN401 - any JSON
        """Return a property that is a JSON document, parsed."""
        return json.loads(self.resources[resource][property_name])


class Answers:
    """The mocks' responses to a program."""

    account = ACCOUNT
    partition = "aws"

    def outputs(self, args: mocks.MockResourceArgs) -> Properties:
        """Return the properties of a resource."""
        name = args.inputs.get("name", args.inputs.get("bucket", args.name))
        return {
            "arn": f"arn:{self.partition}:{args.typ.split(':')[1].split('/')[0]}:::{name}",
            "url": f"https://sqs.example/{name}",
            "uuid": args.name,
            **args.inputs,
        }


class _Mocks(mocks.Mocks):
    def __init__(self, program: Program, upstream: dict[str, Properties], answers: Answers) -> None:
        self._program = program
        self._upstream = upstream
        self._answers = answers

    def call(self, args: mocks.MockCallArgs) -> tuple[Properties, list[tuple[str, str]]]:
        identity = {"accountId": self._answers.account}
        answers: dict[str, Properties] = {
            "aws:index/getCallerIdentity:getCallerIdentity": identity,
            "aws:index/getPartition:getPartition": {"partition": self._answers.partition},
        }
        return answers[args.token], []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, Properties]:
        if args.typ == "pulumi:pulumi:StackReference":
            self._program.references.append(args.inputs["name"])
            project = args.inputs["name"].split("/")[1]
            return args.name, {**args.inputs, "outputs": self._upstream.get(project, {}), "secretOutputNames": []}
        self._program.resources[args.name] = args.inputs
        self._program.types[args.name] = args.typ
        return args.name, self._answers.outputs(args)


class _Monitor(mocks.MockMonitor):
    def __init__(self, program: Program, mocked: _Mocks) -> None:
        super().__init__(mocked)
        self._program = program

    def RegisterResource(  # noqa: N802 - gRPC's name
        self, request: resource_pb2.RegisterResourceRequest
    ) -> resource_pb2.RegisterResourceResponse:
        self._program.dependencies[request.name] = sorted(urn.rpartition("::")[2] for urn in request.dependencies)
        if request.protect:
            self._program.protected.append(request.name)
        return super().RegisterResource(request)

    def RegisterResourceOutputs(  # noqa: N802 - gRPC's name
        self, request: resource_pb2.RegisterResourceOutputsRequest
    ) -> empty_pb2.Empty:
        self._program.outputs.update(json_format.MessageToDict(request.outputs))
        return empty_pb2.Empty()


def run(  # noqa: PLR0913 - most are optional
    project: str,
    settings: dict[str, str] | None = None,
    *,
    upstream: dict[str, Properties] | None = None,
    preview: bool = False,
    answers: Answers | None = None,
    stack: str = "dev",
) -> Program:
    """Run the program of a project.

    Args:
        project: The project's name.
        settings: The settings that differ from the defaults in its `Pulumi.yaml`, without the project's prefix.
        upstream: The outputs of each upstream project; none for a project that was never deployed.
        preview: Whether this is a preview, not an update.
        answers: The mocks' responses, if they differ from the default.
        stack: The stack's name.
    """
    program = Program()
    mocked = _Mocks(program, upstream or {}, answers or Answers())
    values = _defaults(project) | (settings or {})

    def program_file() -> None:
        runpy.run_path("__main__.py")

    async def execute() -> None:
        mocks.set_mocks(
            mocks=mocked,
            monitor=_Monitor(program, mocked),
            project=project,
            stack=stack,
            organization="organization",
            preview=preview,
        )
        # The mocks create a stack, which the program's stack replaces.
        set_root_resource(None)  # pyrefly: ignore[bad-argument-type]
        set_all_config({f"{project}:{key}": value for key, value in values.items()})
        await run_in_stack(program_file)

    gc.freeze()  # the collection at the end is of what comes from now on
    try:
        with contextlib.chdir(STACKS / project):
            asyncio.run(execute())
    finally:
        SETTINGS.outputs.clear()  # pyrefly: ignore[missing-attribute]
        # The SDK leaves futures behind. If they are collected while pytest rewrites a module, they break its parser.
        gc.collect()
    return program


@cache
def _defaults(project: str) -> dict[str, str]:
    declared = yaml.safe_load((STACKS / project / "Pulumi.yaml").read_text(encoding="utf-8"))["config"]
    return {key: str(setting["default"]) for key, setting in declared.items()}


STORAGE = {
    "bucket_name": "xfarm-bucket-01",
    "bucket_arn": "arn:aws:s3:::xfarm-bucket-01",
    "input_prefix": "inputs/",
    "output_prefix": "outputs/",
}
MESSAGING = {
    "main_queue_arn": f"arn:aws:sqs:eu-west-1:{ACCOUNT}:xFarmMainQueue",
    "main_queue_url": f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/xFarmMainQueue",
    "dead_letter_queue_arn": f"arn:aws:sqs:eu-west-1:{ACCOUNT}:xFarmDeadLetterSqs",
    "dead_letter_queue_url": f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/xFarmDeadLetterSqs",
    "alarm_topic_arn": f"arn:aws:sns:eu-west-1:{ACCOUNT}:xFarmAlarms",
    "alarm_email": "",
    "consumer_timeout_seconds": 60,
}
UPSTREAM = {"storage": STORAGE, "messaging": MESSAGING}
