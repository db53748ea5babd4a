"""S3's event notifications: what they say, and the order of the events."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""Any JSON value: nothing about a message can be assumed before it is matched."""


class NotUnderstoodError(ValueError):
    """A message, or a record in one, is not what S3 sends for a new object. The error's text never quotes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectCreated:
    """One record of an event notification: an object was written.

    Attributes:
        bucket: The bucket's name.
        key: The object's key, decoded.
        version_id: The version written, or None if the bucket has no versioning.
        sequencer: A hexadecimal number that orders the events of one key, see `is_newer`.
        size: The size in bytes according to the event, or 0 if it gives none.
        event_time: When S3 received the object, or None if the event doesn't say so.
    """

    bucket: str
    key: str
    version_id: str | None
    sequencer: str
    size: int
    event_time: datetime | None = None


def parse(body: Json) -> list[ObjectCreated | NotUnderstoodError]:
    """Parse the body of one message from S3.

    Source: Amazon S3 User Guide, "Event message structure".

    Args:
        body: The message's body, which should be a string.

    Returns:
        One item for each record: what it says, or the error, so that a bad record does not hide the others. A body
        that can't be parsed at all gives one error. S3's test message, which it sends when notifications are
        configured, has no records.
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
                # pyrefly rejects a mapping pattern three levels deep.
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
        # The key is URL-encoded, with "+" for a space. `unquote_plus` would turn a key that is not UTF-8 into another.
        key = unquote_to_bytes(encoded_key.replace("+", " ")).decode()
    except UnicodeError:
        return NotUnderstoodError("a key is not URL-encoded UTF-8")
    return ObjectCreated(
        bucket=bucket,
        key=key,
        version_id=version_id,
        sequencer=sequencer,
        size=size if isinstance(size, int) else 0,
        event_time=_time(record.get("eventTime")),
    )


def _time(text: Json) -> datetime | None:
    """Return the time in an event, or None if it has none that is valid."""
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time and time.replace(tzinfo=time.tzinfo or UTC)


def is_newer(sequencer: str, other: str) -> bool:
    """Return whether one event of a key happened after another event of the same key.

    Source: Amazon S3 User Guide, "Event message structure": pad the shorter sequencer with zeros on the right, then
    compare as strings.

    Args:
        sequencer: The event's sequencer, a hexadecimal number.
        other: The other event's sequencer. An empty string is older than any.
    """
    width = max(len(sequencer), len(other))
    return sequencer.upper().ljust(width, "0") > other.upper().ljust(width, "0")
