import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator

import process
import pytest
from hypothesis import given
from hypothesis import strategies as st
from process import MAX_COLUMN_CHARACTERS, MAX_COLUMNS, MAX_RECORD_BYTES, Result, Source


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
        ("inputs/t.jsonl", "text/csv", 2),  # the name is what a person chose
        ("inputs/t.txt", "text/plain", None),
        ("inputs/csv", "", None),
    ],
)
def test_the_name_or_else_the_content_type_says_what_a_file_is(key: str, content_type: str, rows: int | None) -> None:
    result = run(key, b"1\n2\n", content_type=content_type)
    assert result["rows"] == rows
    assert (result["columns"] is None) is (rows is None)
    assert result["malformed"] is None


TOO_LONG = f"a record longer than {MAX_RECORD_BYTES} bytes"


@pytest.mark.parametrize(
    ("key", "body", "line", "reason"),
    [
        ("t.csv", b"a,b\n1,2\n1,\xff\n", 3, "not UTF-8"),
        ("t.csv", "a,b\n".encode("utf-16"), 1, "not UTF-8"),
        ("t.csv", b'a\n1\n"never closed\n2\n3\n', 3, "not CSV"),
        ("t.csv", b'a\n"1"2\n', 2, "not CSV"),
        ("t.csv", b"a\rb\n", 1, "not CSV"),
        ("t.csv", b"a\n1\n" + b"x" * (MAX_RECORD_BYTES + 1), 3, TOO_LONG),
        ("t.csv", b'a\n1\n"' + b'x\n","' * (MAX_RECORD_BYTES // 5 + 1), 3, TOO_LONG),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', 2, "not JSON"),
        ("t.jsonl", b'{"a": 1}\n{"a": NaN}\n', 2, "not JSON"),
        ("t.jsonl", b"[1] [2]\n", 1, "not JSON"),
        ("t.jsonl", b"1\n\xef\xbb\xbf2\n", 2, "not JSON"),  # a byte order mark is one at the beginning only
        ("t.jsonl", b"\n\n" + b"[" * 200_000 + b"\n", 3, "not JSON"),
        ("t.jsonl", b'1\n2\n"\xc3("\n', 3, "not UTF-8"),
        ("t.jsonl", b'1\n"' + b"x" * MAX_RECORD_BYTES + b'"\n', 2, TOO_LONG),
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
        "malformed": {"line": line, "reason": reason},
    }


def test_a_record_may_be_as_long_as_the_bound() -> None:
    value = b"x" * (MAX_RECORD_BYTES - 3)
    assert table("t.csv", b'a\n"' + value + b'"\n"' + value + b'"\n') == (2, ["a"])
    assert table("t.jsonl", b'"' + value + b'"\n"' + value + b'"') == (2, [])


@pytest.mark.parametrize(("key", "separator"), [("t.csv", ","), ("t.jsonl", "\n")])
def test_the_columns_that_are_listed_are_bounded(key: str, separator: str) -> None:
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


@given(st.binary(), st.sampled_from(["t.csv", "t.jsonl", "t.bin"]))
def test_no_bytes_at_all_are_too_odd(body: bytes, key: str) -> None:
    result = run(key, body)
    assert result["sha256"] == hashlib.sha256(body).hexdigest()
    assert json.dumps(result)


@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=2, max_size=3), min_size=1),
    st.data(),
)
def test_a_csv_of_any_text_in_pieces_of_any_size_has_the_rows_that_were_written(
    rows: list[list[str]], data: st.DataObject
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    body = b"\xef\xbb\xbf" + text.getvalue().encode()
    cut = data.draw(st.integers(0, len(body)))
    result = run("t.csv", body[:cut], b"", body[cut:])
    assert (result["rows"], result["columns"], result["malformed"]) == (len(rows) - 1, rows[0], None)


@given(st.lists(st.dictionaries(st.text(max_size=9), st.integers() | st.text())), st.data())
def test_json_lines_in_pieces_of_any_size_are_those_that_were_written(
    values: list[dict[str, int | str]], data: st.DataObject
) -> None:
    body = "".join(json.dumps(value) + "\n" for value in values).encode()
    cut = data.draw(st.integers(0, len(body)))
    result = run("t.jsonl", body[:cut], body[cut:])
    assert result["columns"] == list(dict.fromkeys(name for value in values for name in value))
    assert (result["rows"], result["malformed"]) == (len(values), None)


def test_an_error_while_reading_is_not_taken_for_the_end_of_the_file() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a\n1\n"
        raise ConnectionResetError(os.strerror(104))

    source = Source(bucket="b", key="t.csv", version_id=None, etag="e", sequencer="1", size=9, content_type="")
    with pytest.raises(ConnectionResetError):
        process.process(source, broken())
