"""The handler with a real client and an emulator. Failures are injected where botocore sends and receives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import quote_plus
from uuid import uuid4

import boto3
import lambda_function
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.response import StreamingBody
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from process import Result, Source
from process import process as as_shipped
from urllib3.exceptions import ReadTimeoutError

from tests.support.http_server import serving
from xfarm.emulator.server import REGION, Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3 import S3Client
    from s3_events import Json

ROOM = Path(lambda_function.__file__).parent
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    emulator = Emulator(tmp_path_factory.mktemp("emulator"), port)
    emulator.start()
    try:
        yield emulator.endpoint
    finally:
        emulator.stop()


class Context:
    """Lambda's context object, with the given remaining times one after another, then always plenty."""

    aws_request_id = "request-1"

    def __init__(self, *remaining_ms: int) -> None:
        self.remaining_ms = list(remaining_ms)

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms.pop(0) if self.remaining_ms else 300_000


class Account:
    """A bucket for one test, and the handler working on it."""

    def __init__(self, s3: S3Client, capsys: pytest.CaptureFixture[str]) -> None:
        self.s3 = s3
        self.bucket = f"b-{uuid4()}"
        self._capsys = capsys
        s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})

    def put(self, key: str, body: bytes, content_type: str = "binary/octet-stream") -> str:
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type).get("VersionId", "")

    def record(self, key: str, sequencer: str = "0A", **rest: Json) -> dict[str, Json]:
        described: dict[str, Json] = {"key": quote_plus(key, safe="/"), "sequencer": sequencer, **rest}
        name = "ObjectCreated:Put"
        return {
            "eventSource": "aws:s3",
            "eventName": name,
            "s3": {"bucket": {"name": self.bucket}, "object": described},
        }

    def text(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def document(self, key: str) -> dict[str, Json]:
        return json.loads(self.text(key))

    def keys(self) -> list[str]:
        return [each.get("Key", "") for each in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def logged(self) -> list[dict[str, Json]]:
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]

    def outcomes(self) -> list[Json]:
        return [line["outcome"] for line in self.logged()]


@pytest.fixture
def account(endpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Account:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    session = boto3.Session(region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")
    # Use the function's own client settings, so that they are tested too.
    monkeypatch.setattr(
        lambda_function,
        "S3",
        session.client("s3", endpoint_url=endpoint, config=lambda_function.S3.meta.config),
    )
    return Account(session.client("s3", endpoint_url=endpoint), capsys)


def message(*records: Json, message_id: Json = "m1") -> Json:
    return {"messageId": message_id, "body": json.dumps({"Records": list(records)})}


def run(*messages: Json, context: Context | None = None) -> list[str]:
    """Return the ids of the messages that failed."""
    response = lambda_function.handler({"Records": list(messages)}, context or Context())
    assert list(response) == ["batchItemFailures"]
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


def answer(status: int, code: str, text: str = "no") -> Callable[..., AWSResponse]:
    """Return a botocore handler that answers instead of S3."""

    class Raw(io.BytesIO):
        def stream(self, **_: object) -> Iterator[bytes]:
            yield self.read()

    def respond(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        body = Raw(f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode())
        return AWSResponse(request.url, status, HTTPHeaders(), body)

    return respond


def at_put(number: int, action: Callable[[], object]) -> None:
    """Do something just before the handler writes the `number`-th time, counted from 1."""
    puts: list[None] = []

    def before_call(**_: object) -> None:
        puts.append(None)
        if len(puts) == number:
            action()

    on("before-call.s3.PutObject", before_call)


def on(event: str, action: Callable[..., object]) -> None:
    # botocore uses the handler's return value instead of S3's answer, which the stubs' type does not allow.
    lambda_function.S3.meta.events.register(event, action)  # pyrefly: ignore[bad-argument-type]


# Files and their documents


@pytest.mark.parametrize(
    ("key", "body", "content_type", "table"),
    [
        ("a.csv", b'a,b\n1,"2\n3"\n', "text/csv", (1, ["a", "b"])),
        ("a.jsonl", b'{"a": 1}\n{"b": 2}\n', "application/x-ndjson", (2, ["a", "b"])),
        ("bom.csv", b"\xef\xbb\xbfa\n1\n", "text/csv", (1, ["a"])),
        ("picture.png", b"\x89PNG", "image/png", (None, None)),
        ("empty", b"", "text/plain", (None, None)),
        ("empty.csv", b"", "text/csv", (0, [])),
        ("deep/er/a b+c %41 ü 😀.csv", b"a\n", "text/csv", (0, ["a"])),
    ],
)
def test_a_file_gets_a_document(
    account: Account, key: str, body: bytes, content_type: str, table: tuple[int | None, list[str] | None]
) -> None:
    account.put(f"inputs/{key}", body, content_type)
    assert run(message(account.record(f"inputs/{key}"))) == []
    assert account.document(f"outputs/{key}.json") == {
        "bucket": account.bucket,
        "key": f"inputs/{key}",
        "version_id": None,
        "etag": hashlib.md5(body, usedforsecurity=False).hexdigest(),
        "sequencer": "0A",
        "size": len(body),
        "content_type": content_type,
        "sha256": hashlib.sha256(body).hexdigest(),
        "rows": table[0],
        "columns": table[1],
        "columns_truncated": False,
        "duplicate_columns": [],
        "rows_with_fewer_fields": 0,
        "rows_with_more_fields": 0,
        "compression": None,
        "encoding": None if table[0] is None else "utf-8",
        "delimiter": "," if len(table[1] or []) > 1 and key.endswith(".csv") else None,
        "malformed": None,
    }
    (line,) = account.logged()
    assert line.pop("duration_ms") is not None
    assert line == {
        "level": "INFO",
        "outcome": "processed",
        "request_id": "request-1",
        "message_id": "m1",
        "receive_count": 1,
        "bucket": account.bucket,
        "key": f"inputs/{key}",
        "sequencer": "0A",
        "size": len(body),
    }
    head = account.s3.head_object(Bucket=account.bucket, Key=f"outputs/{key}.json")
    assert head["ContentType"] == "application/json"


def test_the_log_has_the_time_since_the_upload(account: Account) -> None:
    account.put("inputs/a.csv", b"a\n")
    record = account.record("inputs/a.csv")
    assert run(message(record | {"eventTime": (datetime.now(UTC) - timedelta(minutes=2)).isoformat()})) == []
    (line,) = account.logged()
    taken = line["since_upload_ms"]
    assert isinstance(taken, int)
    assert 120_000 <= taken < 180_000


def test_a_malformed_file_is_done_and_its_document_says_so(account: Account) -> None:
    account.put("inputs/a.csv", b"a\n\xff\n")
    assert run(message(account.record("inputs/a.csv"))) == []
    reason = "not UTF-8, most likely Windows-1252: save it as UTF-8"
    assert account.document("outputs/a.csv.json")["malformed"] == {"line": 2, "reason": reason}


def test_the_emulators_own_notifications_are_understood(account: Account, endpoint: str) -> None:
    sqs = boto3.client("sqs", endpoint_url=endpoint)
    queue = sqs.create_queue(QueueName=account.bucket)["QueueUrl"]
    account.s3.put_bucket_notification_configuration(
        Bucket=account.bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": f"arn:aws:sqs:{REGION}:000000000000:{account.bucket}",
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "inputs/"}]}},
                }
            ]
        },
    )
    account.put("inputs/a b+c ü.csv", b"a\n1\n")
    expected = ["test_event", "processed"]
    found: list[Json] = []
    while len(found) < len(expected):
        received = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10, MaxNumberOfMessages=1).get("Messages", [])
        assert received, found
        for each in received:
            assert run({"messageId": each.get("MessageId"), "body": each.get("Body")}) == []
            found += account.outcomes()
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=each.get("ReceiptHandle", ""))
    assert sorted(map(str, found)) == sorted(expected)
    assert account.document("outputs/a b+c ü.csv.json")["rows"] == 1


