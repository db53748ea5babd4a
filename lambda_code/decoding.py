"""From the bytes of a file to its lines of text: decompression, encodings, line ends.

Whatever the file, what is in memory at a time is bounded by `PIECE_BYTES` and `MAX_RECORD_CHARACTERS`, and the work by
the file's size, or by `MAX_DECOMPRESSED_BYTES` where it is compressed.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import chain
from typing import Final

PIECE_BYTES: Final = 64 * 1024
"""How much is decompressed and decoded at a time, in bytes. What decides on the format has to be in the first piece."""

MAX_DECOMPRESSED_BYTES: Final = 512 * 1024 * 1024
"""The most that a gzipped file may hold, in bytes: it may be 1,032 times its size ("zlib Technical Details").

So much takes a whole processor 6 s as CSV, 10 s as JSON Lines, and 2.5 minutes as nothing but line ends.
"""

MAX_RECORD_CHARACTERS: Final = 1024 * 1024
"""The longest record that is read, with its line end: this, not the size of the file, bounds the memory.

One over several lines may be longer by a piece.
"""

GZIP: Final = b"\x1f\x8b"

_GZIP_FORMAT: Final = 16 + zlib.MAX_WBITS  # zlib's way to say so: the zlib module's page, `decompress`

_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before that of UTF-16, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# How two characters of Latin-1 begin a text without a byte order mark (RFC 4627, section 3).
_WITHOUT_MARK: Final = (
    (re.compile(rb"[^\0]\0\0\0[^\0]\0\0\0", re.DOTALL), "utf-32-le"),
    (re.compile(rb"\0\0\0[^\0]\0\0\0[^\0]", re.DOTALL), "utf-32-be"),
    (re.compile(rb"[^\0]\0[^\0]\0", re.DOTALL), "utf-16-le"),
    (re.compile(rb"\0[^\0]\0[^\0]", re.DOTALL), "utf-16-be"),
)

_BINARY: Final = re.compile(rb"[\0-\x08\x0e-\x19\x1c-\x1f]")
"""Control characters that no text has; 0x1A ends a text of MS-DOS, 0x1B is of terminals."""


class MalformedError(ValueError):
    """A file is not what it claims to be; the text says in what way, in words that no Python version changes."""


class TooLongError(MalformedError):
    """A record is longer than `MAX_RECORD_CHARACTERS`."""


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream into pieces of `PIECE_BYTES`, so that no answer depends on where its chunks happen to end."""
    pending = bytearray()
    try:
        for chunk in chunks:
            pending += chunk
            whole = len(pending) - len(pending) % PIECE_BYTES
            for start in range(0, whole, PIECE_BYTES):
                yield bytes(pending[start : start + PIECE_BYTES])
            del pending[:whole]
    except MalformedError:
        yield bytes(pending)  # what was whole comes before what is not, so that its line is the right one
        raise
    yield bytes(pending)


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip, which may be several members one after the other (RFC 1952, section 2.2), in small pieces.

    Raises:
        MalformedError: It is damaged, cut off, or holds more than `MAX_DECOMPRESSED_BYTES`.
    """
    room, member = MAX_DECOMPRESSED_BYTES, zlib.decompressobj(_GZIP_FORMAT)
    for chunk in chunks:
        rest = chunk
        while rest:
            if member.eof:
                rest = rest.lstrip(b"\0")  # padding, as on tapes: gzip itself skips it
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
    """Return the encoding of a text, by Python's name.

    A byte order mark says it, or that every other byte is zero as in UTF-16. A charset is believed where it is one of
    those of one byte a character, as no look at the bytes can tell these apart. Everything else is taken for UTF-8.

    Args:
        start: The first bytes of the text.
        parameters: What comes after the media type in its content type, in lower case.
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
        MalformedError: A byte is not of that encoding; all before it has been given out.
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
    """Say why bytes could not be decoded, with what they most likely are."""
    if encoding != "utf-8":
        return f"not {encoding.upper()}"
    if _BINARY.search(error.object):
        return "not text"
    if error.reason == "unexpected end of data":
        return "not UTF-8: it ends within a character"
    if not error.object[: error.start].isascii():
        return "not UTF-8"  # but what comes before was
    try:
        error.object[error.start :].decode("windows-1252")
    except UnicodeDecodeError:
        return "not UTF-8"
    return "not UTF-8, most likely Windows-1252: save it as UTF-8"


class Lines:
    r"""The lines of a text, each with its end: `\n`, `\r\n` or `\r`.

    Attributes:
        record_line: The line, from 1, that the current record begins on. Whoever reads the lines sets it after each
            record, and so says that there is one.
        ended: Whether all lines have been given out, and one more was asked for.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.record_line = 1
        self.ended = False
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        """Give out the lines.

        Raises:
            TooLongError: A record is longer than `MAX_RECORD_CHARACTERS`.
        """
        return chain.from_iterable(self._blocks())  # not line by line: that takes a third of the time of all

    def _blocks(self) -> Iterator[list[str]]:
        rest, first, before = "", 1, 0  # `first` is the number of the block's first line
        for text in self._texts:
            block = list(StringIO(rest + text, newline=""))
            # The last line may go on in the next piece, as may its end after a "\r".
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
    """Refuse a line with which its record is too long, of which there are so many characters ``before`` it."""
    if before + len(line) > MAX_RECORD_CHARACTERS:
        remark = " over several lines, as if a quote were never closed" if before else ""
        raise TooLongError(f"a record longer than {MAX_RECORD_CHARACTERS} characters{remark}")
