"""Reads a stack's settings, and refuses values that AWS would refuse only in the middle of a deployment.

The type, default and description of a setting are in its project's `Pulumi.yaml`, its value for a stack in
`Pulumi.<stack>.yaml`. The engine checks the types ("Project-level configuration" in Pulumi's documentation).
"""

import re
from collections.abc import Collection

import pulumi


def whole_number(key: str, *, at_least: int, at_most: int) -> int:
    """Return the setting `key`, a whole number.

    Raises:
        pulumi.RunError: It is outside the limits.
    """
    value = pulumi.Config().require_int(key)
    if not at_least <= value <= at_most:
        raise _refusal(key, value, f"a whole number from {at_least} to {at_most}")
    return value


def maximum(key: str, *, at_least: int, at_most: int) -> int | None:
    """Return the setting `key`, a whole number, or None if it is 0, which means no maximum.

    Raises:
        pulumi.RunError: It is outside the limits.
    """
    value = pulumi.Config().require_int(key)
    if value and not at_least <= value <= at_most:
        raise _refusal(key, value, f"a whole number from {at_least} to {at_most}, or 0 for no maximum")
    return value or None


def refuse(*keys: str, instead: str) -> None:
    """Refuse settings that people may expect in this project; Pulumi ignores settings that no `Pulumi.yaml` declares.

    Args:
        keys: The settings.
        instead: The setting to use instead.

    Raises:
        pulumi.RunError: One of them is set.
    """
    for key in keys:
        if pulumi.Config().get(key) is not None:
            name = f"{pulumi.get_project()}:{key}"
            raise pulumi.RunError(
                f"{name} is not a setting: remove it from Pulumi.{pulumi.get_stack()}.yaml or with "
                f"'pulumi config rm {name}', and set {instead}, in the project {instead.partition(':')[0]}."
            )


def choice(key: str, choices: Collection[str]) -> str:
    """Return the setting `key`, one of `choices`.

    Raises:
        pulumi.RunError: It is not one of them.
    """
    value = pulumi.Config().require(key)
    if value not in choices:
        raise _refusal(key, value, " or ".join(choices))
    return value


def bucket_name(key: str) -> str:
    """Return the setting `key`, a bucket name ("General purpose bucket naming rules", Amazon S3 User Guide).

    Raises:
        pulumi.RunError: S3 does not allow the name.
    """
    value = pulumi.Config().require(key)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
        raise _refusal(key, value, "3 to 63 lower-case letters, digits and hyphens, no hyphen first or last")
    return value


def kms_keys(key: str) -> list[str]:
    """Return the setting `key`, a list of ARNs of KMS keys.

    The ARN of an alias is refused, because in a policy it does not allow the use of the key ("Controlling access to
    aliases", AWS KMS Developer Guide).

    Raises:
        pulumi.RunError: One of them is not the ARN of a KMS key.
    """
    values = pulumi.Config().require_object(key)
    for value in values:
        if not re.fullmatch(r"arn:aws(-[a-z]+)*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+", value):
            raise _refusal(key, value, "the ARN of a KMS key, such as 'arn:PARTITION:kms:REGION:ACCOUNT:key/ID'")
    return values


def folders(*keys: str) -> tuple[str, ...]:
    """Return the settings `keys`, key prefixes of which none is inside another.

    If the output prefix were inside the input prefix, each result would be a new file, and so on without end.

    Raises:
        pulumi.RunError: A prefix does not end in a slash, or is inside another one.
    """
    values = tuple(pulumi.Config().require(key) for key in keys)
    for key, value in zip(keys, values, strict=True):
        if not re.fullmatch(r"[^/].*/", value):
            raise _refusal(key, value, "a folder such as 'inputs/', ending in a slash and not starting with one")
        if any(value.startswith(other) for other in values if other is not value):
            raise _refusal(key, value, "a folder that is not inside another one of this stack's")
    return values


def _refusal(key: str, value: object, wanted: str) -> pulumi.RunError:
    name = f"{pulumi.get_project()}:{key}"
    return pulumi.RunError(
        f"{name} is {value!r} and must be {wanted}: set it in Pulumi.{pulumi.get_stack()}.yaml "
        f"or with 'pulumi config set {name} VALUE'."
    )
