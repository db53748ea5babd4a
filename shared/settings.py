"""Reads a stack's settings, and refuses values that AWS would refuse only in the middle of a deployment.

The type, default and description of a setting are in its project's `Pulumi.yaml`, its value for a stack in
`Pulumi.<stack>.yaml`. The engine checks the types ("Project-level configuration" in Pulumi's documentation).
"""

import json
import re
from collections.abc import Collection
from itertools import permutations
from typing import Final

import pulumi

# One number a line would be 22 lines.
# fmt: off
LOG_RETENTION_DAYS: Final = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)
# fmt: on
RESERVED_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
RESERVED_SUFFIXES: Final = ("-s3alias", "--ol-s3", "--x-s3", "--table-s3")
LONGEST_PREFIX: Final = 900
"""The longest prefix. A key has at most 1,024 bytes, and that of a result may end in 70 others than the file's name."""


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


def log_retention_days(key: str) -> int:
    """Return the setting `key`, a number of days from "PutRetentionPolicy" (Amazon CloudWatch Logs API Reference).

    Raises:
        pulumi.RunError: CloudWatch Logs does not allow the number.
    """
    value = pulumi.Config().require_int(key)
    if value not in LOG_RETENTION_DAYS:
        raise _refusal(key, value, f"one of {', '.join(map(str, LOG_RETENTION_DAYS))}")
    return value


def email(key: str) -> str:
    """Return the setting `key`, an e-mail address, or an empty string for none.

    Raises:
        pulumi.RunError: It is not an address.
    """
    value = pulumi.Config().require(key)
    if value and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", value):
        raise _refusal(key, value, "an e-mail address, such as 'ops@example.org'")
    return value


def bucket_name(key: str) -> str:
    """Return the setting `key`, a bucket name ("General purpose bucket naming rules", Amazon S3 User Guide).

    Dots, which S3 advises against, are refused too.

    Raises:
        pulumi.RunError: S3 does not allow the name.
    """
    value = pulumi.Config().require(key)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
        raise _refusal(key, value, "3 to 63 lower-case letters, digits and hyphens, no hyphen first or last")
    if value.startswith(RESERVED_PREFIXES) or value.endswith(RESERVED_SUFFIXES):
        reserved = f"begins with {', '.join(RESERVED_PREFIXES)} or ends with {', '.join(RESERVED_SUFFIXES)}"
        raise _refusal(key, value, f"another name: AWS reserves each that {reserved}")
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
        if not isinstance(value, str) or not re.fullmatch(
            r"arn:aws(-[a-z]+)*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+", value
        ):
            raise _refusal(key, value, "the ARN of a KMS key, such as 'arn:PARTITION:kms:REGION:ACCOUNT:key/ID'")
    return values


def folders(*keys: str) -> tuple[str, ...]:
    """Return the settings `keys`, key prefixes of which none is inside another.

    If the output prefix were inside the input prefix, each result would be a new file, and so on without end. Only the
    characters that S3 calls safe are allowed: the filter of a notification takes others only in an encoded form, and a
    `*` not at all ("Configuring event notifications using object key name filtering", Amazon S3 User Guide).

    Raises:
        pulumi.RunError: A prefix is not a folder, or is inside another one.
    """
    values = tuple(pulumi.Config().require(key) for key in keys)
    for key, value in zip(keys, values, strict=True):
        if not re.fullmatch(r"([A-Za-z0-9!_.'()-]+/)+", value) or len(value) > LONGEST_PREFIX:
            raise _refusal(
                key,
                value,
                "a folder such as 'inputs/': letters, digits and !-_.'() between slashes, ending in a slash and not "
                f"starting with one, at most {LONGEST_PREFIX} characters",
            )
    for (key, value), (other, outer) in permutations(zip(keys, values, strict=True), 2):
        if value.startswith(outer):
            where = "the same as" if value == outer else "inside"
            raise _refusal(
                key, value, f"a folder that is not {where} {pulumi.get_project()}:{other}, which is '{outer}'"
            )
    return values


def _refusal(key: str, value: object, wanted: str) -> pulumi.RunError:
    name = f"{pulumi.get_project()}:{key}"
    written = f"'{value}'" if isinstance(value, str) else json.dumps(value)
    return pulumi.RunError(
        f"{name} is {written} and must be {wanted}: set it in Pulumi.{pulumi.get_stack()}.yaml "
        f"or with 'pulumi config set {name} VALUE'."
    )
