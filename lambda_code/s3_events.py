"""What S3 says in its event notifications, and in which order it happened."""

import json
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""Anything at all that a queue may bring: nothing is taken for granted before it is matched."""


class NotUnderstoodError(ValueError):
    """A message, or a record in one, is not what S3 sends for a new object. The text never quotes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCreated:
    """One record of an event notification: an object was written.

    Attributes:
        bucket: The bucket's name.
        key: The object's key, decoded.
        version_id: The version written, or None where the bucket keeps none.
        sequencer: A hexadecimal number that orders the events of one key, see `is_newer`.
        size: The size in bytes that the event tells of, or 0 where it tells of none.
    """

    bucket: str
    key: str
    version_id: str | None
    sequencer: str
    size: int


def parse(body: Json) -> list[ObjectCreated | NotUnderstoodError]:
    """Read the body of one message as S3 writes it.

    Source: Amazon S3 User Guide, "Event message structure".

    Args:
        body: The message's body, which should be a string.

    Returns:
        For each record what it says, or why it is not understood, so that one bad record does not hide its neighbours.
        A body that is not understood at all counts as one such record. S3's test message, which it sends when
        notifications are switched on, has no records.
    """
    try:
        message: Json = json.loads(body) if isinstance(body, str) else None
    except (ValueError, RecursionError):
        return [NotUnderstoodError("the body is not JSON")]
    match message:
        case {"Service": "Amazon S3", "Event": "s3:TestEvent"}:
            return []
        case {"Records": [_, *_] as records}:
            return [_parse_record(record) for record in records]
        case _:
            return [NotUnderstoodError("the body is not an S3 event notification")]


def _parse_record(record: Json) -> ObjectCreated | NotUnderstoodError:
    match record:
        case {
            "eventSource": "aws:s3",
            "eventName": str(event_name),
            "s3": {
                # pyrefly takes a mapping inside a mapping inside a mapping for one that cannot be.
                "bucket": {"name": str(bucket)},  # pyrefly: ignore[not-callable]
                # pyrefly: ignore[not-callable]
                "object": {"key": str(encoded_key), "sequencer": str(sequencer)} as described,
            },
        } if event_name.startswith("ObjectCreated:"):
            version_id, size = described.get("versionId"), described.get("size")
        case _:
            return NotUnderstoodError("a record is not of an object created in S3")
    if not re.fullmatch("[0-9A-Fa-f]+", sequencer):
        return NotUnderstoodError("a sequencer is not a hexadecimal number")
    if not (version_id is None or isinstance(version_id, str)):
        return NotUnderstoodError("a version id is not a string")
    try:
        # The key is URL-encoded, a space as "+". `unquote_plus` would turn what is not UTF-8 into another key.
        key = unquote_to_bytes(encoded_key.replace("+", " ")).decode()
    except UnicodeError:
        return NotUnderstoodError("a key is not URL-encoded UTF-8")
    return ObjectCreated(
        bucket=bucket,
        key=key,
        version_id=version_id,
        sequencer=sequencer,
        size=size if isinstance(size, int) else 0,
    )


def is_newer(sequencer: str, other: str) -> bool:
    """Tell whether one event of a key happened after another event of the same key.

    Source: Amazon S3 User Guide, "Event message structure": pad the shorter sequencer with zeros on the right, then
    compare as strings.

    Args:
        sequencer: A hexadecimal number.
        other: Another, or nothing at all, which is older than any.

    Returns:
        True if `sequencer` is that of the later event.
    """
    width = max(len(sequencer), len(other))
    return sequencer.upper().ljust(width, "0") > other.upper().ljust(width, "0")
