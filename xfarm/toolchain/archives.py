"""A Lambda function's code: Pulumi's archive value becomes the zip file that Terraform's provider takes."""

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from xfarm.errors import UserError

_SIGNATURE_KEY: Final = "4dabf18193072939515e22adb298388d"
"""The key that marks special values in Pulumi's wire format (`resource.SigKey` in pulumi/sdk)."""
_ARCHIVE_SIGNATURE: Final = "0def7320c3a5731c473e5ecbe6d01bc7"

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold; every member has it, so that equal content makes equal bytes."""
_FILE_MODE: Final = 0o644 << 16


def is_archive(value: object) -> bool:
    """Return whether `value` is an archive in Pulumi's wire format (it may also be unknown, for instance)."""
    return isinstance(value, dict) and value.get(_SIGNATURE_KEY) == _ARCHIVE_SIGNATURE


def zip_path(archive: dict[str, Any], folder: Path, base: Path) -> Path:
    """Return the path for the zip file of `archive`; its name depends on the content, so changed code has a new name.

    The engine sends a hash of the content. For an archive in the state, the hash is all that is left of the content
    that was deployed: the archive's folder may have changed since.

    Args:
        archive: The archive.
        folder: The folder for zip files.
        base: The folder that the archive's relative paths start from.
    """
    digest = archive.get("hash") or hashlib.sha256(_zip(archive, base)).hexdigest()
    return folder / f"{digest}.zip"


def write_zip(archive: dict[str, Any], folder: Path, base: Path) -> None:
    """Write the zip file of `archive` to its `zip_path`, unless it exists.

    Raises:
        UserError: The archive names something that is not a file, folder or zip file on this machine.
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
    """Return the content of each file in `archive` by name, with slashes."""
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
    source = archive.get("path") or archive.get("uri")
    raise UserError(f"the code archive {source} is not a folder or zip file on this machine: use one that is.")


def _content(asset: dict[str, Any], base: Path) -> bytes:
    if path := asset.get("path"):
        try:
            return (base / path).read_bytes()
        except OSError as error:
            raise UserError(f"the code asset {path} can't be read: {error.strerror}.") from error
    if uri := asset.get("uri"):
        raise UserError(f"the code asset {uri} is not on this machine: use a file instead.")
    return str(asset.get("text", "")).encode()
