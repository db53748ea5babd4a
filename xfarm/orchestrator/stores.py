"""Reads and writes the files of a self-managed backend in a folder or an S3 bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

DEFAULT_PREFIX: Final = "xfarm-pipeline-state-"
"""What the names of the state buckets that `bootstrap` creates by default begin with; account and region follow."""

_PARAMETERS: Final = {
    "file": frozenset({"create_dir", "metadata", "no_tmp_dir"}),
    "s3": frozenset({"awssdk", "prefix", "region"}),
}
"""The parameters of URLs that don't change which files are read, or that `key_prefix` knows, by scheme.

Others may, such as `profile` and `endpoint` ("fileblob" and "s3blob", Go CDK documentation).
"""


class Store(Protocol):
    """A backend whose files can be read and written."""

    def names(self, folder: str) -> list[str]:
        """Return the paths of the JSON files in a folder."""
        ...

    def read(self, path: str) -> str | None:
        """Return the content of a file, or None if there is none."""
        ...

    def write(self, path: str, content: str) -> None:
        """Write a file."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""
        ...


@dataclass(frozen=True)
class Folder:
    """A backend in a folder of this machine."""

    root: Path

    def names(self, folder: str) -> list[str]:
        """Return the paths of the JSON files in a folder."""
        return sorted(f"{folder}/{path.name}" for path in (self.root / folder).glob("*.json"))

    def read(self, path: str) -> str | None:
        """Return the content of a file, or None if there is none."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def write(self, path: str, content: str) -> None:
        """Write a file in place, so that its lock remains."""
        (self.root / path).write_text(content, encoding="utf-8")

    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""
        (self.root / path).unlink(missing_ok=True)


def store(url: str) -> Store | None:
    """Return the backend at a URL, or None if it is of a kind whose files only Pulumi can read."""
    parts = urlsplit(url)
    if parse_qs(parts.query).keys() - _PARAMETERS.get(parts.scheme, frozenset()):
        return None
    if parts.scheme == "s3":
        from xfarm.orchestrator.bucket import Bucket  # noqa: PLC0415 - boto3 is slow to import, `local` needs none

        return Bucket(parts.netloc, key_prefix(url))
    try:
        root = Path(unquote(parts.netloc + parts.path)).expanduser()
    except RuntimeError:  # there is no such user
        return None
    return Folder(root) if parts.scheme == "file" and root.is_absolute() else None


def key_prefix(url: str) -> str:
    """Return what the keys of a backend in an S3 bucket begin with (`newDIYBackend` in pulumi/pkg/backend/diy)."""
    parts = urlsplit(url)
    folder = unquote(parts.path).lstrip("/")
    prefix = "".join(parse_qs(parts.query).get("prefix", []))
    return prefix + folder + ("/" if folder and not folder.endswith("/") else "")
