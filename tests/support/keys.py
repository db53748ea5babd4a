"""Keys of all kinds that S3 allows."""

import random
import sys
import unicodedata
from collections.abc import Callable
from typing import Final

from hypothesis import settings

LONGEST_BYTES: Final = 1024
"""Amazon S3 User Guide, "Naming Amazon S3 objects"."""

_SURROGATES: Final = range(0xD800, 0xE000)
_KINDS: Final[list[Callable[[random.Random], str]]] = [
    lambda chance: chr(chance.randrange(0x20)),
    lambda chance: chr(chance.randrange(0x7F, 0xA1)),
    lambda chance: chr(chance.randrange(0x20, 0x7F)),
    lambda chance: chance.choice(["%", "%2F", "%25", "+", " ", "&", "<", ">", '"', "'", "\\", "?", "#", "=", "~", "*"]),
    lambda chance: chance.choice(["/", "//", "./", "../", ".", ".json", "[bold]", "[/]", ":smile:"]),
    lambda chance: chance.choice(["\u200d", "\u202e", "\u2028", "\ufeff", "\ufffe", "\U0010ffff", "\x1b[2J", "\r"]),
    lambda chance: chance.choice("aeiou") + chr(chance.randrange(0x300, 0x370)),
    lambda chance: chr(chance.choice([*range(0xAC00, 0xAC20), 0xC5, 0x212B, 0x1E9B, 0xFB01])),
    lambda chance: chr(chance.randrange(sys.maxunicode + 1)),
]


def names(prefix: str, seed: int) -> list[str]:
    """Return names of files, and the same in Unicode's two normal forms where they differ.

    Of each, the key is `prefix` and the name. There are about 100, and more in the stress profile.
    """
    chance, found = random.Random(seed), dict[str, None]()  # noqa: S311 - not for secrets
    room = LONGEST_BYTES - len(prefix.encode())
    while len(found) < settings().max_examples:
        kinds = chance.choices(_KINDS, k=chance.choice([1, 2, len(_KINDS)]))
        size = chance.choice([1, 2, 5, 20, room - 1, room])
        text = ""
        while len(text.encode()) < size:
            text += "".join(each for each in chance.choice(kinds)(chance) if ord(each) not in _SURROGATES)
        for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
            if name := form.encode()[:room].decode(errors="ignore"):
                found[name] = None
    return list(found)
