"""Reads the rows of real-world CSV and JSON Lines: any delimiter, encoding and line end, gzipped or not.

The rules look only at the beginning of a file, and so give the same answer each time. A file that they can't read is
malformed, with a reason that says what to do. `docs/files.md` lists the rules.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, Literal, Never, TypedDict

from decoding import (
    GZIP,
    MAX_RECORD_CHARACTERS,
    Lines,
    MalformedError,
    TooLongError,
    decode,
    encoding_of,
    gunzip,
    pieces,
)

MAX_COLUMNS: Final = 1000
"""The most columns that a result lists."""

MAX_COLUMN_CHARACTERS: Final = 200
"""The most characters of one column's name that a result lists."""

# Python's limit is 128 KiB for a field (`csv.field_size_limit` in its documentation). The limit for a record is enough.
csv.field_size_limit(MAX_RECORD_CHARACTERS)

Format = Literal["CSV", "TSV", "JSON Lines"]

_EXTENSIONS: Final[dict[str, Format]] = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
}
_MEDIA_TYPES: Final[dict[str, Format]] = {
    "text/csv": "CSV",
    "application/csv": "CSV",
    "text/tab-separated-values": "TSV",
    "application/jsonl": "JSON Lines",
    "application/x-jsonlines": "JSON Lines",
    "application/x-ndjson": "JSON Lines",
    "application/ndjson": "JSON Lines",
}

# Not read, and not malformed. For these, the AWS CLI sets the content type of the file inside.
_COMPRESSED_NAMES: Final = (".bz2", ".xz", ".zip", ".zst")
_COMPRESSED: Final = re.compile(rb"BZh[1-9]|\xfd7zXZ\x00|PK(?:\x03\x04|\x05\x06)|\x28\xb5\x2f\xfd")

_OFFICE: Final = re.compile(
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # .xls ("Compound File Header" in [MS-CFB]), then .xlsx and .ods
    rb"|PK\x03\x04.{26}(?:\[Content_Types\]\.xml|_rels/|docProps/|xl/|mimetypeapplication/vnd\.oasis)",
    re.DOTALL,
)
_MARKUP: Final = re.compile(r"\s*<(?:!doctype|html|\?xml|error)\b", re.IGNORECASE)
_JSON_TEXT: Final = re.compile(r'\s*(?:\{\s*"|\[\s*[\[{]|[\[{]\s*$)', re.MULTILINE)

_DELIMITERS: Final = "\t;|,"
"""What may separate fields. If a header has two equally often, the first here wins: it is rarer in names."""