def test_all_records_of_a_message_are_tried_and_one_failure_fails_the_message(account: Account) -> None:
    for name in "abc":
        account.put(f"inputs/{name}", name.encode())
    assert run(message(*(account.record(f"inputs/{name}") for name in "ab"))) == []
    assert account.keys() == ["inputs/a", "inputs/b", "inputs/c", "outputs/a.json", "outputs/b.json"]
    assert run(message({"eventSource": "aws:sns"}, account.record("inputs/c"))) == ["m1"]
    assert "outputs/c.json" in account.keys()  # noqa: SIM118 - not a dict's


def test_a_poison_message_does_not_fail_its_neighbours(account: Account) -> None:
    account.put("inputs/a", b"a")
    account.put("inputs/b", b"b")
    poison: Json = {"messageId": "m2", "body": "poison"}
    first, last = (message(account.record(f"inputs/{name}"), message_id=name) for name in "ab")
    assert run(first, poison, last) == ["m2"]
    assert account.keys() == ["inputs/a", "inputs/b", "outputs/a.json", "outputs/b.json"]
    assert account.outcomes() == ["processed", "failed", "processed"]


def test_a_process_that_exits_fails_its_own_file_only(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(source: Source, body: Iterable[bytes]) -> Result:
        if source.key == "inputs/b":
            sys.exit("no more files, please")
        return as_shipped(source, body)

    for name in "abc":
        account.put(f"inputs/{name}", name.encode())
    monkeypatch.setattr(lambda_function, "process", process)
    assert run(*(message(account.record(f"inputs/{name}"), message_id=name) for name in "abc")) == ["b"]
    errors = [None, "no more files, please", None]
    assert [line.get("error") for line in account.logged()] == errors


# Files that get no document


def test_results_are_never_read(account: Account) -> None:
    for key in ("outputs/a.json", "outputs/inputs/a", "outputs/folder/"):
        account.put(key, b"x")
        assert run(message(account.record(key))) == []
    assert set(account.outcomes()) == {"own_result"}
    assert len(account.keys()) == 3


@pytest.mark.parametrize("key", ["inputs/folder/", "inputs/", "elsewhere/"])
def test_a_folder_made_in_the_console_has_no_result(account: Account, key: str) -> None:
    account.put(key, b"")
    assert run(message(account.record(key, size=0))) == []
    assert account.outcomes() == ["folder"]
    assert account.keys() == [key]


def test_a_key_that_ends_in_a_slash_and_has_contents_is_a_file(account: Account) -> None:
    account.put("inputs/file/", b"x")
    assert run(message(account.record("inputs/file/", size=0))) == []
    assert account.document("outputs/file/.json")["size"] == 1


def test_a_deleted_object_is_not_tried_again(account: Account) -> None:
    assert run(message(account.record("inputs/a"))) == []
    assert run(message(account.record("inputs/a", versionId="null"))) == []
    assert account.outcomes() == ["gone", "gone"]


def test_a_deleted_bucket_is_a_failure(account: Account) -> None:
    account.s3.delete_bucket(Bucket=account.bucket)
    assert run(message(account.record("inputs/a"))) == ["m1"]


# Where a result is


@pytest.mark.parametrize("key", ["other/a.csv", "Inputs/a", "inputs", "a/inputs/b"])
def test_a_file_outside_the_prefix_has_its_result_under_its_whole_key(account: Account, key: str) -> None:
    account.put(key, b"x")
    assert run(message(account.record(key))) == []
    assert account.document(f"outputs/{key}.json")["key"] == key


SHARING = ("inputs/drop/a.csv", "drop/a.csv")


@pytest.mark.parametrize("keys", [SHARING, SHARING[::-1]])
def test_two_files_that_would_share_a_result_have_one_each(account: Account, keys: tuple[str, str]) -> None:
    for key in keys:
        account.put(key, b"x")
    for key in keys * 2:  # the second time, each goes to the same place as the first time
        assert run(message(account.record(key))) == []
    digest = hashlib.sha256(keys[1].encode()).hexdigest()
    places = "outputs/drop/a.csv.json", f"outputs/drop/a.csv~{digest}.json"
    assert account.keys() == sorted([*keys, *places])
    assert tuple(account.document(place)["key"] for place in places) == keys
    assert account.outcomes() == ["processed"] * 4


def test_no_result_overwrites_that_of_another_file(account: Account) -> None:
    account.put("inputs/a", b"x")
    for place in lambda_function.result_keys("inputs/a", "inputs/", "outputs/"):
        account.s3.put_object(Bucket=account.bucket, Key=place, Body=b"other", Metadata={"key-sha256": "0"})
    assert run(message(account.record("inputs/a"))) == ["m1"]
    assert account.logged()[0]["error_type"] == "ContendedError"
    assert account.text("outputs/a.json") == b"other"


def test_a_result_without_a_digest_is_taken_for_that_of_the_same_file(account: Account) -> None:
    account.put("inputs/a", b"x")
    account.s3.put_object(Bucket=account.bucket, Key="outputs/a.json", Body=b"old", Metadata={"sequencer": "09"})
    assert run(message(account.record("inputs/a"))) == []
    assert account.keys() == ["inputs/a", "outputs/a.json"]
    assert account.document("outputs/a.json")["key"] == "inputs/a"


@pytest.mark.parametrize("length", [1018, 1019, 1024])
def test_the_longest_keys_have_results(account: Account, length: int) -> None:
    key = "inputs/" + "x" * (length - 7)
    account.put(key, b"x")
    assert run(message(account.record(key))) == []
    (_, place) = account.keys()
    assert account.document(place)["key"] == key
    assert ("~" in place) == (length > 1018)
    assert len(place) <= 1024  # the emulator accepts longer ones


@pytest.mark.parametrize("key", ["inputs/\x01\x1f\x7f.csv", "inputs/a\nb\r\tc", "inputs/\ufffe\u2028"])
def test_a_control_character_in_a_key_makes_no_difference(account: Account, key: str) -> None:
    assert run(message(account.record(key))) == []
    account.put(key, b"x")
    for sequencer in ("0A", "0B", "0A"):
        assert run(message(account.record(key, sequencer))) == []
    logged = account.logged()
    assert [line["outcome"] for line in logged] == ["gone", "processed", "processed", "stale"]
    assert {line["key"] for line in logged} == {key}
    (place,) = lambda_function.result_keys(key, "inputs/", "outputs/")[:1]
    assert account.document(place)["sequencer"] == "0B"
    at_put(2, lambda: account.s3.delete_object(Bucket=account.bucket, Key=place))
    assert run(message(account.record(key, "0C"))) == []
    assert account.document(place)["sequencer"] == "0C"


# Once, twice, and out of order


def test_a_second_delivery_gives_the_same_bytes(account: Account) -> None:
    account.put("inputs/a.csv", b"a,b\n1,2\n")
    documents = []
    for _ in range(2):
        assert run(message(account.record("inputs/a.csv"))) == []
        documents.append(account.text("outputs/a.csv.json"))
    assert documents[0] == documents[1]
    assert account.outcomes() == ["processed", "processed"]


@pytest.mark.parametrize("order", list(permutations(("0A", "0A1", "0B"))))
def test_the_newest_event_wins_in_any_order(account: Account, order: tuple[str, ...]) -> None:
    account.put("inputs/a", b"newest")
    for sequencer in order:
        assert run(message(account.record("inputs/a", sequencer))) == []
    assert account.document("outputs/a.json")["sequencer"] == "0B"


def test_a_result_copied_from_another_bucket_is_older_than_any_event(account: Account) -> None:
    for sequencer in ("0B", "0A"):
        account.put("inputs/a", b"x")
        account.s3.put_object(
            Bucket=account.bucket,
            Key="outputs/a.json",
            Body=b"copied",
            Metadata={"sequencer": "0B", "bucket": "another", "key-sha256": lambda_function.key_digest("inputs/a")},
        )
        assert run(message(account.record("inputs/a", sequencer))) == []
        assert account.document("outputs/a.json")["sequencer"] == sequencer
    # The result is of this bucket now, so its sequencer counts.
    assert run(message(account.record("inputs/a", "09"))) == []
    assert account.outcomes() == ["processed", "processed", "stale"]


@pytest.mark.parametrize("newest_first", [True, False])
def test_each_version_is_read_as_it_was_written(account: Account, *, newest_first: bool) -> None:
    account.s3.put_bucket_versioning(Bucket=account.bucket, VersioningConfiguration={"Status": "Enabled"})
    old, new = (account.put("inputs/a", body) for body in (b"old", b"new"))
    assert run(message(account.record("inputs/a", "0A", versionId=old))) == []
    document = account.document("outputs/a.json")
    assert document["version_id"] == old
    assert document["sha256"] == hashlib.sha256(b"old").hexdigest()
    account.s3.delete_object(Bucket=account.bucket, Key="outputs/a.json")
    records = [account.record("inputs/a", "0A", versionId=old), account.record("inputs/a", "0B", versionId=new)]
    for record in reversed(records) if newest_first else records:
        assert run(message(record)) == []
    assert account.document("outputs/a.json")["version_id"] == new


@pytest.mark.parametrize("existing", [None, "01"])
@pytest.mark.parametrize(
    ("mine", "theirs", "outcomes"),
    [("0A", "0B", ["processed", "stale"]), ("0B", "0A", ["processed", "processed"])],
)
def test_another_invocation_writes_just_before_this_one_does(
    account: Account, existing: str | None, mine: str, theirs: str, outcomes: list[str]
) -> None:
    account.put("inputs/a", b"x")
    if existing:
        run(message(account.record("inputs/a", existing)))
        account.logged()
    # If there is a document, the first attempt finds it, and the second replaces it.
    at_put(2 if existing else 1, lambda: run(message(account.record("inputs/a", theirs))))
    assert run(message(account.record("inputs/a", mine))) == []
    assert account.document("outputs/a.json")["sequencer"] == "0B"
    assert account.outcomes() == outcomes


def test_a_document_deleted_between_reading_and_writing_is_written_again(account: Account) -> None:
    account.put("inputs/a", b"x")
    run(message(account.record("inputs/a", "0A")))
    at_put(2, lambda: account.s3.delete_object(Bucket=account.bucket, Key="outputs/a.json"))
    assert run(message(account.record("inputs/a", "0B"))) == []
    assert account.document("outputs/a.json")["sequencer"] == "0B"


def test_a_conflict_is_retried_a_limited_number_of_times(account: Account) -> None:
    account.put("inputs/a", b"x")
    conflict, asked = answer(409, "ConditionalRequestConflict"), [0]

    def before_send(request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        asked[0] += 1
        return conflict(request) if asked[0] <= conflicts else None

    on("before-send.s3.PutObject", before_send)
    conflicts = 2
    assert run(message(account.record("inputs/a"))) == []
    asked, conflicts = [0], 10**6
    assert run(message(account.record("inputs/a"))) == ["m1"]
    assert asked == [lambda_function.STORE_ATTEMPTS]
    assert account.logged()[-1]["error_type"] == "ContendedError"


def test_many_invocations_at_the_same_time_leave_the_newest(account: Account) -> None:
    account.put("inputs/a", b"x")
    sequencers = [f"{number:04X}" for number in range(32)]
    random.Random(1).shuffle(sequencers)  # noqa: S311 - not a secret
    with ThreadPoolExecutor(8) as pool:
        messages = [message(account.record("inputs/a", sequencer)) for sequencer in sequencers]
        assert list(pool.map(run, messages)) == [[]] * len(messages)
    assert account.document("outputs/a.json")["sequencer"] == "001F"


# Failures that are tried again


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (403, "InvalidObjectState"), (412, "Other")])
@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
def test_a_refusal_by_s3_is_a_failure(account: Account, operation: str, status: int, code: str) -> None:
    account.put("inputs/a", b"x")
    on(f"before-send.s3.{operation}", answer(status, code))
    assert run(message(account.record("inputs/a"))) == ["m1"]
    (line,) = account.logged()
    assert (line["level"], line["outcome"]) == ("ERROR", "failed")
    assert code in str(line["error"])
    assert ("reason" in line) is (operation == "GetObject" and code != "Other")
    assert "outputs/a.json" not in account.keys()  # noqa: SIM118 - not a dict's


