"""The count of files and messages that a destruction would delete."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import ClientError

from xfarm.operations.pipeline import Counts
from xfarm.orchestrator import losses, recovery

BUCKET, QUEUE = "aws:s3/bucket:Bucket", "aws:sqs/queue:Queue"


class S3:
    """A bucket whose files are listed on pages of two."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def get_paginator(self, name: str) -> "S3":
        assert name == "list_objects_v2"
        return self

    def paginate(self, **_: str) -> Iterator[dict[str, Any]]:
        for start in range(0, max(len(self.sizes), 1), 2):
            page = self.sizes[start : start + 2]
            yield {"Contents": [{"Size": size} for size in page], "IsTruncated": start + 2 < len(self.sizes)}


def error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no access"}}, "GetQueueAttributes")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    contents: dict[str, Any] = {"bucket": [], "main": Counts(waiting=0, in_flight=0)}

    def queue(url: str) -> Counts:
        found = contents[url.rpartition("/")[2]]
        if isinstance(found, Exception):
            raise found
        return found

    def client(_service: str) -> S3:
        return S3(contents["bucket"])

    monkeypatch.setattr(recovery, "client", client)
    monkeypatch.setattr(losses, "counts", queue)
    return contents


def lines(step_s: float = 0) -> list[str]:
    seconds = count(0.0, step_s)
    resources = [(BUCKET, "bucket"), ("aws:iam/role:Role", "role"), (QUEUE, "https://sqs/1/main")]
    return losses.losses(resources, lambda: next(seconds))


def test_an_empty_bucket_and_queue_are_not_mentioned(account: dict[str, Any]) -> None:
    assert lines() == []
    assert account


def test_files_bytes_and_messages_are_counted(account: dict[str, Any]) -> None:
    account |= {"bucket": [1, 1000, 3], "main": Counts(waiting=1, in_flight=2)}
    assert lines() == ["the bucket 'bucket' with 3 files (1,004 bytes)", "the queue 'main' with 3 messages"]
    account |= {"bucket": [5], "main": Counts(waiting=1, in_flight=0)}
    assert lines() == ["the bucket 'bucket' with 1 file (5 bytes)", "the queue 'main' with 1 message"]


def test_after_ten_seconds_the_count_is_a_minimum(account: dict[str, Any]) -> None:
    account["bucket"] = [1] * 10
    assert lines(step_s=6) == ["the bucket 'bucket' with more than 4 files (4 bytes)"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", []),
        (
            "AccessDenied",
            ["'main', with contents that can't be counted: AWS refused GetQueueAttributes: no access (AccessDenied)."],
        ),
    ],
)
def test_a_deleted_queue_is_not_mentioned_and_one_that_cannot_be_counted_is(
    account: dict[str, Any], code: str, expected: list[str]
) -> None:
    account["main"] = error(code)
    assert lines() == expected
