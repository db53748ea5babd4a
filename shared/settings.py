"""Reads a stack's settings, refusing what AWS would refuse only halfway through a deployment.

A setting's type, default and description stand in its project's ``Pulumi.yaml``; its value for one stack in
``Pulumi.<stack>.yaml``. The engine checks the types ("Project-level configuration" in Pulumi's documentation).
"""

import re
from collections.abc import Collection

import pulumi


def whole_number(key: str, *, at_least: int, at_most: int) -> int:
    """Return the whole number that ``key`` is set to.

    Raises:
        pulumi.RunError: It is outside the limits.
    """
    value = pulumi.Config().require_int(key)
    if not at_least <= value <= at_most:
        raise _refusal(key, value, f"a whole number from {at_least} to {at_most}")
    return value


def maximum(key: str, *, at_least: int, at_most: int) -> int | None:
    """Return the maximum that ``key`` is set to, or None where it is 0: no maximum.

    Raises:
        pulumi.RunError: It is outside the limits.
    """
    value = pulumi.Config().require_int(key)
    if value and not at_least <= value <= at_most:
        raise _refusal(key, value, f"a whole number from {at_least} to {at_most}, or 0 for no maximum")
    return value or None


def refuse(*keys: str, instead: str) -> None:
    """Refuse the settings ``keys``, which people look for in this project: Pulumi ignores those that it doesn't know.

    Raises:
        pulumi.RunError: One of them is set; the text names the setting that is in charge.
    """
    for key in keys:
        if pulumi.Config().get(key) is not None:
            name = f"{pulumi.get_project()}:{key}"
            raise pulumi.RunError(
                f"{name} is no setting: remove it from Pulumi.{pulumi.get_stack()}.yaml or with "
                f"'pulumi config rm {name}', and set {instead}, in the project {instead.partition(':')[0]}."
            )


def choice(key: str, choices: Collection[str]) -> str:
    """Return which of ``choices`` the setting ``key`` is.

    Raises:
        pulumi.RunError: It is none of them.
    """
    value = pulumi.Config().require(key)
    if value not in choices:
        raise _refusal(key, value, " or ".join(choices))
    return value


def bucket_name(key: str) -> str:
    """Return the bucket name that ``key`` is set to (rules: "General purpose bucket naming rules", Amazon S3 guide).

    Raises:
        pulumi.RunError: S3 has no bucket of such a name.
    """
    value = pulumi.Config().require(key)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
        raise _refusal(key, value, "3 to 63 lower-case letters, digits and hyphens, no hyphen first or last")
    return value


def kms_keys(key: str) -> list[str]:
    """Return the ARNs of KMS keys that the setting ``key`` lists.

    An alias is not one: its ARN in a policy allows no use of the key ("Controlling access to aliases", AWS KMS guide).

    Raises:
        pulumi.RunError: One of them is not the ARN of a KMS key.
    """
    values = pulumi.Config().require_object(key)
    for value in values:
        if not re.fullmatch(r"arn:aws(-[a-z]+)*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+", value):
            raise _refusal(key, value, "the ARN of a KMS key, such as 'arn:aws:kms:eu-west-1:123456789012:key/...'")
    return values


def folders(*keys: str) -> tuple[str, ...]:
    """Return the key prefixes that ``keys`` are set to, none of them inside another.

    Raises:
        pulumi.RunError: One does not end in a slash, or one lies inside another, so that what is written
            under the one would be taken for a new file under the other, without end.
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
