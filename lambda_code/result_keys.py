"""Where the result of a file is: used by the function that writes it and by the commands that look for it."""

import hashlib
from typing import Final

MAX_KEY_BYTES: Final = 1024
"""The longest key that S3 takes, in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects")."""


def result_keys(key: str, input_prefix: str, output_prefix: str) -> list[str]:
    """Return the keys that the result of a file may have, the one to try first in front.

    The first is the output prefix, the file's key without the input prefix (the whole key where it does not begin with
    it), and `.json`. Where that is longer than S3 allows, or taken by the result of another file, it is the second:
    cut to length, with `~`, the SHA-256 of the file's key and `.json` at its end.

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
    """Return the SHA-256 of a key, in hexadecimal: a result carries that of its file as metadata `key-sha256`."""
    return hashlib.sha256(key.encode()).hexdigest()
