"""Reads and writes the files of a backend that Pulumi doesn't manage itself: in a folder, or in an S3 bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit


class Store(Protocol):
    """A backend whose files can be read and written."""

    def names(self, folder: str) -> list[str]:
        """Return the paths of the files in a folder and below it."""
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
        """Return the paths of the files in a folder and below it."""
        return sorted(path.relative_to(self.root).as_posix() for path in (self.root / folder).rglob("*.*"))

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
    if parts.scheme == "s3":
        from xfarm.orchestrator.bucket import Bucket  # noqa: PLC0415 - boto3 is slow to import, `local` needs none

        prefix = parts.path.strip("/")
        return Bucket(parts.netloc, f"{prefix}/" if prefix else "")
    root = Path(unquote(parts.netloc + parts.path)).expanduser()
    return Folder(root) if parts.scheme == "file" and root.is_absolute() else None
