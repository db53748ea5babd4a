"""Turns the bytes of a file into lines of text: decompression, encodings, line ends.

`PIECE_BYTES` and `MAX_RECORD_CHARACTERS` limit the memory that any file takes. The work is limited by the file's size
or, for a compressed file, by `MAX_DECOMPRESSED_BYTES`.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import chain
from typing import Final

PIECE_BYTES: Final = 64 * 1024
"""The number of bytes decompressed and decoded at a time. The format is detected from the first piece alone."""

MAX_DECOMPRESSED_BYTES: Final = 512 * 1024 * 1024
"""The most that a gzipped file may contain, in bytes: it can be 1,032 times its size ("zlib Technical Details").

On a full CPU, this much takes 6 s as CSV, 10 s as JSON Lines, and 2.5 minutes if it is only line ends.
"""

MAX_RECORD_CHARACTERS: Final = 1024 * 1024
"""The longest record that is read, including its line end. This limits the memory, not the size of the file.

A record over several lines can be up to one piece longer.
"""

GZIP: Final = b"\x1f\x8b"

_GZIP_FORMAT: Final = 16 + zlib.MAX_WBITS  # the `wbits` for gzip: `zlib.decompress` in Python's documentation

_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# A text without a byte order mark that begins with two characters of Latin-1 (RFC 4627, section 3).
_WITHOUT_MARK: Final = (
    (re.compile(rb"[^\0]\0\0\0[^\0]\0\0\0", re.DOTALL), "utf-32-le"),
    (re.compile(rb"\0\0\0[^\0]\0\0\0[^\0]", re.DOTALL), "utf-32-be"),
    (re.compile(rb"[^\0]\0[^\0]\0", re.DOTALL), "utf-16-le"),
    (re.compile(rb"\0[^\0]\0[^\0]", re.DOTALL), "utf-16-be"),
)

_BINARY: Final = re.compile(rb"[\0-\x08\x0e-\x19\x1c-\x1f]")
"""Control characters that no text contains. Texts do contain 0x1A (end of file in MS-DOS) and 0x1B (terminals)."""


class MalformedError(ValueError):
    """A file is not what it claims to be; the message says why and is the same in every Python version."""


class TooLongError(MalformedError):
    """A record is longer than `MAX_RECORD_CHARACTERS`."""


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream into pieces of `PIECE_BYTES`, so that the result does not depend on where its chunks end."""
    pending = bytearray()
    try:
        for chunk in chunks:
            pending += chunk
            whole = len(pending) - len(pending) % PIECE_BYTES
            for start in range(0, whole, PIECE_BYTES):
                yield bytes(pending[start : start + PIECE_BYTES])
            del pending[:whole]
    except MalformedError:
        yield bytes(pending)  # the valid bytes first, so that the error is reported for the right line
        raise
    yield bytes(pending)


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip, of one or more members (RFC 1952, section 2.2), in small pieces.

    Raises:
        MalformedError: It is damaged, truncated, or contains more than `MAX_DECOMPRESSED_BYTES`.
    """
    room, member = MAX_DECOMPRESSED_BYTES, zlib.decompressobj(_GZIP_FORMAT)
    for chunk in chunks:
        rest = chunk
        while rest:
            if member.eof:
                rest = rest.lstrip(b"\0")  # padding, which gzip skips too
                if not rest:
                    break
                member = zlib.decompressobj(_GZIP_FORMAT)
            try:
                piece = member.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise MalformedError("corrupt gzip") from error
            yield piece[:room]
            room -= len(piece)
            if room < 0:
                raise MalformedError(f"more than {MAX_DECOMPRESSED_BYTES} bytes when decompressed")
            rest = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise MalformedError("truncated gzip")


def encoding_of(start: bytes, parameters: str) -> str:
    """Return Python's name for the encoding of a text.

    A byte order mark decides, or the zero bytes of UTF-16 and UTF-32. A declared charset is used only if it is a
    single-byte encoding, as these can't be detected from the bytes. Everything else is read as UTF-8.

    Args:
        start: The first bytes of the text.
        parameters: The part of its content type after the media type, in lower case.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    for pattern, encoding in _WITHOUT_MARK:
        if pattern.match(start):
            return encoding
    declared = re.search(r'charset="?(windows-125[0-8]|iso-8859-(?:1[0-6]?|[2-9]))\b', parameters)
    return declared[1] if declared and declared[1] != "iso-8859-12" else "utf-8"


def decode(chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """Decode a stream.

    Raises:
        MalformedError: A byte is not valid in this encoding; everything before it has been yielded.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        yield error.object[: error.start].decode(encoding)
        raise MalformedError(_not_of(encoding, error)) from error


def _not_of(encoding: str, error: UnicodeDecodeError) -> str:
    """Return why bytes could not be decoded, and what they most likely are."""
    if encoding != "utf-8":
        return f"not {encoding.upper()}"
    if _BINARY.search(error.object):
        return "not text"
    if error.reason == "unexpected end of data":
        return "not UTF-8: it ends within a character"
    if not error.object[: error.start].isascii():
        return "not UTF-8"  # the text before it was, so it is not Windows-1252
    try:
        error.object[error.start :].decode("windows-1252")
    except UnicodeDecodeError:
        return "not UTF-8"
    return "not UTF-8, most likely Windows-1252: save it as UTF-8"


class Lines:
    r"""The lines of a text, each with its end: `\n`, `\r\n` or `\r`.

    Attributes:
        record_line: The line, from 1, on which the current record begins. The reader sets it after each record.
        ended: Whether the reader has asked for a line after the last one.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.record_line = 1
        self.ended = False
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the lines.

        Raises:
            TooLongError: A record is longer than `MAX_RECORD_CHARACTERS`.
        """
        return chain.from_iterable(self._blocks())  # yielding single lines takes a third of the total time

    def _blocks(self) -> Iterator[list[str]]:
        rest, first, before = "", 1, 0  # `first`: the number of the block's first line
        for text in self._texts:
            block = list(StringIO(rest + text, newline=""))
            # The last line may continue in the next piece, and so may its end: "\r" here, "\n" there.
            rest = block.pop() if block and not block[-1].endswith("\n") else ""
            _check_length(before, block[0] if block else rest)
            yield block
            began = self.record_line - first
            before = sum(map(len, block[max(began, 0) :])) + (before if began < 0 else 0)
            first += len(block)
            _check_length(before, rest)
        if rest:
            yield [rest]
        self.ended = True


def _check_length(before: int, line: str) -> None:
    """Raise if a line makes its record too long; `before` is the number of the record's characters before it."""
    if before + len(line) > MAX_RECORD_CHARACTERS:
        remark = " over several lines, as if a quote were never closed" if before else ""
        raise TooLongError(f"a record longer than {MAX_RECORD_CHARACTERS} characters{remark}")
