"""The AWS types that the registry-built plugin knows, and what they are called on either side of it.

Programs speak the names of `pulumi_aws` ("SDK" below). Behind the plugin stands Pulumi's dynamic Terraform bridge,
which derives its names from Terraform's alone. Almost all names follow from one another by rule; what does not stands
in the tables here, as read in the sources of `pulumi_aws` 7.51.1 and in the bridge's own schema.
"""

from __future__ import annotations

from xfarm.errors import UserError

RESOURCES = (
    "aws_cloudwatch_log_group",
    "aws_cloudwatch_metric_alarm",
    "aws_iam_role",
    "aws_iam_role_policy",
    "aws_iam_role_policy_attachment",
    "aws_lambda_event_source_mapping",
    "aws_lambda_function",
    "aws_s3_bucket",
    "aws_s3_bucket_notification",
    "aws_s3_bucket_policy",
    "aws_s3_bucket_public_access_block",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_sns_topic",
    "aws_sns_topic_policy",
    "aws_sns_topic_subscription",
    "aws_sqs_queue",
    "aws_sqs_queue_policy",
    "aws_sqs_queue_redrive_allow_policy",
    "aws_sqs_queue_redrive_policy",
)
"""The resources, by their Terraform names: a line more here makes one more type available."""

FUNCTIONS = (
    "aws_caller_identity",
    "aws_iam_policy_document",
    "aws_region",
)
"""The data sources, by their Terraform names."""

_SDK_TOKENS = {
    "aws_caller_identity": "aws:index/getCallerIdentity:getCallerIdentity",
    "aws_region": "aws:index/getRegion:getRegion",
    "aws_sqs_queue_redrive_allow_policy": "aws:sqs/redriveAllowPolicy:RedriveAllowPolicy",
    "aws_sqs_queue_redrive_policy": "aws:sqs/redrivePolicy:RedrivePolicy",
}
"""The SDK's tokens that don't follow from the Terraform name: see `_sdk_token`."""

_SDK_PROPERTIES = {
    "aws_cloudwatch_metric_alarm": {"name": "alarmName"},
    "aws_lambda_function": {"code": "filename", "name": "functionName"},
    "aws_region": {"region": "name"},
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


def _camel(words: list[str]) -> str:
    return words[0] + "".join(word.title() for word in words[1:])


def _token(module: str, member: str, *, function: bool) -> str:
    upper = member[0].upper() + member[1:]
    return f"aws:{module}/get{upper}:get{upper}" if function else f"aws:{module}/{member}:{upper}"


def _sdk_token(terraform: str, *, function: bool) -> str:
    """aws_s3_bucket_policy -> aws:s3/bucketPolicy:BucketPolicy."""
    _, module, *member = terraform.split("_")
    return _SDK_TOKENS.get(terraform) or _token(module, _camel(member), function=function)


def _bridge_token(terraform: str, *, function: bool) -> str:
    """aws_s3_bucket_policy -> aws:index/s3BucketPolicy:S3BucketPolicy."""
    return _token("index", _camel(terraform.split("_")[1:]), function=function)


BY_SDK_TOKEN = {_sdk_token(name, function=False): name for name in RESOURCES} | {
    _sdk_token(name, function=True): name for name in FUNCTIONS
}


def terraform_name(token: str) -> str:
    """The Terraform name of the SDK's type or function `token`.

    Raises:
        UserError: The type is not in this module's table.
    """
    try:
        return BY_SDK_TOKEN[token]
    except KeyError:
        message = (
            f"This checkout's AWS plugin doesn't know {token}: "
            f"add its Terraform name to RESOURCES or FUNCTIONS in xfarm/toolchain/aws_types.py."
        )
        raise UserError(message) from None


def bridge_token(token: str) -> str:
    """The bridge's token for the SDK's `token`; Pulumi's own (`pulumi:...`) stay as they are.

    Raises:
        UserError: The type is not in this module's table.
    """
    if token.startswith("pulumi:"):
        return token
    terraform = terraform_name(token)
    return _bridge_token(terraform, function=terraform in FUNCTIONS)


def bridge_urn(urn: str) -> str:
    """`urn` with the last type in its chain of types (parent$child) as the bridge calls it.

    Raises:
        UserError: The type is not in this module's table.
    """
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
    if token.startswith("pulumi:"):
        return False
    terraform = terraform_name(token)
    return terraform in RESOURCES and terraform != "aws_s3_bucket" and not terraform.startswith("aws_iam_")


def mirrors(token: str) -> set[str]:
    """The properties of the SDK's resource that change though nobody changes it: see `_MIRRORS`."""
    return set() if token.startswith("pulumi:") else _MIRRORS.get(terraform_name(token), set())