_QUOTED: Final = re.compile(rf'(\A|[\r\n{_DELIMITERS}]) *(?:"[^"]*(?:"|\Z))++')
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([^"\s\w])"?(?=[\r\n]|\Z)', re.IGNORECASE)
"""A first line that Excel reads as a setting and does not show."""

_EMPTY: Final = " \t\r\n\f\v\xa0\x1a\0"
"""The characters that an empty field may contain: 0x1A ends files of MS-DOS."""
_ANY_TO_COMMA: Final = str.maketrans(_DELIMITERS, "," * len(_DELIMITERS))
_NUMBER: Final = re.compile(r"\s*[-+]?(?:[\d.]*\d,\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?)\s*")
"""A number with a comma, which in a file of one column is not a delimiter."""


class Malformed(TypedDict):
    """Why a file could not be read as what it claims to be."""

    line: int  # from 1, where the first bad record begins
    reason: str


class Contents(TypedDict):
    """What is in a file."""

    rows: int | None  # None, as are `columns`, if the file is malformed or not a table
    columns: list[str] | None
    columns_truncated: bool
    duplicate_columns: list[str]  # names that a CSV has more than once
    rows_with_fewer_fields: int  # than the header of a CSV
    rows_with_more_fields: int
    compression: str | None  # "gzip" or None
    encoding: str | None  # Python's name for it
    delimiter: str | None  # between the fields of a CSV
    malformed: Malformed | None


def read(key: str, content_type: str, chunks: Iterable[bytes]) -> Contents:
    """Return what is in a file, read as the table that its name, or else its content type, says it is.

    Read no more of `chunks` than necessary: nothing if the file is not a table, and nothing after an error.

    Args:
        key: The file's name. A `.gz` at its end is ignored: gzip is detected from the content.
        content_type: The content type that the file's uploader set.
        chunks: Its bytes, in chunks of any size.
    """
    contents: Contents = {
        "rows": None,
        "columns": None,
        "columns_truncated": False,
        "duplicate_columns": [],
        "rows_with_fewer_fields": 0,
        "rows_with_more_fields": 0,
        "compression": None,
        "encoding": None,
        "delimiter": None,
        "malformed": None,
    }
    media_type, _, parameters = content_type.lower().partition(";")
    form = _format_of(key.lower().removesuffix(".gz"), media_type.strip())
    if form is None:
        return contents
    lines = Lines(())
    try:
        stored = pieces(chunks)
        start = next(stored)
        if start.startswith(GZIP):
            contents["compression"] = "gzip"
            stored = pieces(gunzip(chain([start], stored)))
            start = next(stored)
        if _is_archive(start, form):
            return contents
        contents["encoding"] = encoding = encoding_of(start, parameters)
        texts = decode(chain([start], stored), encoding)
        text = next(texts).removeprefix("\ufeff")
        lines = Lines(chain([text], texts))
        _check_text(text, form)
        if form == "JSON Lines":
            _read_json_lines(lines, contents, text)
        else:
            _read_csv(lines, contents, text, form)
    except MalformedError as error:
        contents["malformed"] = {"line": lines.record_line, "reason": str(error)}
    return contents


def _format_of(name: str, media_type: str) -> Format | None:
    if name.endswith(_COMPRESSED_NAMES):
        return None
    by_name = (form for extension, form in _EXTENSIONS.items() if name.endswith(extension))
    return next(by_name, _MEDIA_TYPES.get(media_type))


def _is_archive(start: bytes, form: Format) -> bool:
    """Return whether a file has a compression that is not supported.

    Raises:
        MalformedError: It is another kind of file than its name says.
    """
    if _OFFICE.match(start):
        raise MalformedError(f"a spreadsheet or another Office file, not {form}: save it as CSV")
    if start.startswith(GZIP):
        raise MalformedError("gzip within gzip: compress it only once")
    return bool(_COMPRESSED.match(start))


def _check_text(start: str, form: Format) -> None:
    """Check the start of a text.

    Raises:
        MalformedError: It is not text, or another kind of text than its name says.
    """
    if _MARKUP.match(start):
        raise MalformedError(f"HTML or XML, not {form}")
    if form != "JSON Lines" and _JSON_TEXT.match(start):
        raise MalformedError(f"JSON, not {form}")
    if "\0" in _first_line(start):
        raise MalformedError("not text, or UTF-16 without a byte order mark: save it as UTF-8")


def _first_line(text: str) -> str:
    """Return the first line that is not empty, with an `x` for each quoted field, which may contain line ends."""
    lines = re.split(r"[\r\n]+", _QUOTED.sub(r"\1x", text))
    return next((line for line in lines if line.strip(_DELIMITERS + _EMPTY)), "")


class _Strict(csv.excel):
    """A CSV dialect in which a quote that is never closed is an error and does not swallow the rows after it."""

    skipinitialspace = True
    strict = True


def _read_csv(lines: Lines, contents: Contents, start: str, form: Format) -> None:
    """Read the rows of a CSV: the first non-empty row names the columns, the other non-empty rows are counted."""
    source = iter(lines)
    if separator := _SEPARATOR_LINE.match(start):
        contents["delimiter"] = separator[1]
        next(source)
        lines.record_line = 2
    else:
        header = _first_line(start)
        delimiter = "\t" if form == "TSV" and "\t" in header else max(_DELIMITERS, key=header.count)
        contents["delimiter"] = delimiter if delimiter in header else None
    try:
        _read_rows(lines, source, contents)
    except csv.Error as error:
        fault = "a quote that is never closed" if lines.ended else "something follows a closing quote"
        raise MalformedError(f"not CSV: {fault}") from error


def _read_rows(lines: Lines, source: Iterator[str], contents: Contents) -> None:
    delimiter = contents["delimiter"]
    first, header_line, names = lines.record_line, lines.record_line, list[str]()
    reader = csv.reader(source, _Strict, delimiter=delimiter or ",")
    while not names and (row := next(reader, None)) is not None:
        header_line, lines.record_line = lines.record_line, first + reader.line_num
        names = [name.strip(_EMPTY) for name in row]
        while names and not names[-1]:  # from delimiters at the end of each line
            names.pop()
    if delimiter is None:
        # The header has one name and so no delimiter: in the rows, count every possible one.
        reader = csv.reader((line.translate(_ANY_TO_COMMA) for line in source), _Strict)
        first = lines.record_line
    width = len(names)
    rows = fewer = more = 0
    for row in reader:
        if len(row) == width and row[0].strip(_EMPTY):
            rows += 1
        elif any(field.strip(_EMPTY) for field in row):
            rows += 1
            fewer += len(row) < width
            more += any(row[width:]) and not (delimiter is None and bool(_NUMBER.fullmatch(",".join(row))))
        elif any("\0" in field for field in row):
            raise MalformedError("zero bytes where a row should be: the file was not written completely")
        lines.record_line = first + reader.line_num
    if width == 1 and more > rows / 2:
        lines.record_line = header_line
        raise MalformedError("one name in the header, but more fields in most rows: is it the header?")
    contents["rows"], contents["columns"] = rows, [name[:MAX_COLUMN_CHARACTERS] for name in names[:MAX_COLUMNS]]
    contents["columns_truncated"] = contents["columns"] != names
    contents["duplicate_columns"] = [name for name, times in Counter(contents["columns"]).items() if name and times > 1]
    contents["rows_with_fewer_fields"], contents["rows_with_more_fields"] = fewer, more


def _no_number(name: str) -> Never:
    raise MalformedError(f"not JSON: {name} is not one of its numbers")


# NaN and Infinity, which Python accepts, are not JSON (RFC 8259, section 6). Integers stay text: their values are not
# needed, and Python refuses to convert very long ones ("Integer string conversion length limitation").
_JSON: Final = json.JSONDecoder(parse_int=str, parse_constant=_no_number)


class _Keys:
    """The keys of objects, in order of first appearance, up to as many as a result lists."""

    def __init__(self) -> None:
        self.shown: dict[str, None] = {}
        self.truncated = False

    def add(self, value: object) -> None:
        if not isinstance(value, dict) or self.shown.keys() >= value.keys():
            return
        for name in value:
            shown = name[:MAX_COLUMN_CHARACTERS]
            full = shown not in self.shown and len(self.shown) == MAX_COLUMNS
            self.truncated |= full or shown != name
            if not full:
                self.shown[shown] = None


def _read_json_lines(lines: Lines, contents: Contents, start: str) -> None:
    """Read one JSON value from each line that is not empty. The columns are the keys of all values that are objects.

    If the only line is an array of objects, these are the rows.
    """
    rows, first, keys = 0, None, _Keys()
    try:
        for number, line in enumerate(lines, 1):
            text = line.strip(" \t\r\n")
            if text:
                value = _value(text, more_follow=rows == 0 and line.endswith(("\r", "\n")))
                keys.add(value)
                first = first if rows else value
                rows += 1
            lines.record_line = number + 1
    except TooLongError as error:
        if rows == 0 and start.lstrip().startswith("["):
            raise MalformedError(f"{error}: a JSON array, not JSON Lines: write each value in one line") from error
        raise
    if rows == 1 and isinstance(first, list) and all(isinstance(item, dict) for item in first):
        rows = len(first)
        for item in first:
            keys.add(item)
    contents["rows"], contents["columns"], contents["columns_truncated"] = rows, list(keys.shown), keys.truncated


def _value(text: str, *, more_follow: bool) -> object:
    """Return the JSON value in a line.

    Args:
        text: The line, without surrounding white space.
        more_follow: Whether it is the first of several lines, so that a value that does not end in it continues below.

    Raises:
        MalformedError: It is not a JSON value.
    """
    try:
        value, end = _JSON.raw_decode(text)
    except json.JSONDecodeError as error:
        if error.pos < len(text) and not error.msg.startswith("Unterminated string"):
            raise MalformedError("not JSON") from error
        if more_follow and text[0] in "[{":
            what = "array" if text[0] == "[" else "object"
            raise MalformedError(
                f"a JSON {what} over several lines, not JSON Lines: write each value in one line"
            ) from error
        raise MalformedError("not JSON: the line ends within a value") from error
    except RecursionError as error:
        raise MalformedError("not JSON: nested too deeply") from error
    if end < len(text):
        raise MalformedError("not JSON Lines: more than one value in a line")
    return value
