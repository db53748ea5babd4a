"""A Lambda function's code as Pulumi sends it (an archive value), and as Terraform's provider wants it (a zip file)."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from xfarm.errors import UserError

_SIGNATURE = "4dabf18193072939515e22adb298388d"
"""The key that marks special values in Pulumi's wire format (`resource.SigKey` in pulumi/sdk)."""
_ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold: the same for every file, so that equal content makes equal bytes."""
_FILE_MODE = 0o644 << 16


def is_archive(value: object) -> bool:
    """Whether `value` is an archive in Pulumi's wire format (and not, say, still unknown)."""
    return isinstance(value, dict) and value.get(_SIGNATURE) == _ARCHIVE


def zip_path(archive: dict[str, Any], folder: Path, base: Path) -> Path:
    """Where the zip of `archive` belongs: its name follows from the content, so that new code has a new name.

    The engine sends the content's hash along. Only that tells what an archive in the state held when it was deployed:
    the folder it names may have changed since.

    Args:
        archive: The archive.
        folder: The folder for zip files.
        base: What its relative paths are relative to.
    """
    digest = archive.get("hash") or hashlib.sha256(_zip(archive, base)).hexdigest()
    return folder / f"{digest}.zip"


def write_zip(archive: dict[str, Any], folder: Path, base: Path) -> None:
    """Write the zip of `archive` where `zip_path` says, unless it is there already.

    Raises:
        UserError: The archive names something that is no file, folder or zip on this machine.
    """
    target = zip_path(archive, folder, base)
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(_zip(archive, base))
    Path(file.name).replace(target)


def _zip(archive: dict[str, Any], base: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in sorted(_members(archive, base).items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _FILE_MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, content)
    return buffer.getvalue()


def _members(archive: dict[str, Any], base: Path) -> dict[str, bytes]:
    """The files of `archive`: name, with slashes, -> content."""
    if assets := archive.get("assets"):
        members: dict[str, bytes] = {}
        for name, value in assets.items():
            if is_archive(value):
                members |= {f"{name}/{inner}": content for inner, content in _members(value, base).items()}
            else:
                members[name] = _content(value, base)
        return members
    path = base / (archive.get("path") or os.devnull)
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as source:
            return {name: source.read(name) for name in source.namelist() if not name.endswith("/")}
    raise UserError(f"The code archive {archive.get('path') or archive.get('uri')} is neither a folder nor a zip here.")


def _content(asset: dict[str, Any], base: Path) -> bytes:
    if path := asset.get("path"):
        try:
            return (base / path).read_bytes()
        except OSError as error:
            raise UserError(f"The code asset {path} can't be read: {error.strerror}.") from error
    if uri := asset.get("uri"):
        raise UserError(f"The code asset {uri} is not on this machine: use a file instead.")
    return str(asset.get("text", "")).encode()
