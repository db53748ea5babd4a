import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final
from unittest.mock import ANY

import decoding
import process
import pytest
from decoding import MAX_RECORD_CHARACTERS, PIECE_BYTES
from hypothesis import given
from hypothesis import strategies as st
from process import Result, Source
from tables import MAX_COLUMN_CHARACTERS, MAX_COLUMNS


def packed(body: bytes) -> bytes:
    """Return gzip that has the same bytes in each run, as they may be part of a test's name."""
    return gzip.compress(body, mtime=0)


def run(key: str, *body: bytes, content_type: str = "binary/octet-stream") -> Result:
    source = Source(
        bucket="b", key=key, version_id=None, etag="e", sequencer="1", size=len(body), content_type=content_type
    )
    return process.process(source, body)


def table(key: str, body: bytes) -> tuple[int | None, list[str] | None]:
    result = run(key, body)
    assert result["malformed"] is None
    return result["rows"], result["columns"]


@pytest.mark.parametrize(
    ("body", "rows", "columns"),
    [
        (b"", 0, []),
        (b"\n\n", 0, []),
        (b"a,b\n", 0, ["a", "b"]),
        (b"a,b", 0, ["a", "b"]),
        (b"a,b\n1,2\n3,4\n", 2, ["a", "b"]),
        (b"a,b\n1,2\n3,4", 2, ["a", "b"]),
        (b"a,b\r\n1,2\r\n\r\n3,4\r\n", 2, ["a", "b"]),
        (b"\xef\xbb\xbfa,b\n1,2\n", 1, ["a", "b"]),
        (b'\xef\xbb\xbf"a",b\n1,2\n', 1, ["a", "b"]),
        (b'a,"b\nc"\n"1\n\n2",3\n"4\r\n5","6 ""quoted"""\n', 2, ["a", "b\nc"]),
        ("Größe,a\u2028b\n1,\ufeff\n".encode(), 1, ["Größe", "a\u2028b"]),
        (b"a,a\n1,\0\n", 1, ["a", "a"]),
    ],
)
def test_csv_rows_are_counted_without_the_header(body: bytes, rows: int, columns: list[str]) -> None:
    assert table("inputs/t.CSV", body) == (rows, columns)


@pytest.mark.parametrize(
    ("body", "rows", "columns"),
    [
        (b"", 0, []),
        (b'{"b": 1, "a": 2}\n{"c": 1, "a": 2}\n', 2, ["b", "a", "c"]),
        (b'{"b": 1}\r\n \r\n\n{"a": {"deep": 1}}', 2, ["b", "a"]),
        (b'\xef\xbb\xbf{"a": 1}\n', 1, ["a"]),
        (b'1\n"text"\nnull\n[{"a": 1}]\n', 4, []),
        ('{"a\u2028b": "\u2028"}\n'.encode(), 1, ["a\u2028b"]),
        (b'{"a": ' + b"9" * 5000 + b"}\n", 1, ["a"]),
        (b'{"\\ud800": 1}\n', 1, ["\ud800"]),
    ],
)
def test_json_lines_are_counted_and_their_keys_collected(body: bytes, rows: int, columns: list[str]) -> None:
    assert table("inputs/t.jsonl", body) == (rows, columns)
    assert table("inputs/t.NDJSON", body) == (rows, columns)


@pytest.mark.parametrize(
    ("key", "content_type", "rows"),
    [
        ("inputs/t", "text/csv", 1),
        ("inputs/t", "Text/CSV; charset=utf-8", 1),
        ("inputs/t.txt", "application/x-ndjson", 2),
        ("inputs/t.jsonl", "text/csv", 2),  # the name comes first
        ("inputs/t.txt", "text/plain", None),
        ("inputs/csv", "", None),
    ],
)
def test_the_name_or_else_the_content_type_decides_the_format(key: str, content_type: str, rows: int | None) -> None:
    result = run(key, b"1\n2\n", content_type=content_type)
    assert result["rows"] == rows
    assert (result["columns"] is None) is (rows is None)
    assert result["malformed"] is None


