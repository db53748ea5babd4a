"""The keys of results, for the function that writes them and for the commands that look for them."""

import hashlib
from typing import Final

MAX_KEY_BYTES: Final = 1024
"""The longest key that S3 accepts, in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects")."""


def result_keys(key: str, input_prefix: str, output_prefix: str) -> list[str]:
    """Return the keys that the result of a file can have, in the order to try them.

    The first consists of the output prefix, the file's key without the input prefix (if it begins with it), and
    `.json`. It is left out if it is longer than S3 allows. The second is for when the first is left out, or taken by
    another file's result: it is cut to length and ends with `~`, the SHA-256 of the file's key and `.json`.

    Args:
        key: The file's key, decoded.
        input_prefix: The prefix of the files.
        output_prefix: The prefix of the results.
    """
    plain = output_prefix + key.removeprefix(input_prefix)
    end = f"~{key_digest(key)}.json"
    distinct = plain.encode()[: MAX_KEY_BYTES - len(end)].decode(errors="ignore") + end
    fits = len(plain.encode()) + len(".json") <= MAX_KEY_BYTES
    return [f"{plain}.json", distinct] if fits else [distinct]


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal. A result has that of its file's key as metadata `key-sha256`."""
    return hashlib.sha256(key.encode()).hexdigest()
