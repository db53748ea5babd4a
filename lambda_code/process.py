"""The work on one file. This is the module to replace with your own.

It has nothing to do with queues, events or S3 clients: `process` gets the facts about an object and its bytes, and
returns what goes into the result document. By default it computes a checksum of every file and counts the rows of CSV
and JSON Lines, which `tables` reads.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tables import Contents, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The object being processed.

    Attributes:
        bucket: The name of its bucket.
        key: Its key, decoded.
        version_id: Its version, or None if the bucket has no versioning.
        etag: Its ETag, without quotes; not always an MD5 sum.
        sequencer: A hexadecimal number that orders the events of one key, see `s3_events.is_newer`.
        size: Its size in bytes.
        content_type: The content type that its uploader set.
    """

    bucket: str
    key: str
    version_id: str | None
    etag: str
    sequencer: str
    size: int
    content_type: str


class Result(Contents):
    """What `process` adds to the result document."""

    sha256: str  # of the file as stored


def process(source: Source, body: Iterable[bytes]) -> Result:
    """Describe one file. The memory does not grow with the file's size.

    The result must depend on the arguments alone (no clock, no random numbers): SQS may deliver an event more than
    once, and each delivery must give the same document.

    For a file that is not what its name says, return a result with `malformed` set instead of raising an exception: a
    retry would not change the file.

    Args:
        source: The facts about the object.
        body: Its bytes, in chunks of any size. They can be read once.

    Returns:
        The fields of the result document in addition to those of `source`.

    Raises:
        Exception: Whatever reading `body` raises. Any exception means "try this file again later". Its text is logged,
            so it must not quote the file's contents.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in body:
            digest.update(chunk)
            yield chunk

    chunks = hashed()
    contents = read(source.key, source.content_type, chunks)
    for _ in chunks:  # the checksum needs the rest of the file too
        pass
    return {"sha256": digest.hexdigest(), **contents}  # pyrefly: ignore[open-unpacking] - `contents` has no sha256
