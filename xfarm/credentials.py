"""Knows the credentials at hand, and replaces them in every text that leaves the program.

Errors are turned into sentences without credentials where they arise. This is for all that nobody has thought of: a
traceback, a message of AWS or of Pulumi that quotes what was sent, a value that was set as the wrong variable.
"""

import html
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Final, TextIO
from urllib.parse import quote, quote_plus, unquote

MINIMUM: Final = 8
"""The length in characters from which on a value is replaced.

Credentials of AWS, Pulumi and GitHub are longer; 8 is the least that a password should have ("Digital Identity
Guidelines", NIST SP 800-63B). To replace a shorter one, such as the emulator's `test`, would make texts unreadable.
"""

PLACEHOLDER: Final = "***"

_VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "GITHUB_TOKEN",
    "PULUMI_ACCESS_TOKEN",
    "PULUMI_CONFIG_PASSPHRASE",
)
_FILES: Final = (
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "PULUMI_CONFIG_PASSPHRASE_FILE",
)
"""The variables with the path of a file that holds a credential."""

_PASSWORD: Final = re.compile(r"://[^/?#@\s]*?:([^/?#@\s]+)@")
"""The password in a URL, such as that of a proxy or of Pulumi's state."""

_ESCAPE: Final = re.compile(rb"\x1b\[[0-9;]*m")
"""The codes with which a terminal changes colours; rich puts them into the middle of a value, around numbers."""

_ESCAPES: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: quote(text, errors="surrogatepass"),
    lambda text: quote(text, safe="", errors="surrogatepass"),
    lambda text: quote_plus(text, errors="surrogatepass"),
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: repr(text.encode(errors="surrogatepass"))[2:-1],
    html.escape,
)

_forms: Final[set[bytes]] = set()
"""All that is replaced. It only grows, perhaps in another thread: readers take a copy."""


def remember(*values: str | None) -> None:
    """Replace these values in all texts from now on."""
    _forms.update({form for value in values if value for form in _written(value)})


def _written(value: str) -> Iterator[bytes]:
    """Yield the forms in which a value may be in a text.

    A value with blanks or quotes in it, from copying, may be taken apart at these.
    """
    for part in {value, *re.split(r"[\s\x00-\x1f\x7f'\"]+", value)}:
        if len(part) >= MINIMUM:
            forms = {part, *(escape(part) for escape in _ESCAPES)}
            forms |= {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in forms}
            for ascii_only in (True, False):
                forms |= {json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in forms}
            for form in forms | {form.replace("</", r"<\/") for form in forms}:  # as Tornado writes JSON
                yield from (form.encode(encoding, "backslashreplace") for encoding in ("utf-8", "latin-1", "ascii"))


def remember_environment(environment: Mapping[str, str]) -> None:
    """Replace the credentials in these variables, and in files that they name, from now on."""
    remember(*map(environment.get, _VARIABLES))
    for value in environment.values():
        for password in _PASSWORD.findall(value):
            remember(password, unquote(password))
    for path in filter(None, map(environment.get, _FILES)):
        with suppress(OSError, ValueError):
            remember(Path(path).read_text(encoding="utf-8").strip())


def blank(text: str) -> str:
    """Return a text without credentials."""
    return _blank(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _blank(text: bytes) -> bytes:
    blanked = _replace(text)
    if _ESCAPE.search(blanked) and (plain := _ESCAPE.sub(b"", blanked)) != (replaced := _replace(plain)):
        return replaced  # without colours, rather than with a credential in several
    return blanked


def _replace(text: bytes) -> bytes:
    for form in sorted(_forms.copy(), key=len, reverse=True):  # the longest first: another may be its beginning
        text = text.replace(form, PLACEHOLDER.encode())
    return text


class _Output(io.BufferedIOBase):
    """The binary part of standard output or standard error, without credentials.

    What may be the beginning of a credential, at the end of what was written, is written with what follows.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # which would close its buffer with it
        self._buffer = stream.buffer
        self._held = b""
        self._lock = RLock()

    def write(self, data: bytes) -> int:  # pyrefly: ignore[bad-override]
        """Write data, except for what may be the beginning of a credential."""
        with self._lock:
            text = _blank(self._held + bytes(data))
            self._held = _beginning(text)
            self._buffer.write(text.removesuffix(self._held))
        return len(data)

    def flush(self) -> None:
        """Flush what was written."""
        if not self._buffer.closed:
            self._buffer.flush()

    def release(self) -> None:
        """Write what was held back: nothing follows."""
        held, self._held = self._held, b""
        self._buffer.write(held)
        self._buffer.flush()

    @property
    def name(self) -> str:
        """The name of the stream, such as `<stdout>`."""
        return self._buffer.name

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._buffer.fileno()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._buffer.isatty()


def _beginning(text: bytes) -> bytes:
    """Return the end of a text that is the beginning of a credential. No credential goes over the end of a line."""
    if not (forms := _forms.copy()):
        return b""
    last = text[text.rfind(b"\n") + 1 :][-max(map(len, forms)) :]
    first_bytes = {form[0] for form in forms}
    for start, byte in enumerate(last):
        end = last[start:]
        if byte in first_bytes and any(form.startswith(end) for form in forms):
            return end
    return b""


def guard_output() -> None:
    """Let nothing reach standard output and standard error but without credentials, and remember the environment's."""
    remember_environment(os.environ)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream.buffer, _Output):
            guarded = io.TextIOWrapper(
                _Output(stream),
                stream.encoding,
                stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, guarded)


def release_output() -> None:
    """Flush standard output and standard error."""
    for stream in (sys.stdout, sys.stderr):
        if stream:  # it is None if it is closed
            stream.flush()
            buffer = getattr(stream, "buffer", None)
            if isinstance(buffer, _Output):
                buffer.release()
