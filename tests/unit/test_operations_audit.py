"""The audit's comparison of listings, on a bucket in memory."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from lambda_code.result_keys import key_digest, result_keys
from tests.support.undeployed import PIPELINE
from xfarm.errors import UserError
from xfarm.operations import audit

NOW = datetime(2026, 11, 26, tzinfo=UTC)
PAGE = 3
"""The objects in one answer."""


class Bucket:
    """The part of S3's client that the audit uses. Keys with `None` have no digest in their metadata."""

    def __init__(self, keys: dict[str, str | None]) -> None:
        self.keys = keys
        self.requests = 0

    def list_objects_v2(self, *, Prefix: str, Delimiter: str = "", **_: object) -> dict[str, Any]:  # noqa: N803 - boto3's
        return next(self.paginate(Prefix=Prefix, Delimiter=Delimiter))

    def get_paginator(self, _name: str) -> "Bucket":
        return self

    def paginate(self, *, Prefix: str, Delimiter: str = "", **_: object) -> Iterator[dict[str, Any]]:  # noqa: N803 - boto3's
        """Yield pages in the order of the keys' bytes, as S3 does."""
        entries: dict[str, bool] = {}
        for key in sorted((key for key in self.keys if key.startswith(Prefix)), key=str.encode):
            head, slash, _rest = key[len(Prefix) :].partition("/") if Delimiter else (key, "", "")
            entries[Prefix + head + slash if slash else key] = bool(slash)
        names = list(entries)
        for start in range(0, max(len(names), 1), PAGE):
            self.requests += 1
            page = names[start : start + PAGE]
            yield {
                "IsTruncated": start + PAGE < len(names),
                "Contents": [
                    {"Key": key, "ETag": '"etag"', "Size": 1, "LastModified": NOW} for key in page if not entries[key]
                ],
                "CommonPrefixes": [{"Prefix": key} for key in page if entries[key]],
            }

    def head_object(self, *, Key: str, **_: object) -> dict[str, Any]:  # noqa: N803 - boto3's
        if Key not in self.keys:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")
        digest = self.keys[Key]
        return {"Metadata": {"key-sha256": digest} if digest else {}, "LastModified": NOW}


names = st.text(st.sampled_from("ab-./~!\U0001f600\ue000"), min_size=1, max_size=6).filter(lambda name: name[-1] != "/")
long_names = st.tuples(names, st.integers(930, 1010).map("x".__mul__)).map("".join)


@given(st.dictionaries(names | long_names, st.sampled_from(["none", "first", "second"])))
def test_each_file_is_found_once_with_its_result_in_whatever_order_the_keys_are(files: dict[str, str]) -> None:
    keys: dict[str, str | None] = {}
    wanted = {}
    for name, place in files.items():
        key = PIPELINE.input_prefix + name
        keys[key] = None
        places = result_keys(key, PIPELINE.input_prefix, PIPELINE.output_prefix)
        wanted[key] = place != "none"
        if wanted[key]:
            keys[places[0 if place == "first" else -1]] = key_digest(key)
    bucket: Any = Bucket(keys)
    parts = audit.folders(bucket, PIPELINE, PIPELINE.input_prefix)
    found = [(file.key, result is not None) for part in parts for file, result in part.pairs(bucket)]
    assert sorted(found) == sorted(wanted.items())


def test_a_bucket_with_many_folders_is_compared_in_parts() -> None:
    bucket: Any = Bucket({f"{PIPELINE.input_prefix}{folder}/{name}": None for folder in "ab" for name in "12"})
    parts = audit.folders(bucket, PIPELINE, PIPELINE.input_prefix)
    assert {part.prefix for part in parts if not part.flat} == {"inputs/a/", "inputs/b/"}


@pytest.mark.parametrize("prefix", ["outputs/", "a.csv", "input"])
def test_a_prefix_outside_the_input_folder_is_refused(prefix: str) -> None:
    with pytest.raises(UserError, match="is not in 'inputs/'"):
        audit.require_input(PIPELINE, prefix)


def test_without_a_prefix_all_files_are_meant() -> None:
    assert audit.require_input(PIPELINE, "") == "inputs/"
