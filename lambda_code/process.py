"""What is done with one file. This is the module to replace with your own.

It knows nothing of queues, events or S3 clients: `process` is given what is known about an object and its bytes, and
returns what the result document says. As shipped, it takes a checksum of every file and counts the rows of CSV and JSON
Lines, which `tables` reads.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tables import Contents, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The object that is being processed.

    Attributes:
        bucket: Its bucket's name.
        key: Its key, decoded.
        version_id: Its version, or None where the bucket has none.
        etag: Its ETag, without quotes. Only sometimes an MD5 sum.
        sequencer: Its place among the events of this key, see `s3_events.is_newer`.
        size: Its size in bytes.
        content_type: What its uploader said it is.
    """

    bucket: str
    key: str
    version_id: str | None
    etag: str
    sequencer: str
    size: int
    content_type: str


class Result(Contents):
    """What `process` found out."""

    sha256: str  # of the file as it is stored


def process(source: Source, body: Iterable[bytes]) -> Result:
    """Describe one file, reading it once, in memory that does not grow with its size.

    It has to be a function of its arguments alone (no clock, no random numbers): an event may be delivered more than
    once, and each time has to give the same document.

    A file that is not what its name says is a result like any other, with `malformed` set, and not an exception: trying
    again would not change the file.

    Args:
        source: What is known about the object.
        body: Its bytes, in pieces of any size.

    Returns:
        What the result document says beside what is in `source`.

    Raises:
        Exception: Whatever reading `body` raises. Anything raised here means "try this file again later"; its text is
            logged, so it should not quote the file's contents.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in body:
            digest.update(chunk)
            yield chunk

    chunks = hashed()
    contents = read(source.key, source.content_type, chunks)
    for _ in chunks:  # what was not read as a table is part of the checksum all the same
        pass
    return {"sha256": digest.hexdigest(), **contents}  # pyrefly: ignore[open-unpacking]  `contents` has no sha256