TOO_LONG = f"a record longer than {MAX_RECORD_CHARACTERS} characters"
NEVER_CLOSED = " over several lines, as if a quote were never closed"
ARRAY = ": a JSON array, not JSON Lines: write each value in one line"
SEVERAL_LINES = " over several lines, not JSON Lines: write each value in one line"
WINDOWS = "not UTF-8, most likely Windows-1252: save it as UTF-8"
NO_TEXT = "not text, or UTF-16 without a byte order mark: save it as UTF-8"
OFFICE = "a spreadsheet or another Office file, not CSV: save it as CSV"
NO_HEADER = "one name in the header, but more fields in most rows: is it the header?"


def zipped(name: str, text: str = "") -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(name, text)
    return body.getvalue()


@pytest.mark.parametrize(
    ("key", "body", "line", "reason"),
    [
        ("t.csv", b"a,b\n1,2\n1,\xff\n", 3, WINDOWS),
        ("t.csv", b"a,b\r1,2\r1,\xff\r", 3, WINDOWS),
        ("t.csv", "a,Größe\n1,2\n".encode("windows-1252"), 1, WINDOWS),
        ("t.csv", "Größe\n1\n".encode() + b"\xff\n", 3, "not UTF-8"),  # the text before it was UTF-8
        ("t.csv", b"a\n1\n\x81\n", 3, "not UTF-8"),  # not a character in Windows-1252
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", 1, "not text"),
        ("t.csv", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\nstream\nx\x01\0", 2, "not text"),
        ("t.csv", b"SQLite format 3\0\x10\0\x01\x01", 1, NO_TEXT),
        ("t.csv", "łąka,b\n1,2\n".encode("utf-16-le"), 1, NO_TEXT),
        ("t.csv", "a,b\n1,2\n1,".encode("utf-16") + b"\0\xd8", 3, "not UTF-16-LE"),
        (
            "t.csv",
            b"a,b\n1,2\n" + b"\0" * 512,
            3,
            "zero bytes where a row should be: the file was not written completely",
        ),
        ("t.csv", b"a\n1\n" + b"\0" * 512, 3, "zero bytes where a row should be: the file was not written completely"),
        ("t.csv", b'a\n1\n"never closed\n2\n3\n', 3, "not CSV: a quote that is never closed"),
        ("t.csv", b'a\n"1"2\n', 2, "not CSV: something follows a closing quote"),
        ("t.csv", b'a,b\n"1" ,2\n', 2, "not CSV: something follows a closing quote"),
        ("t.csv", b'a,b\n1,"2\n3,"4\n', 2, "not CSV: something follows a closing quote"),
        ("t.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", 1, OFFICE),
        ("t.csv", zipped("[Content_Types].xml"), 1, OFFICE),
        ("t.csv", zipped("xl/workbook.xml"), 1, OFFICE),
        ("t.csv", zipped("mimetype", "application/vnd.oasis.opendocument.spreadsheet"), 1, OFFICE),
        ("t.csv", b"\n<!DOCTYPE html>\n<p>Not found\n", 1, "HTML or XML, not CSV"),
        ("t.tsv", b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', 1, "HTML or XML, not TSV"),
        ("t.jsonl", b"<html><body>", 1, "HTML or XML, not JSON Lines"),
        ("t.csv", b'{"message": "Forbidden"}', 1, "JSON, not CSV"),
        ("t.csv", b'[\n  {"a": 1}\n]\n', 1, "JSON, not CSV"),
        ("t.csv", b'[{"a": 1}, {"a": 2}]', 1, "JSON, not CSV"),
        ("t.csv", b"Yields of 2026\n\nfarm;yield\nA;1\nB;2\n", 1, NO_HEADER),
        ("t.csv", b"# from logger 7\ntime,value\n1,x\n2,y\n", 1, NO_HEADER),
        ("t.csv", b"\nYields of 2026;;\n;;\nfarm;yield;price\nA;1;2\nB;1;2\n", 2, NO_HEADER),
        ("t.csv", b"a\n1\n" + b"x" * (MAX_RECORD_CHARACTERS + 1), 3, TOO_LONG),
        ("t.csv", b'a\n1\n"' + b'x\n","' * (MAX_RECORD_CHARACTERS // 5 + 1), 3, TOO_LONG + NEVER_CLOSED),
        ("t.csv", b'a\n1\n"2\n' + b"x" * MAX_RECORD_CHARACTERS, 3, TOO_LONG + NEVER_CLOSED),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', 2, "not JSON: the line ends within a value"),
        ("t.jsonl", b'{"a": 1}\n{"a": "b\n', 2, "not JSON: the line ends within a value"),
        ("t.jsonl", b'{"a": 1}\n{"a": NaN}\n', 2, "not JSON: NaN is not one of its numbers"),
        ("t.jsonl", b"[1] [2]\n", 1, "not JSON Lines: more than one value in a line"),
        ("t.jsonl", b'{"a": 1}{"a": 2}\n', 1, "not JSON Lines: more than one value in a line"),
        ("t.jsonl", b'{"a": 1},\n{"a": 2}\n', 1, "not JSON Lines: more than one value in a line"),
        ("t.jsonl", b'\n[\n  {"a": 1},\n  {"a": 2}\n]\n', 2, "a JSON array" + SEVERAL_LINES),
        ("t.jsonl", b'[{"a": 1},\n{"a": 2}]\n', 1, "a JSON array" + SEVERAL_LINES),
        ("t.jsonl", b'{\r  "a": 1\r}\r', 1, "a JSON object" + SEVERAL_LINES),
        ("t.jsonl", b"// rows\n1\n", 1, "not JSON"),
        ("t.jsonl", b"a,b\n1,2\n", 1, "not JSON"),
        ("t.jsonl", b"[" + b'{"a": 1},' * (MAX_RECORD_CHARACTERS // 9 + 1), 1, TOO_LONG + ARRAY),
        ("t.jsonl", b"1\n\xef\xbb\xbf2\n", 2, "not JSON"),  # a byte order mark counts only at the beginning
        ("t.jsonl", b"\n\n" + b"[" * 200_000 + b"\n", 3, "not JSON: nested too deeply"),
        ("t.jsonl", b'1\n2\n"\xc3("\n', 3, WINDOWS),
        ("t.jsonl", b'1\n"' + b"x" * MAX_RECORD_CHARACTERS + b'"\n', 2, TOO_LONG),
    ],
)
def test_a_malformed_file_is_a_result_that_names_its_first_bad_record(
    key: str, body: bytes, line: int, reason: str
) -> None:
    body += b"\nrest of the file"
    assert run(key, body[:1], body[1:]) == {
        "sha256": hashlib.sha256(body).hexdigest(),
        "rows": None,
        "columns": None,
        "columns_truncated": False,
        "duplicate_columns": [],
        "rows_with_fewer_fields": 0,
        "rows_with_more_fields": 0,
        "compression": None,
        "encoding": ANY,
        "delimiter": ANY,
        "malformed": {"line": line, "reason": reason},
    }


def test_a_record_may_be_as_long_as_the_limit() -> None:
    value = b"x" * (MAX_RECORD_CHARACTERS - 3)
    assert table("t.csv", b'a\n"' + value + b'"\n"' + value + b'"\n') == (2, ["a"])
    assert table("t.jsonl", b'"' + value + b'"\n"' + value + b'"') == (2, [])


@pytest.mark.parametrize(("key", "separator"), [("t.csv", ","), ("t.jsonl", "\n")])
def test_the_listed_columns_are_limited(key: str, separator: str) -> None:
    def result(names: list[str]) -> Result:
        fields = names if key == "t.csv" else [json.dumps({name: 1}) for name in names]
        return run(key, separator.join(fields).encode())

    names = [f"c{number}" for number in range(MAX_COLUMNS)]
    full = result(names)
    assert (full["columns"], full["columns_truncated"]) == (names, False)
    over = result([*names, "one", "two", "c0"])
    assert (over["columns"], over["columns_truncated"]) == (names, True)
    long = result(["x" * MAX_COLUMN_CHARACTERS, "y" * 2 * MAX_COLUMN_CHARACTERS, "z"])
    assert long["columns"] == ["x" * MAX_COLUMN_CHARACTERS, "y" * MAX_COLUMN_CHARACTERS, "z"]
    assert long["columns_truncated"]


@given(st.binary() | st.binary().map(gzip.compress), st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.bin"]), st.data())
def test_any_bytes_have_a_result(body: bytes, key: str, data: st.DataObject) -> None:
    result = run(key, body)
    assert result["sha256"] == hashlib.sha256(body).hexdigest()
    assert json.dumps(result)
    assert result == run(key, *cut(body, data))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
EMPTY = " \t\r\n\f\v\xa0\x1a\0"


@given(
    rows=st.lists(st.lists(TEXT, min_size=2, max_size=4), min_size=1, max_size=20),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    gzipped=st.booleans(),
    data=st.data(),
)
def test_a_csv_of_any_text_has_the_rows_that_were_written(  # noqa: PLR0913 - each of them varies
    *, rows: list[list[str]], delimiter: str, line_end: str, encoding: str, gzipped: bool, data: st.DataObject
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerow(rows[0])
    # Before Python 3.13 only the characters of `lineterminator` itself are quoted.
    quoting = csv.QUOTE_MINIMAL if line_end == "\r\n" else csv.QUOTE_ALL
    csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows(rows[1:])
    body = text.getvalue().encode(encoding)
    result = run("t.csv", *cut(packed(body) if gzipped else body, data))
    filled = [row for row in rows if any(field.strip(EMPTY) for field in row)]
    header, *rest = [[field.strip(EMPTY) for field in row] for row in filled] or [[]]
    while header and not header[-1]:
        del header[-1]
    more = sum(any(field.lstrip(" ") for field in row[len(header) :]) for row in filled[1:])
    if len(header) == 1 and more > len(rest) / 2:
        assert result["malformed"]
        return
    assert (result["malformed"], result["rows"], result["columns"]) == (None, len(rest), header)
    assert result["rows_with_fewer_fields"] == sum(len(row) < len(header) for row in rest)
    assert result["rows_with_more_fields"] == more


def cut(body: bytes, data: st.DataObject) -> list[bytes]:
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    return [body[start:end] for start, end in pairwise([0, *places, len(body)])]


@given(st.lists(st.dictionaries(st.text(max_size=9), st.integers() | st.text())), st.data())
def test_json_lines_in_pieces_of_any_size_are_those_that_were_written(
    values: list[dict[str, int | str]], data: st.DataObject
) -> None:
    body = "".join(json.dumps(value) + "\n" for value in values).encode()
    result = run("t.jsonl", *cut(packed(body) if data.draw(st.booleans()) else body, data))
    assert result["columns"] == list(dict.fromkeys(name for value in values for name in value))
    assert (result["rows"], result["malformed"]) == (len(values), None)


@dataclass(frozen=True, kw_only=True)
class File:
    """A real-world file and its expected result."""

    body: bytes
    key: str = "t.csv"
    content_type: str = ""
    rows: int | None
    columns: list[str] | None
    delimiter: str | None = None
    encoding: str | None = "utf-8"
    compression: str | None = None
    fewer: int = 0
    more: int = 0
    duplicates: tuple[str, ...] = ()


FARMS = b"farm,yield\nA,1\nB,2\n"
YIELDS: Final = ["farm", "yield"]
NO_TABLE = File(body=b"", rows=None, columns=None, encoding=None)

FILES = {
    # Compression
    "gzip": File(body=packed(FARMS), key="h.csv.gz", rows=2, columns=YIELDS, delimiter=",", compression="gzip"),
    "gzip by the AWS CLI": File(
        body=packed(FARMS),
        key="h.CSV.GZ",
        content_type="text/csv",
        rows=2,
        columns=YIELDS,
        delimiter=",",
        compression="gzip",
    ),
    "gzip by Content-Encoding": File(
        body=packed(FARMS), key="h.csv", rows=2, columns=YIELDS, delimiter=",", compression="gzip"
    ),
    "gzip without an extension": File(
        body=packed(FARMS),
        key="h",
        content_type="text/csv",
        rows=2,
        columns=YIELDS,
        delimiter=",",
        compression="gzip",
    ),
    "gzip of JSON Lines": File(body=packed(b'{"a": 1}\n'), key="h.jsonl.gz", rows=1, columns=["a"], compression="gzip"),
    "gzip in members, padded": File(
        body=packed(FARMS[:7]) + packed(b"") + packed(FARMS[7:]) + bytes(600),
        rows=2,
        columns=YIELDS,
        delimiter=",",
        compression="gzip",
    ),
    "gzip of an empty file": File(body=packed(b""), rows=0, columns=[], compression="gzip"),
    "not compressed, in spite of its name": File(body=FARMS, key="h.csv.gz", rows=2, columns=YIELDS, delimiter=","),
    "gzip of something else": replace(NO_TABLE, body=packed(FARMS), key="h.tar.gz"),
    **{
        f"{extension} by {by}": replace(NO_TABLE, body=body, key=key, content_type="text/csv")
        for extension, body in {
            "bz2": bz2.compress(FARMS),
            "xz": lzma.compress(FARMS),
            "zip": zipped("farms.csv", FARMS.decode()),
            "empty.zip": b"PK\5\6" + bytes(18),
            "zst": b"\x28\xb5\x2f\xfd\x04\x58",
        }.items()
        for by, key in {"name": f"h.csv.{extension}", "content": "h.csv"}.items()
    },
    "zip by name alone": replace(NO_TABLE, body=FARMS, key="h.csv.zip", content_type="text/csv"),
    # Delimiters
    "semicolons": File(
        body=b"farm;field;yield\nA;1;2,5\nB;2;3,5\n", rows=2, columns=["farm", "field", "yield"], delimiter=";"
    ),
    "semicolons, quoted decimal commas": File(
        body=b'farm;field;yield\r\nA;1;"2,5"\r\n"B; C";2;"3,5"\r\n',
        rows=2,
        columns=["farm", "field", "yield"],
        delimiter=";",
    ),
    "tabs": File(body=b"farm\tyield\nA\t1\n", rows=1, columns=YIELDS, delimiter="\t"),
    "tabs by extension": File(
        body=b"farm\tyield, dry, t, ha\nA\t1\n",
        key="t.TSV",
        rows=1,
        columns=["farm", "yield, dry, t, ha"],
        delimiter="\t",
    ),
    "tabs by content type": File(
        body=b"a\tb,c,d\n1\t2\n",
        key="t",
        content_type="text/tab-separated-values; charset=utf-8",
        rows=1,
        columns=["a", "b,c,d"],
        delimiter="\t",
    ),
    "a .tsv without a tab": File(body=FARMS, key="t.tsv", rows=2, columns=YIELDS, delimiter=","),
    "pipes": File(body=b"farm|yield\nA|1\n", rows=1, columns=YIELDS, delimiter="|"),
    "other delimiters within quotes": File(
        body=b'"a,b,c";"d|e","f"\n1;2,3\n'.replace(b'","', b'";"'),
        rows=1,
        columns=["a,b,c", "d|e", "f"],
        delimiter=";",
        fewer=1,
    ),
    "a line end within quotes": File(
        body=b'"yield\n(t, ha)";"farm"\n1,5;A\n', rows=1, columns=["yield\n(t, ha)", "farm"], delimiter=";"
    ),
    "as many commas as semicolons": File(
        body=b"yield (t, dry);farm\n1,5;A\n", rows=1, columns=["yield (t, dry)", "farm"], delimiter=";"
    ),
    "sep=": File(body=b"\xef\xbb\xbfsep=;\r\nfarm;yield\r\nA;1,5\r\n", rows=1, columns=YIELDS, delimiter=";"),
    "sep= with an unusual delimiter": File(body=b'"SEP=^"\na,b^c\n1^2\n', rows=1, columns=["a,b", "c"], delimiter="^"),
    "sep= alone": File(body=b"sep=;", rows=0, columns=[], delimiter=";"),
    "one column": File(body=b"yield\n1.5\n2\n", rows=2, columns=["yield"]),
    "one column of decimal commas": File(body=b"yield\n1,5\n-2.000,75\n1,234,567\n", rows=3, columns=["yield"]),
    "one column of quoted text": File(body=b'note\n"a, b"\n"c; d"\n', rows=2, columns=["note"]),
    "one column of text": File(body=b"note\na, b\nc\nd\n", rows=3, columns=["note"], more=1),
    "blanks after commas": File(
        body=b'a, b, "c, d"\n1, 2, "3, 4"\n', rows=1, columns=["a", "b", "c, d"], delimiter=","
    ),
    # Encodings
    **{
        f"{encoding} {'with' if mark else 'without'} byte order mark": File(
            body=mark + "größe;ł\n1;2\n".encode(encoding),
            rows=1,
            columns=["größe", "ł"],
            delimiter=";",
            encoding=encoding,
        )
        for encoding, mark in (
            ("utf-8", codecs.BOM_UTF8),
            ("utf-8", b""),
            ("utf-16-le", codecs.BOM_UTF16_LE),
            ("utf-16-le", b""),
            ("utf-16-be", codecs.BOM_UTF16_BE),
            ("utf-16-be", b""),
            ("utf-32-le", codecs.BOM_UTF32_LE),
            ("utf-32-le", b""),
            ("utf-32-be", codecs.BOM_UTF32_BE),
            ("utf-32-be", b""),
        )
    },
    "UTF-16 of JSON Lines": File(
        body='{"ł": 1}\r\n'.encode("utf-16"), key="t.jsonl", rows=1, columns=["ł"], encoding="utf-16-le"
    ),
    "Windows-1252, declared": File(
        body="größe,€\n1,2\n".encode("windows-1252"),
        content_type='text/csv; charset="Windows-1252"',
        rows=1,
        columns=["größe", "€"],
        delimiter=",",
        encoding="windows-1252",
    ),
    "an unknown charset": File(
        body=FARMS, content_type="text/csv; charset=iso-8859-12", rows=2, columns=YIELDS, delimiter=","
    ),
    "a wrong charset": File(
        body="ł,b\n1,2\n".encode("utf-16"),
        content_type="text/csv; charset=iso-8859-1",
        rows=1,
        columns=["ł", "b"],
        delimiter=",",
        encoding="utf-16-le",
    ),
    # Line ends
    "carriage returns": File(body=b'a,b\r1,"2\r3"\r\r4,5', rows=2, columns=["a", "b"], delimiter=","),
    "all line ends": File(body=b"a,b\r\n1,2\r3,4\n5,6\r\r\n", rows=3, columns=["a", "b"], delimiter=","),
    "JSON Lines of carriage returns": File(body=b'{"a": 1}\r{"a": 2}\r', key="t.jsonl", rows=2, columns=["a"]),
    # Rows that don't fit the header
    "fewer and more": File(
        body=b"a,b\n1\n1,2\n1,2,3\n1,2,3,4\n", rows=4, columns=["a", "b"], delimiter=",", fewer=1, more=2
    ),
    "a total at the end": File(
        body=b"a;b;c\n1;2;3\n\nTotal: 3\n", rows=2, columns=["a", "b", "c"], delimiter=";", fewer=1
    ),
    "delimiters at the end": File(body=b"a,b,\n1,2,\n3,4\n5,6,7\n", rows=3, columns=["a", "b"], delimiter=",", more=1),
    "delimiters at the end of rows": File(body=b"a,b\n1,2,\n3,4,,\n", rows=2, columns=["a", "b"], delimiter=","),
    "rows of delimiters": File(body=b";;\na;b\n;;\n1;2\n ; \n;\n", rows=1, columns=["a", "b"], delimiter=";"),
    "the first field empty": File(body=b",a\n,1\n,\n", rows=1, columns=["", "a"], delimiter=","),
    "lines of blanks": File(body=b"a,b\n \n1,2\n\t\n", rows=1, columns=["a", "b"], delimiter=","),
    "the end of a file of MS-DOS": File(body=b"a\r\n1\r\n\x1a", rows=1, columns=["a"]),
    "duplicate names": File(
        body=b"a,b,a,b,c,,,d\n" + b"1,2,3,4,5,6,7,8\n",
        rows=1,
        columns=["a", "b", "a", "b", "c", "", "", "d"],
        delimiter=",",
        duplicates=("a", "b"),
    ),
    "quotes within fields": File(body=b'pipe,b\n5" pipe,2\n', rows=1, columns=["pipe", "b"], delimiter=","),
    "a quote within the header": File(body=b'5" pipe;b\n1;2\n', rows=1, columns=['5" pipe', "b"], delimiter=";"),
    # JSON
    "a JSON array": File(body=b'[{"a": 1}, {"b": 2}]\n', key="t.jsonl", rows=2, columns=["a", "b"]),
    "an empty JSON array": File(body=b"[]", key="t.ndjson", rows=0, columns=[]),
    "JSON arrays as rows": File(body=b'["a", "b"]\n[1, 2]\n', key="t.jsonl", rows=2, columns=[]),
    "a row that is a JSON array": File(body=b"[1, 2]\n", key="t.jsonl", rows=1, columns=[]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_real_world_file_has_the_expected_result(name: str) -> None:
    file = FILES[name]
    for body in ([file.body], [bytes([byte]) for byte in file.body]):
        assert run(file.key, *body, content_type=file.content_type) == {
            "sha256": hashlib.sha256(file.body).hexdigest(),
            "rows": file.rows,
            "columns": file.columns,
            "columns_truncated": False,
            "duplicate_columns": list(file.duplicates),
            "rows_with_fewer_fields": file.fewer,
            "rows_with_more_fields": file.more,
            "compression": file.compression,
            "encoding": file.encoding,
            "delimiter": file.delimiter,
            "malformed": None,
        }


TABLE = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number * 7919) for number in range(50_000))


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        (packed(TABLE[:100_002])[:-1], TABLE[:100_002].count(b"\n") + 1, "truncated gzip"),
        (packed(FARMS)[:12], 1, "truncated gzip"),
        (b"\x1f\x8b", 1, "truncated gzip"),
        (packed(FARMS)[:-8] + bytes(8), 1, "corrupt gzip"),
        (b"\x1f\x8b\x08" + b"no gzip at all", 1, "corrupt gzip"),
        (packed(FARMS) + b"something else", 4, "corrupt gzip"),
        (packed(packed(FARMS)), 1, "gzip within gzip: compress it only once"),
        (packed(b"a,b\n1,2\n1,\xff\n"), 3, WINDOWS),
    ],
)
def test_gzip_that_cannot_be_read_has_a_reason(body: bytes, line: int, reason: str) -> None:
    for size in (1, 1000, len(body)):
        result = run("t.csv.gz", *(body[start : start + size] for start in range(0, len(body), size)))
        assert (result["malformed"], result["rows"]) == ({"line": line, "reason": reason}, None)
        assert result["sha256"] == hashlib.sha256(body).hexdigest()


def test_gzip_is_decompressed_up_to_the_limit_and_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    row = b"0" * 999 + b"\n"
    body = packed(row * 100_000)
    monkeypatch.setattr(decoding, "MAX_DECOMPRESSED_BYTES", 100 * MAX_RECORD_CHARACTERS)
    assert run("t.csv", body)["rows"] == 99_999
    monkeypatch.setattr(decoding, "MAX_DECOMPRESSED_BYTES", 10_000_000)
    tracemalloc.start()
    result = run("t.csv", body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result["malformed"] == {"line": 10_001, "reason": "more than 10000000 bytes when decompressed"}
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        (b"a\n1\n\xc3", 3, "not UTF-8: it ends within a character"),
        ("a\n1\n2".encode("utf-16-le") + b"3", 3, "not UTF-16-LE"),
        (b'a\n1\n"2', 3, "not CSV: a quote that is never closed"),
    ],
)
def test_a_truncated_file_is_reported_as_such(body: bytes, line: int, reason: str) -> None:
    assert run("t.csv", body)["malformed"] == {"line": line, "reason": reason}


def test_a_line_end_split_between_two_pieces_counts_once() -> None:
    body = b"a" * (PIECE_BYTES - 1) + b'\r\n1\r\n"2'
    assert run("t.csv", body)["malformed"] == {"line": 3, "reason": "not CSV: a quote that is never closed"}


def test_the_documented_limits_are_those_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    for name, value in {
        "MAX_RECORD_CHARACTERS": f"{MAX_RECORD_CHARACTERS:,}",
        "MAX_DECOMPRESSED_BYTES": f"{decoding.MAX_DECOMPRESSED_BYTES // 1024**2} MiB",
        "MAX_COLUMNS": f"{MAX_COLUMNS:,}",
        "MAX_COLUMN_CHARACTERS": f"{MAX_COLUMN_CHARACTERS:,}",
        "PIECE_BYTES": f"{PIECE_BYTES:,}",
    }.items():
        assert f"| {value} | `{name}` in" in page


def test_the_result_does_not_depend_on_where_the_chunks_end() -> None:
    for body in (TABLE, packed(TABLE), TABLE.decode().encode("utf-16"), TABLE.replace(b"\n", b"\r\n")):
        results = [
            run("t.csv", *(body[start : start + size] for start in range(0, len(body), size)))
            for size in (len(body), PIECE_BYTES, PIECE_BYTES - 1, 1000)
        ]
        assert results[0]["rows"] == 50_000
        assert all(result == results[0] for result in results)


def test_an_error_while_reading_is_not_taken_for_the_end_of_the_file() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a\n1\n"
        raise ConnectionResetError(os.strerror(104))

    source = Source(bucket="b", key="t.csv", version_id=None, etag="e", sequencer="1", size=9, content_type="")
    with pytest.raises(ConnectionResetError):
        process.process(source, broken())
