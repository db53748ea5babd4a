"""What AWS types are called by `pulumi_aws`, by Terraform and by the bridge, and which of them are in use.

Programs and the state have the names of `pulumi_aws` ("SDK" below). Pulumi's dynamic Terraform bridge derives its names
from Terraform's. Almost all names follow from one another by rule. The exceptions are in the tables here, as read in
the sources of `pulumi_aws` 7.51.1 and in the bridge's own schema.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from xfarm.errors import UserError
from xfarm.toolchain import terraform

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_TERRAFORM_NAMES = {
    "aws:sqs/redriveAllowPolicy:RedriveAllowPolicy": "aws_sqs_queue_redrive_allow_policy",
    "aws:sqs/redrivePolicy:RedrivePolicy": "aws_sqs_queue_redrive_policy",
}
"""The Terraform names that don't follow from the SDK's token: see `terraform_name`."""

_SDK_PROPERTIES = {
    "aws_cloudwatch_metric_alarm": {"name": "alarmName"},
    "aws_lambda_function": {"code": "filename", "name": "functionName"},
    "aws_sns_topic_subscription": {"topic": "topicArn"},
}
"""The SDK's name of a property -> the bridge's, where the two differ."""

_PHYSICAL_NAMES = {
    "aws_cloudwatch_metric_alarm": "name",
    "aws_lambda_function": "name",
    "aws_s3_bucket": "bucket",
}
"""The property that is the resource's physical name in AWS, where the bridge doesn't fill it in by itself.

The bridge names whatever has an optional `name`; `pulumi_aws` lets these be left out, too.
"""


_MIRRORS = {
    "aws_iam_role": {"inlinePolicies", "managedPolicyArns"},
    "aws_lambda_event_source_mapping": {"lastModified", "lastProcessingResult"},
    "aws_s3_bucket": {"policy", "serverSideEncryptionConfiguration"},
    "aws_sns_topic": {"policy"},
    "aws_sqs_queue": {"policy", "redriveAllowPolicy", "redrivePolicy"},
}
"""What a resource shows of others that are made after it, and of its own traffic."""


_RESOURCE = re.compile(r"\b([a-z0-9]+)_?\.([A-Z]\w*)")
_FUNCTION = re.compile(r"\b([a-z0-9]+)_?\.(get_\w+?)(?:_output)?\(")
_IN_STATE = re.compile(r'"type":\s*"(aws:[\w/]+:\w+)"')


def types_in_use(*folders: Path) -> set[str]:
    """Return the tokens of all types and functions that programs may ask for, and of those in the local state.

    The bridge has to know them before the first program runs. So they are read from the sources: whatever may be a
    `pulumi_aws` class or function counts as one, as the bridge ignores names that the provider doesn't have. The
    state has those that were removed from the programs and are still to be deleted.

    Args:
        folders: The folders with the sources of the programs.
    """
    found = set()
    for text in (source.read_text(encoding="utf-8") for folder in folders for source in folder.rglob("*.py")):
        found |= {_token(module, name) for module, name in _RESOURCE.findall(text)}
        found |= {_token(module, _camel(name)) for module, name in _FUNCTION.findall(text)}
    for state in _local_states():
        found.update(_IN_STATE.findall(state.read_text(encoding="utf-8")))
    return found


def _local_states() -> Iterator[Path]:
    """Yield the files of a state in a folder ("Managing state and backends" in Pulumi's documentation)."""
    backend = urlsplit(os.environ.get("PULUMI_BACKEND_URL", ""))
    if backend.scheme == "file":
        yield from (Path(url2pathname(backend.path)) / ".pulumi" / "stacks").rglob("*.json")


def _camel(name: str) -> str:
    first, *words = name.split("_")
    return first + "".join(word.capitalize() for word in words)


def _token(module: str, member: str) -> str:
    """Return the token of a class ("Bucket") or function ("getRegion") in a module of the SDK, or in `aws` itself."""
    module = "index" if module == "aws" else module
    return f"aws:{module}/{member[0].lower()}{member[1:]}:{member}"


def _is_function(token: str) -> bool:
    """Return whether the token is that of a function: `aws:index/getRegion:getRegion`."""
    return token.rpartition(":")[2].startswith("get")


def terraform_name(token: str) -> str:
    """Return the Terraform name of a type or function: aws:s3/bucketPolicy:BucketPolicy -> aws_s3_bucket_policy."""
    if token in _TERRAFORM_NAMES:
        return _TERRAFORM_NAMES[token]
    module, _, member = token.removeprefix("aws:").partition("/")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member.partition(":")[0]).lower()
    name = words.removeprefix("get_") if _is_function(token) else words
    return f"aws_{name}" if module == "index" else f"aws_{module}_{name}"


