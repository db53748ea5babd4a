"""What is done with one file. This is the module to replace with your own.

It knows nothing of queues, events or S3 clients: `process` is given what is known about an object and its bytes, and
returns what the result document shall say. As it stands, it takes a checksum of every file and counts the rows of CSV
and JSON Lines.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Never, TypedDict

MAX_RECORD_BYTES: Final = 1024 * 1024
"""The longest CSV record or JSON line that is read, in bytes: this, not the size of the file, bounds the memory."""

MAX_COLUMNS: Final = 1000
"""The most columns that a result lists."""

MAX_COLUMN_CHARACTERS: Final = 200
"""The most characters of one column's name that a result shows."""

# Python's own bound is 128 KiB a field (the csv module's page, `field_size_limit`). One bound a record is enough.
csv.field_size_limit(MAX_RECORD_BYTES)

_CSV_TYPES: Final = ("text/csv", "application/csv")
_JSON_LINES_TYPES: Final = (
    "application/jsonl",
    "application/x-jsonlines",
    "application/x-ndjson",
    "application/ndjson",
)


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


class Malformed(TypedDict):
    """Why a file could not be read as what it claims to be."""

    line: int  # the line, from 1, that the first bad record begins on
    reason: str


class Result(TypedDict):
    """What `process` found out. The last four are None (or False) for a file that is not a table."""

    sha256: str
    rows: int | None  # None in a malformed file as well: the rows before the first bad one are not its row count
    columns: list[str] | None
    columns_truncated: bool
    malformed: Malformed | None


def process(source: Source, body: Iterable[bytes]) -> Result:
    """Describe one file, reading it once, in memory that does not grow with its size.

    It has to be a function of its arguments alone (no clock, no random numbers): an event may be delivered more than
    once, and each time has to give the same document.

    A file that is not what its name says (not UTF-8, not CSV, not JSON, a record longer than `MAX_RECORD_BYTES`) is a
    result like any other, with `malformed` set, and not an exception: trying again would not mend the file.

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
    name, content_type = source.key.lower(), source.content_type.partition(";")[0].strip().lower()
    table, malformed = _Table(), None
    lines = _Lines(chunks)
    try:
        if name.endswith(".csv"):
            _read_csv(lines, table)
        elif name.endswith((".jsonl", ".ndjson")):
            _read_json_lines(lines, table)
        elif content_type in _CSV_TYPES:
            _read_csv(lines, table)
        elif content_type in _JSON_LINES_TYPES:
            _read_json_lines(lines, table)
        else:
            table = None
    except _MalformedError as error:
        table, malformed = None, Malformed(line=lines.record_line, reason=str(error))
    for _ in chunks:  # what was not read as a table is part of the checksum all the same
        pass
    return {
        "sha256": digest.hexdigest(),
        "rows": table.rows if table else None,
        "columns": table.columns if table else None,
        "columns_truncated": bool(table and table.truncated),
        "malformed": malformed,
    }


class _MalformedError(ValueError):
    """A file is not what it claims to be; the text says in what way, in words that no Python version changes."""


@dataclass(slots=True)
class _Table:
    """What is known so far of a file of rows."""

    rows: int = 0
    columns: list[str] = field(default_factory=list)
    truncated: bool = False

    def add_column(self, name: str) -> None:
        shown = name[:MAX_COLUMN_CHARACTERS]
        if len(self.columns) < MAX_COLUMNS:
            self.columns.append(shown)
            self.truncated |= shown != name
        else:
            self.truncated = True


class _Lines:
    r"""The lines of a stream of UTF-8, each with its `\n`, and none longer than a record may be."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.record_line = 1  # the line that the current record began on
        self._chunks = chunks
        self._line = 0
        self._record_bytes = 0

    def end_record(self) -> None:
        """Say that the lines so far make whole records."""
        self.record_line = self._line + 1
        self._record_bytes = 0

    def __iter__(self) -> Iterator[str]:
        rest = b""
        for chunk in self._chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield self._decoded(line + b"\n")
            self._check_length(len(rest))
        if rest:
            yield self._decoded(rest)

    def _decoded(self, line: bytes) -> str:
        self._line += 1
        self._check_length(len(line))
        self._record_bytes += len(line)
        try:
            return line.decode("utf-8-sig" if self._line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _MalformedError("not UTF-8") from error

    def _check_length(self, more: int) -> None:
        if self._record_bytes + more > MAX_RECORD_BYTES:
            raise _MalformedError(f"a record longer than {MAX_RECORD_BYTES} bytes")


def _read_csv(lines: _Lines, table: _Table) -> None:
    """Read comma separated values: the first row names the columns, blank lines are no rows.

    Strictly, so that a quote that is never closed is an error and does not swallow the rows after it.
    """
    header = True
    try:
        for row in csv.reader(lines, strict=True):
            lines.end_record()
            if not row:
                continue
            if header:
                header = False
                for name in row:
                    table.add_column(name)
            else:
                table.rows += 1
    except csv.Error as error:
        raise _MalformedError("not CSV") from error


def _no_number(name: str) -> Never:
    raise ValueError(name)


# NaN and Infinity, which Python reads, are not JSON (RFC 8259, section 6). Numbers are not needed, so whole ones stay
# text: Python refuses to convert very long ones ("Integer string conversion length limitation").
_JSON: Final = json.JSONDecoder(parse_int=str, parse_constant=_no_number)


def _read_json_lines(lines: _Lines, table: _Table) -> None:
    """Read one JSON value a line; blank lines are no rows. The columns are the keys of those that are objects."""
    seen: set[str] = set()
    try:
        for line in lines:
            text = line.strip(" \t\r\n")
            if text:
                value = _JSON.decode(text)
                table.rows += 1
                for name in value if isinstance(value, dict) else ():
                    shown = name[:MAX_COLUMN_CHARACTERS]
                    if shown not in seen:
                        table.add_column(name)
                        if len(seen) < MAX_COLUMNS:
                            seen.add(shown)
            lines.end_record()
    except _MalformedError:
        raise
    except (ValueError, RecursionError) as error:
        raise _MalformedError("not JSON") from error
