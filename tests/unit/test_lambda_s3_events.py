import json
from datetime import UTC, datetime
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3_events import Json, NotUnderstoodError, ObjectCreated, is_newer, parse

HEX = st.text("0123456789ABCDEF", min_size=1, max_size=20)


@given(HEX, HEX)
def test_sequencers_are_compared_like_fractions(one: str, other: str) -> None:
    width = 20
    assert is_newer(one, other) is (int(one.ljust(width, "0"), 16) > int(other.ljust(width, "0"), 16))
    assert is_newer(one.lower(), other) is is_newer(one, other)


def test_a_sequencer_is_newer_than_none_and_not_newer_than_itself() -> None:
    assert is_newer("0055AED6DCD90281E5", "")
    assert not is_newer("0055AED6DCD90281E5", "0055AED6DCD90281E5")
    assert not is_newer("A0", "A")
    assert is_newer("B", "A0")


def record(*, name: str = "ObjectCreated:Put", key: Json = "k", source: str = "aws:s3", **rest: Json) -> Json:
    described: dict[str, Json] = {"key": key, "size": 1, "eTag": "e", "sequencer": "0A", **rest}
    return {"eventSource": source, "eventName": name, "s3": {"bucket": {"name": "b"}, "object": described}}


@given(st.text(st.characters(codec="utf-8")))
def test_a_key_is_decoded_to_what_was_uploaded(key: str) -> None:
    (created,) = parse(json.dumps({"Records": [record(key=quote_plus(key, safe="/"))]}))
    assert created == ObjectCreated(bucket="b", key=key, version_id=None, sequencer="0A", size=1)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-26T12:00:00.250Z", datetime(2026, 11, 26, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-26T12:00:00", datetime(2026, 11, 26, 12, tzinfo=UTC)),
        ("yesterday", None),
        (7, None),
        (None, None),
    ],
)
def test_a_record_has_the_time_of_the_upload_if_it_is_one(text: Json, time: datetime | None) -> None:
    timed = record()
    assert isinstance(timed, dict)
    (created,) = parse(json.dumps({"Records": [timed | {"eventTime": text}]}))
    assert isinstance(created, ObjectCreated)
    assert created.event_time == time


def test_a_record_has_the_version() -> None:
    (created,) = parse(json.dumps({"Records": [record(versionId="v1")]}))
    assert isinstance(created, ObjectCreated)
    assert created.version_id == "v1"


@pytest.mark.parametrize(("given", "size"), [(7, 7), (None, 0), ("7", 0), (1.5, 0), ([], 0)])
def test_a_size_that_is_not_a_whole_number_counts_as_0(given: Json, size: int) -> None:
    (created,) = parse(json.dumps({"Records": [record(size=given)]}))
    assert isinstance(created, ObjectCreated)
    assert created.size == size


def test_the_test_message_has_no_records() -> None:
    assert parse('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "...", "Bucket": "b"}') == []


@pytest.mark.parametrize(
    "body",
    [
        *(None, 1, ["x"], "", "text", "{", "null", "[]", "1", "NaN", "[" * 100_000, "{}"),
        *('{"Records": []}', '{"Records": {}}', '{"Records": "text"}', '{"Event": "s3:TestEvent"}'),
        *('{"Records": [1]}', '{"Records": [null]}', '{"Records": [{}]}', '{"Records": [[]]}'),
        json.dumps({"Records": [record(source="aws:sns")]}),
        json.dumps({"Records": [record(name="ObjectRemoved:Delete")]}),
        json.dumps({"Records": [record(name="s3:TestEvent")]}),
        json.dumps({"Records": [record(key="%FF")]}),
        json.dumps({"Records": [record(key="\ud800")]}),
        json.dumps({"Records": [record(key=1)]}),
        json.dumps({"Records": [record(sequencer=None)]}),
        json.dumps({"Records": [record(sequencer="")]}),
        json.dumps({"Records": [record(sequencer="0xA\n")]}),
        json.dumps({"Records": [record(versionId=7)]}),
    ],
)
def test_a_body_that_is_not_understood_is_an_error(body: Json) -> None:
    (problem,) = parse(body)
    assert isinstance(problem, NotUnderstoodError)


def test_a_bad_record_does_not_hide_its_neighbours() -> None:
    kinds = [type(item) for item in parse(json.dumps({"Records": [record(), 7, record()]}))]
    assert kinds == [ObjectCreated, NotUnderstoodError, ObjectCreated]