def require_known(token: str, known: Collection[str]) -> None:
    """Make sure that the bridge was told to include a type or function.

    Raises:
        UserError: It was not, as no program names it in a way that can be found.
    """
    if token.startswith("aws:") and token not in known:
        raise UserError(
            f"{token} is not among the types that the registry-built AWS plugin has found in the programs: "
            f"write it as aws.MODULE.CLASS or aws.MODULE.get_FUNCTION, after `import pulumi_aws as aws`."
        )


def not_in_terraform(token: str) -> str:
    """Return the message about a type or function that Terraform's provider doesn't have by the derived name."""
    return (
        f"Terraform's AWS provider {terraform.VERSION} has no {terraform_name(token)}, the name derived from {token}: "
        f"if it has another name there, add a line to _TERRAFORM_NAMES in xfarm/toolchain/aws_types.py."
    )


def not_a_property(token: str) -> str:
    """Return what to add to the message about a property that Terraform's provider doesn't have."""
    return (
        f"If pulumi_aws calls the property something else, or lets it be left out, add a line for "
        f"{terraform_name(token)} to _SDK_PROPERTIES or _PHYSICAL_NAMES in xfarm/toolchain/aws_types.py."
    )


def bridge_token(token: str) -> str:
    """Return the bridge's token: aws:s3/bucketPolicy:BucketPolicy -> aws:index/s3BucketPolicy:S3BucketPolicy.

    Pulumi's own (`pulumi:...`) stay as they are.
    """
    if token.startswith("pulumi:"):
        return token
    name = terraform_name(token).removeprefix("aws_")
    member = _camel(f"get_{name}" if _is_function(token) else name)
    return _token("index", member if _is_function(token) else member[0].upper() + member[1:])


def bridge_urn(urn: str) -> str:
    """`urn` with the last type in its chain of types (parent$child) as the bridge calls it."""
    head, types, name = _split_urn(urn)
    *parents, own = types.split("$")
    return "::".join((head, "$".join((*parents, bridge_token(own))), name))


def urn_token(urn: str) -> str:
    """The resource's own type, as it stands in `urn`."""
    return _split_urn(urn)[1].rpartition("$")[2]


def _split_urn(urn: str) -> tuple[str, str, str]:
    """urn:pulumi:STACK::PROJECT::TYPES::NAME, where a name may hold "::" of its own."""
    stack, project, types, name = urn.split("::", 3)
    return f"{stack}::{project}", types, name


def bridge_properties(token: str) -> dict[str, str]:
    """The SDK's property names -> the bridge's, for the type or function `token`, where they differ."""
    return {} if token.startswith("pulumi:") else _SDK_PROPERTIES.get(terraform_name(token), {})


def physical_name(token: str) -> str | None:
    """The SDK's property that this plugin has to fill in when the program gives no name."""
    return None if token.startswith("pulumi:") else _PHYSICAL_NAMES.get(terraform_name(token))


def has_own_region(token: str) -> bool:
    """Whether the SDK's resource has a `region` that Terraform's provider 5 doesn't know (S3 buckets always had)."""
    if token.startswith("pulumi:") or _is_function(token):
        return False
    terraform_type = terraform_name(token)
    return terraform_type != "aws_s3_bucket" and not terraform_type.startswith("aws_iam_")


def mirrors(token: str) -> set[str]:
    """The properties of the SDK's resource that change though nobody changes it: see `_MIRRORS`."""
    return set() if token.startswith("pulumi:") else _MIRRORS.get(terraform_name(token), set())