USER = "User: arn:aws:sts::123456789012:assumed-role/role/function is not authorized to perform:"


@pytest.mark.parametrize(
    ("status", "code", "text", "reason"),
    [
        (403, "InvalidObjectState", "The operation is not valid for the object's storage class", "archived: restore"),
        (
            403,
            "AccessDenied",
            (
                f"{USER} kms:Decrypt on the resource associated with this ciphertext because no identity-based policy "
                "allows the kms:Decrypt action"
            ),
            "a KMS key that the function may not use: add the key's ARN to compute:kmsKeyArns",
        ),
        (
            403,
            "AccessDenied",
            (
                "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
                "or you are not allowed to access."
            ),
            "its KMS key does not exist, or the function may not use it",
        ),
        (
            403,
            "AccessDenied",
            (
                f"{USER} s3:GetObject on resource: arn:aws:s3:::b/inputs/perform: kms:ciphertext because no "
                "identity-based policy allows the s3:GetObject action"
            ),
            "the function's role may not read it: change its policies",
        ),
        (403, "AccessDenied", "Access Denied", "either the function's role may not read it"),
        (
            400,
            "InvalidRequest",
            (
                "The object was stored using a form of Server Side Encryption. The correct parameters must be "
                "provided to retrieve the object."
            ),
            "(SSE-C): upload it again without",
        ),
        (400, "InvalidRequest", "Something else", None),
        (400, "KMS.DisabledException", "arn:aws:kms:eu-west-1:1:key/k is disabled.", "disabled: enable the key"),
        (
            400,
            "KMS.KMSInvalidStateException",
            "arn:aws:kms:eu-west-1:1:key/k is pending deletion.",
            "in its present state",
        ),
        (400, "KMS.NotFoundException", "Key 'k' does not exist", "was not found"),
        (503, "SlowDown", "Please reduce your request rate.", None),
    ],
)
def test_the_log_says_why_s3_refuses_to_return_a_file(
    account: Account, status: int, code: str, text: str, reason: str | None
) -> None:
    on("before-send.s3.GetObject", answer(status, code, text))
    assert run(message(account.record("inputs/a"))) == ["m1"]
    (line,) = account.logged()
    assert text in str(line["error"])
    if reason:
        assert reason in str(line["reason"])
    else:
        assert "reason" not in line


