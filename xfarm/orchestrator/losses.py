"""Counts the files and messages that a destruction would delete."""

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from botocore.exceptions import ClientError

from xfarm.aws_errors import explain, is_missing
from xfarm.operations.pipeline import counts, number_of
from xfarm.orchestrator import recovery

LIMIT_S: Final = 10
"""The maximum time to count the files of a bucket, in seconds."""


def losses(resources: Iterable[tuple[str, str]], clock: Callable[[], float] = monotonic) -> list[str]:
    """Return a line for each bucket and each queue that is not empty.

    Args:
        resources: The types and IDs of the resources to delete.
        clock: Returns the time in seconds.
    """
    lines = []
    for kind, identity in resources:
        name = identity.rpartition("/")[2]
        try:
            if kind == "aws:s3/bucket:Bucket" and (files := _files(identity, clock)):
                lines.append(f"the bucket '{name}' with {files}")
            elif kind == "aws:sqs/queue:Queue" and (number := _messages(identity)):
                lines.append(f"the queue '{name}' with {number_of(number, 'message')}")
        except ClientError as error:
            if not is_missing(error):  # it was not deleted by hand
                lines.append(f"'{name}', with contents that can't be counted: {explain(error)}")
    return lines


def _messages(queue_url: str) -> int:
    found = counts(queue_url)
    return found.waiting + found.in_flight


def _files(bucket: str, clock: Callable[[], float]) -> str:
    """Return the number of files in a bucket and their size; an empty string if it has none."""
    number = size = 0
    end, more = clock() + LIMIT_S, ""
    for page in recovery.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket):
        contents = page.get("Contents", [])
        number += len(contents)
        size += sum(item["Size"] for item in contents)
        if page["IsTruncated"] and clock() > end:
            more = "more than "
            break
    return f"{more}{number_of(number, 'file')} ({number_of(size, 'byte')})" if number else ""
