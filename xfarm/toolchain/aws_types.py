"""The names of AWS types in `pulumi_aws`, in Terraform and in the bridge, and the types in use.

Programs and the state use the names of `pulumi_aws` ("SDK" below). Pulumi's dynamic Terraform bridge derives its names
from Terraform's. Almost all names can be converted by rule. The tables here contain the exceptions, from the sources of
`pulumi_aws` 7.51.1 and the bridge's schema.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from xfarm.errors import UserError
from xfarm.toolchain import terraform

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_TERRAFORM_NAMES: Final = {
    "aws:sqs/redriveAllowPolicy:RedriveAllowPolicy": "aws_sqs_queue_redrive_allow_policy",
    "aws:sqs/redrivePolicy:RedrivePolicy": "aws_sqs_queue_redrive_policy",
}
"""The Terraform names that don't follow from the SDK's token by rule: see `terraform_name`."""

_SDK_PROPERTIES: Final = {
    "aws_cloudwatch_metric_alarm": {"name": "alarmName"},
    "aws_lambda_function": {"code": "filename", "name": "functionName"},
    "aws_sns_topic_subscription": {"topic": "topicArn"},
}
"""The SDK's name of a property -> the bridge's, if they differ."""

_PHYSICAL_NAMES: Final = {
    "aws_cloudwatch_metric_alarm": "name",
    "aws_lambda_function": "name",
    "aws_s3_bucket": "bucket",
}
"""The property with the resource's physical name in AWS, for types that the bridge doesn't name automatically.

The bridge generates only an optional `name`. In `pulumi_aws`, these properties are optional, too.
"""

_MIRRORS: Final = {
    "aws_iam_role": {"inlinePolicies", "managedPolicyArns"},
    "aws_lambda_event_source_mapping": {"lastModified", "lastProcessingResult"},
    "aws_s3_bucket": {"policy", "serverSideEncryptionConfiguration"},
    "aws_sns_topic": {"policy"},
    "aws_sqs_queue": {"policy", "redriveAllowPolicy", "redrivePolicy"},
}
"""The properties of a resource that show other resources, created after it, or its traffic."""

_RESOURCE: Final = re.compile(r"\b([a-z0-9]+)_?\.([A-Z]\w*)")
_FUNCTION: Final = re.compile(r"\b([a-z0-9]+)_?\.(get_\w+?)(?:_output)?\(")
_IN_STATE: Final = re.compile(r'"type":\s*"(aws:[\w/]+:\w+)"')


def types_in_use(*folders: Path) -> set[str]:
    """Return the tokens of all types and functions in the programs' sources and in the local state.

    The bridge needs them before the first program runs. In the sources, everything that looks like a class or function
    of `pulumi_aws` counts, because the bridge ignores names that the provider doesn't have. The state has the types
    that were removed from the programs but not yet from AWS.

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
    """Yield the state files, if the backend is a folder ("Managing state and backends" in Pulumi's documentation)."""
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
    """Return whether the token is a function's, such as `aws:index/getRegion:getRegion`."""
    return token.rpartition(":")[2].startswith("get")


def terraform_name(token: str) -> str:
    """Return the Terraform name of a token: `aws:s3/bucketPolicy:BucketPolicy` -> `aws_s3_bucket_policy`."""
    if token in _TERRAFORM_NAMES:
        return _TERRAFORM_NAMES[token]
    module, _, member = token.removeprefix("aws:").partition("/")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member.partition(":")[0]).lower()
    name = words.removeprefix("get_") if _is_function(token) else words
    return f"aws_{name}" if module == "index" else f"aws_{module}_{name}"


def require_known(token: str, known: Collection[str]) -> None:
    """Check that the bridge has loaded a type or function.

    Raises:
        UserError: The type or function was not found in the programs' sources.
    """
    if token.startswith("aws:") and token not in known:
        raise UserError(
            f"the registry-built AWS plugin did not find {token} in the sources of the programs: "
            f"write it as aws.MODULE.CLASS or aws.MODULE.get_FUNCTION, after `import pulumi_aws as aws`."
        )


def not_in_terraform(token: str) -> str:
    """Return the error for a type or function that Terraform's provider doesn't have under the derived name."""
    return (
        f"Terraform's AWS provider {terraform.VERSION} has no {terraform_name(token)}, the name derived from {token}: "
        f"if it has another name there, add a line to _TERRAFORM_NAMES in xfarm/toolchain/aws_types.py."
    )


def not_a_property(token: str) -> str:
    """Return the hint for the error about a property that Terraform's provider doesn't have."""
    return (
        f"If the property has another name in pulumi_aws, or is optional there, add a line for "
        f"{terraform_name(token)} to _SDK_PROPERTIES or _PHYSICAL_NAMES in xfarm/toolchain/aws_types.py."
    )


def bridge_token(token: str) -> str:
    """Return the bridge's token: `aws:s3/bucketPolicy:BucketPolicy` -> `aws:index/s3BucketPolicy:S3BucketPolicy`.

    Pulumi's own tokens (`pulumi:...`) are returned unchanged.
    """
    if token.startswith("pulumi:"):
        return token
    name = terraform_name(token).removeprefix("aws_")
    member = _camel(f"get_{name}" if _is_function(token) else name)
    return _token("index", member if _is_function(token) else member[0].upper() + member[1:])


def bridge_urn(urn: str) -> str:
    """Return the URN with the bridge's token for the last type in its chain of types (`parent$child`)."""
    head, types, name = _split_urn(urn)
    *parents, own = types.split("$")
    return "::".join((head, "$".join((*parents, bridge_token(own))), name))


def urn_token(urn: str) -> str:
    """Return the token of the resource itself, without those of its parents."""
    return _split_urn(urn)[1].rpartition("$")[2]


def _split_urn(urn: str) -> tuple[str, str, str]:
    """Split `urn:pulumi:STACK::PROJECT::TYPES::NAME` before TYPES and NAME; a name may contain `::`."""
    stack, project, types, name = urn.split("::", 3)
    return f"{stack}::{project}", types, name


def bridge_properties(token: str) -> dict[str, str]:
    """Return the SDK's property names -> the bridge's, if they differ, of a type or function."""
    return {} if token.startswith("pulumi:") else _SDK_PROPERTIES.get(terraform_name(token), {})


def physical_name(token: str) -> str | None:
    """Return the SDK's property that this plugin fills in if the program gives no name, or None."""
    return None if token.startswith("pulumi:") else _PHYSICAL_NAMES.get(terraform_name(token))


def has_own_region(token: str) -> bool:
    """Return whether the SDK's resource has a `region` that it lacks in Terraform's provider 5 (S3 buckets have it)."""
    if token.startswith("pulumi:") or _is_function(token):
        return False
    terraform_type = terraform_name(token)
    return terraform_type != "aws_s3_bucket" and not terraform_type.startswith("aws_iam_")


def mirrors(token: str) -> set[str]:
    """Return the properties of a resource that change without an update of it: see `_MIRRORS`."""
    return set() if token.startswith("pulumi:") else _MIRRORS.get(terraform_name(token), set())
