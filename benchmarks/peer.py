"""The peer that the stacks are compared with: the same resources as one module in Terraform's JSON syntax.

The stacks' programs run under Pulumi's mocks, which return Terraform expressions instead of names and ARNs. So the
properties of each resource refer to other resources as they do in Terraform.
"""

import re
from typing import Any, Final

from pulumi import Archive
from pulumi.runtime.mocks import MockResourceArgs

from tests.support import stack_program
from tests.support.stack_program import Program, Properties
from xfarm.orchestrator.graph import dependencies
from xfarm.toolchain import aws_types, terraform

Resources = dict[str, dict[str, Properties]]
"""Terraform's resources: type -> name -> arguments."""

_COMPUTED: Final = ("arn", "id", "uniqueId", "url", "uuid")
_REDRIVE: Final = "aws_sqs_queue_redrive_policy"


class _Expressions(stack_program.Answers):
    account = "${data.aws_caller_identity.current.account_id}"
    partition = "${data.aws_partition.current.partition}"

    def __init__(self, project: str) -> None:
        self._project = project

    def outputs(self, args: MockResourceArgs) -> Properties:
        resource = _address(self._project, args.name, args.typ)
        names = aws_types.bridge_properties(args.typ)
        texts = [key for key, value in args.inputs.items() if isinstance(value, str)]
        return args.inputs | {key: f"${{{resource}.{_snake(names.get(key, key))}}}" for key in (*texts, *_COMPUTED)}


def module(*, same_graph: bool) -> dict[str, Any]:
    """Return the module.

    Args:
        same_graph: Whether the queues are created in parallel and connected afterwards, as in the stacks. Otherwise the
            redrive policy is a property of the main queue, as in the provider's documentation.
    """
    resources: Resources = {}
    outputs: dict[str, Properties] = {}
    for project in dependencies():
        program = stack_program.run(project, upstream=outputs, answers=_Expressions(project))
        outputs[project] = program.outputs
        for name, token in program.types.items():
            of_type = resources.setdefault(aws_types.terraform_name(token), {})
            of_type[f"{project}-{name}"] = _arguments(project, name, program)
    if not same_graph:
        for policy in resources.pop(_REDRIVE).values():
            queue = policy["queue_url"].split(".")[1]
            resources["aws_sqs_queue"][queue]["redrive_policy"] = policy["redrive_policy"]
    return {
        "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws", "version": terraform.VERSION}}},
        "provider": {"aws": {"s3_use_path_style": True}},
        "variable": {"code": {"description": "The zip of lambda_code/.", "type": "string"}},
        "data": {"aws_caller_identity": {"current": {}}, "aws_partition": {"current": {}}},
        "resource": resources,
    }


def _arguments(project: str, name: str, program: Program) -> Properties:
    arguments: Properties = {}
    names = aws_types.bridge_properties(program.types[name])
    properties = program.resources[name]
    # Unlike the AWS plugin, Terraform gives these no name.
    if (physical_name := aws_types.physical_name(program.types[name])) and physical_name not in properties:
        properties = properties | {physical_name: name}
    for key, value in properties.items():
        if isinstance(value, Archive):
            arguments |= {"filename": "${var.code}", "source_code_hash": "${filebase64sha256(var.code)}"}
        else:
            # In the bridge, blocks that can be repeated have a plural name.
            block = isinstance(value, list) and isinstance(value[0], dict)
            arguments[_snake(names.get(key, key)).removesuffix("s" if block else "")] = _plain(value)
    needed = [other for other in program.dependencies[name] if other in program.types]
    return arguments | {"depends_on": [_address(project, other, program.types[other]) for other in needed]}


def _address(project: str, name: str, token: str) -> str:
    return f"{aws_types.terraform_name(token)}.{project}-{name}"


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a value with its properties named as in Terraform; keys with a capital are those of maps."""
    if isinstance(value, dict):
        return {_snake(key) if key[0].islower() else key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