def test_the_log_says_that_a_file_is_encrypted_with_sse_c(account: Account) -> None:
    account.s3.put_object(
        Bucket=account.bucket, Key="inputs/a", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32
    )
    assert run(message(account.record("inputs/a"))) == ["m1"]
    assert "SSE-C" in str(account.logged()[0]["reason"])


def test_a_document_that_may_not_be_read_is_a_failure(account: Account) -> None:
    account.put("inputs/a", b"x")
    run(message(account.record("inputs/a")))
    on("before-send.s3.HeadObject", answer(403, "AccessDenied"))
    assert run(message(account.record("inputs/a"))) == ["m1"]
    assert "HeadObject" in str(account.logged()[-1]["error"])


class Cut:
    """A body that ends too early, with or without an error."""

    def __init__(self, body: bytes, error: Exception | None) -> None:
        self._left = [body]
        self._error = error
        self.closed = False

    def read(self, _: int) -> bytes:
        if not self._left and self._error:
            raise self._error
        return self._left.pop() if self._left else b""

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (None, "IncompleteReadError"),
        (ReadTimeoutError(None, "/", "slow"), "ReadTimeoutError"),  # pyrefly: ignore[bad-argument-type]
        (ConnectionResetError("reset"), "ConnectionResetError"),
    ],
)
def test_an_incomplete_read_is_a_failure(account: Account, error: Exception | None, error_type: str) -> None:
    account.put("inputs/a.csv", b"a\n1\n2\n3\n")
    body = Cut(b"a\n1\n", error)

    def after_call(parsed: dict[str, object], **_: object) -> None:
        parsed["Body"] = StreamingBody(body, 8)  # pyrefly: ignore[bad-argument-type]

    on("after-call.s3.GetObject", after_call)
    assert run(message(account.record("inputs/a.csv"))) == ["m1"]
    assert account.logged()[0]["error_type"] == error_type
    assert account.keys() == ["inputs/a.csv"]
    assert body.closed


