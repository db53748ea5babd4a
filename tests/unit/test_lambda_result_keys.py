import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_keys import MAX_KEY_BYTES, key_digest, result_keys

KEY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=1024).filter(lambda key: len(key.encode()) <= 1024)
LONG = st.tuples(st.sampled_from("xé€😀"), st.integers(1000, 1024)).map(
    lambda each: each[0] * (each[1] // len(each[0].encode()))
)


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("inputs/a.csv", "outputs/a.csv.json"),
        ("inputs/deep/er/a", "outputs/deep/er/a.json"),
        ("inputs/inputs/a", "outputs/inputs/a.json"),
        ("drop/a", "outputs/drop/a.json"),
        ("inputs", "outputs/inputs.json"),
        ("inputs/" + "x" * 1011, "outputs/" + "x" * 1011 + ".json"),
    ],
)
def test_the_first_key_is_the_plain_one(key: str, plain: str) -> None:
    assert result_keys(key, "inputs/", "outputs/")[0] == plain


def test_the_other_key_ends_in_the_digest_of_the_files_key() -> None:
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert result_keys("a", "inputs/", "outputs/") == ["outputs/a.json", f"outputs/a~{digest}.json"]


def test_a_name_is_cut_between_two_characters() -> None:
    key = "inputs/" + "😀" * 254
    (place,) = result_keys(key, "inputs/", "outputs/")
    assert place == f"outputs/{'😀' * 236}~{key_digest(key)}.json"


@given(KEY | LONG)
def test_no_key_is_longer_than_s3_allows(key: str) -> None:
    places = result_keys(key, "inputs/", "outputs/")
    assert all(len(place.encode()) <= MAX_KEY_BYTES for place in places)
    assert re.fullmatch(r"outputs/.*~[0-9a-f]{64}\.json", places[-1], re.DOTALL)
    assert len(places) == 2 or len(f"outputs/{key.removeprefix('inputs/')}.json".encode()) > MAX_KEY_BYTES