# Time


LONG_S = 60
"""Longer than the time that a file has in any of these tests."""


def work_on(*_: object, **__: object) -> None:
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        pass


def sleep(*_: object, **__: object) -> None:
    time.sleep(LONG_S)


def catch_exceptions(*_: object, **__: object) -> None:
    for attempt in range(2):  # noqa: B007 - counts the attempts
        try:
            time.sleep(LONG_S)
        except Exception:  # noqa: BLE001, S112 - so does a careless `process`
            continue


def catch_all_at_first(*_: object, **__: object) -> None:
    with contextlib.suppress(BaseException):
        time.sleep(LONG_S)
    time.sleep(LONG_S)


def wait_for_a_thread(*_: object, **__: object) -> None:
    Event().wait(LONG_S)


def read_from_the_network(*_: object, **__: object) -> None:
    """Send a request with botocore to a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        boto3.client("sqs", endpoint_url=endpoint, config=Config(read_timeout=LONG_S)).list_queues()


@pytest.mark.parametrize(
    "slow",
    [work_on, sleep, catch_exceptions, catch_all_at_first, wait_for_a_thread, read_from_the_network],
)
def test_a_file_that_is_not_finished_in_time_fails_and_the_error_names_what_to_raise(
    account: Account, monkeypatch: pytest.MonkeyPatch, slow: Callable[..., None]
) -> None:
    account.put("inputs/a", b"x")
    monkeypatch.setattr(lambda_function, "ALARM_INTERVAL_S", 0.1)
    monkeypatch.setattr(lambda_function, "process", slow)
    assert run(message(account.record("inputs/a")), context=Context(1_000, 1_000)) == ["m1"]
    (line,) = account.logged()
    assert (line["outcome"], line["error_type"]) == ("failed", "OutOfTimeError")
    assert line["error"] == (
        "not finished within the 0.75 s that a file has: raise messaging:consumerTimeoutSeconds or compute:memorySize"
    )
    assert slow.__name__ in str(line["traceback"])
    assert account.keys() == ["inputs/a"]


@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
def test_a_request_to_s3_is_interrupted_too(account: Account, operation: str) -> None:
    account.put("inputs/a", b"x")
    on(f"before-send.s3.{operation}", sleep)
    assert run(message(account.record("inputs/a")), context=Context(1_000, 1_000)) == ["m1"]
    assert account.logged()[0]["error_type"] == "OutOfTimeError"


def test_the_margin_is_two_seconds_and_at_most_a_quarter_of_the_time(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.put("inputs/a", b"x")
    armed: list[float] = []

    def setitimer(_: int, seconds: float, *__: float) -> None:
        armed.append(seconds)

    monkeypatch.setattr(signal, "setitimer", setitimer)
    for remaining in (60_000, 8_000, 1_000):
        run(message(account.record("inputs/a")), context=Context(remaining, remaining))
    assert armed == [58, 0, 6, 0, 0.75, 0]


def test_a_slow_file_leaves_those_before_it_alone_and_those_after_it_are_not_begun(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "slow", "z"]
    for name in names:
        account.put(f"inputs/{name}", b"x")

    def process(source: Source, body: Iterable[bytes]) -> Result:
        if "slow" in source.key:
            sleep()
        return as_shipped(source, body)

    monkeypatch.setattr(lambda_function, "process", process)
    messages = [message(account.record(f"inputs/{name}"), message_id=name) for name in names]
    assert run(*messages, context=Context(60_000, 60_000, 60_000, 2_250, 2_000)) == ["slow", "z"]
    errors = [None, None, "OutOfTimeError", "NotStartedError"]
    assert [line.get("error_type") for line in account.logged()] == errors


def test_the_error_of_a_file_that_was_not_begun_says_to_lower_the_batch_size(account: Account) -> None:
    names = ["a", "b"]
    for name in names:
        account.put(f"inputs/{name}", b"x")
    messages = [message(account.record(f"inputs/{name}"), message_id=name) for name in names]
    assert run(*messages, context=Context(60_000, 60_000, 2_000)) == ["b"]
    line = account.logged()[-1]
    assert (line["error_type"], line["error"]) == (
        "NotStartedError",
        "not started: the files before it in its batch used up the 58 s that a batch has: lower compute:batchSize",
    )


def test_the_error_of_a_file_that_was_begun_late_says_how_much_time_was_left(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.put("inputs/a", b"x")
    monkeypatch.setattr(lambda_function, "process", sleep)
    assert run(message(account.record("inputs/a")), context=Context(60_000, 2_250)) == ["m1"]
    assert account.logged()[0]["error"] == (
        "not finished within the 0.25 s that the files before it in its batch left of 58 s: lower compute:batchSize, "
        "or raise messaging:consumerTimeoutSeconds or compute:memorySize"
    )


def test_a_signal_outside_of_the_work_on_a_file_interrupts_nothing(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.put("inputs/a", b"x")
    log, setitimer = lambda_function._log, signal.setitimer  # noqa: SLF001 - it is replaced below

    def ring_and(action: Callable[..., object]) -> Callable[..., None]:
        def ringing(*arguments: object, **facts: object) -> None:
            signal.raise_signal(signal.SIGALRM)
            action(*arguments, **facts)
            signal.raise_signal(signal.SIGALRM)

        return ringing

    monkeypatch.setattr(lambda_function, "_log", ring_and(log))
    monkeypatch.setattr(signal, "setitimer", ring_and(setitimer))
    assert run(message(account.record("inputs/a"))) == []

    def ring(*_: object) -> None:
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(lambda_function, "process", ring)
    assert run(message(account.record("inputs/a"))) == ["m1"]
    assert [line.get("error_type") for line in account.logged()] == [None, "OutOfTimeError"]


def test_the_files_received_least_often_come_first_and_of_these_the_smallest(account: Account) -> None:
    tried = {"third": 3, "second": 2, "first": 1, "large": 1, "unknown": "many", "no message": None}
    messages: list[Json] = []
    for name, count in tried.items():
        account.put(f"inputs/{name}", b"x")
        size = 10**12 if name == "large" else 1
        attributes: Json = {"ApproximateReceiveCount": count if count is None else str(count)}
        each = {"messageId": name, "body": json.dumps({"Records": [account.record(f"inputs/{name}", size=size)]})}
        messages.append(each | {"attributes": attributes})
    assert run(*messages, {"messageId": "m", "body": "poison", "attributes": "poison"}, "poison") == ["m"]
    order = [str(line.get("key", "")).removeprefix("inputs/") for line in account.logged()]
    assert order == ["", "", "first", "unknown", "no message", "large", "second", "third"]


# Arbitrary events


@pytest.mark.parametrize("event", [None, [], "text", {}, {"Records": None}, {"Records": {}}, {"Records": "text"}])
def test_an_event_that_is_not_a_batch_is_logged(event: Json, account: Account) -> None:
    assert lambda_function.handler(event, Context()) == {"batchItemFailures": []}
    (line,) = account.logged()
    assert (line["level"], line["request_id"]) == ("ERROR", "request-1")


def test_an_empty_batch_is_done(account: Account) -> None:
    assert run() == []
    assert account.logged() == []


@pytest.mark.parametrize("bad", [None, 1, [], {}, {"messageId": None, "body": "x"}, {"messageId": "", "body": "x"}])
def test_a_message_without_an_id_does_not_fail_its_neighbours(bad: Json, account: Account) -> None:
    account.put("inputs/a", b"x")
    assert run(bad, message(account.record("inputs/a")), {"messageId": "m2"}) == ["m2"]
    assert account.outcomes() == ["failed", "processed", "failed"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
BUCKET = ANY | st.fixed_dictionaries({"name": ANY | st.just("no-such-bucket")})
# No key outside of the prefix, which would be done at once.
KEY = st.sampled_from(["inputs/x", "inputs/%FF", "inputs/+", 1, None])
OBJECT = ANY | st.fixed_dictionaries(
    {"key": KEY, "sequencer": ANY | st.just("0A")}, optional={"versionId": ANY | st.just("1")}
)
S3_PART = st.fixed_dictionaries({"bucket": BUCKET, "object": OBJECT})
RECORD = ANY | st.fixed_dictionaries(
    {"eventSource": st.just("aws:s3") | ANY, "eventName": st.just("ObjectCreated:Put") | ANY, "s3": S3_PART | ANY}
)
BODY = ANY | st.fixed_dictionaries({"Records": st.lists(RECORD, max_size=3)}).map(json.dumps)
MESSAGE = ANY | st.fixed_dictionaries({"messageId": st.sampled_from(["m1", "m2", "m3"]) | ANY, "body": BODY})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.lists(MESSAGE, max_size=4))
def test_the_handler_never_raises_and_loses_no_message(account: Account, messages: list[Json]) -> None:
    account.logged()
    failed = run(*messages)
    ids = [each.get("messageId") for each in messages if isinstance(each, dict)]
    # None of these can be processed, so each that has an id must fail.
    assert sorted(failed) == sorted(each for each in ids if isinstance(each, str) and each)
    assert account.outcomes().count("failed") >= len(messages)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ANY)
def test_the_handler_never_raises_whatever_the_event(account: Account, event: Json) -> None:
    assert lambda_function.handler(event, Context()) == {"batchItemFailures": []}
    account.logged()


def test_logs_quote_neither_contents_nor_bodies(account: Account) -> None:
    account.put("inputs/a.csv", b'a\n"secret-content')
    run(message(account.record("inputs/a.csv")), {"messageId": "m2", "body": '{"secret-body": 1'})
    run({"messageId": "m3", "body": json.dumps({"Records": [{"secret-record": 1}]})})
    lines = json.dumps(account.logged())
    assert "failed" in lines
    assert "secret" not in lines


# In a process of its own: settings and memory


def fresh(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, which has not imported the function yet."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOM), **CREDENTIALS, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_sets_the_prefixes() -> None:
    code = "import lambda_function as f; print(f.INPUT_PREFIX, f.OUTPUT_PREFIX)"
    assert fresh(code).stdout == "inputs/ outputs/\n"
    assert fresh(code, INPUT_PREFIX="in/", OUTPUT_PREFIX="out/").stdout == "in/ out/\n"


@pytest.mark.parametrize(("inputs", "outputs"), [("", "out/"), ("in/", ""), ("in/", "in/out/"), ("a/in/", "a/")])
def test_prefixes_that_would_make_a_loop_are_refused(inputs: str, outputs: str) -> None:
    result = fresh("import lambda_function", INPUT_PREFIX=inputs, OUTPUT_PREFIX=outputs)
    assert "overlap" in result.stderr


SIZE = 128 * 1024 * 1024  # 1 GiB gives the same peak, in eight times the time
BLOCKS = {
    "rows.csv": b'2024-01-01T00:00:00Z,12345,"some, quoted\ntext",another,3.141592\n',
    "one-line.csv": b"x" * 64,
    "one-record.csv": b'"\n",' * 16,
    "keys.jsonl": b"",  # made in `pieces`: no two lines have the same key
    "one-line.jsonl": b"[" * 64,
    "blob.bin": b"\0" * 64,
}


def pieces(name: str) -> Iterator[bytes]:
    """Yield an object of `SIZE` bytes, a piece at a time."""
    size = 1024 * 1024
    for number in range(SIZE // size):
        if name == "keys.jsonl":
            lines = (b'{"%08d": "%s"}\n' % (number * 1024 + line, b"x" * 1007) for line in range(1024))
            yield b"".join(lines)
        else:
            yield BLOCKS[name] * (size // 64)


class Store(BaseHTTPRequestHandler):
    """The part of S3 that one run needs: an emulator would hold the object in memory."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.send_header("ETag", '"e"')
        self.end_headers()
        for piece in pieces(self.path.rpartition("/")[2]):
            self.wfile.write(piece)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:  # pyrefly: ignore[missing-override-decorator, bad-override]
        """Print nothing."""


MEASURE = """
import json, lambda_function
def peak_kib():  # not that of getrusage, which a process inherits from its parent
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
class Context:
    aws_request_id = "r"
    def get_remaining_time_in_millis(self): return 300_000
before = peak_kib()
described = {"key": "inputs/NAME", "sequencer": "0A"}
s3 = {"bucket": {"name": "b"}, "object": described}
body = {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}]}
response = lambda_function.handler({"Records": [{"messageId": "m", "body": json.dumps(body)}]}, Context())
assert response == {"batchItemFailures": []}, response
print(peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", BLOCKS)
def test_memory_does_not_grow_with_the_object(name: str) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Store)) as server:
        result = fresh(MEASURE.replace("NAME", name), AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}")
    assert result.returncode == 0, result.stdout + result.stderr
    log, grown_kib = result.stdout.splitlines()
    assert json.loads(log)["size"] == SIZE
    assert int(grown_kib) < 48 * 1024
