"""Changes the names in one call from the engine to the bridge, and in its response.

It changes the protobuf messages of `pulumirpc.ResourceProvider` in place, by the names of their fields. So a method
without names in its messages needs no code here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from pulumi.runtime.proto import provider_pb2

from xfarm.errors import UserError
from xfarm.toolchain import archives, aws_types

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.message import Message

    _M = TypeVar("_M", bound=Message)

_REQUEST_STRUCTS: Final = ("args", "inputs", "news", "old_inputs", "olds", "properties")
_RESPONSE_STRUCTS: Final = ("inputs", "properties", "return")
_COMPARED: Final = ("inputs", "properties")
_EMPTY: Final[tuple[object, ...]] = (None, False, 0, "", [], {})
"""Values that one side may leave out and the other write, like the zero values of Terraform's types."""
_RAW_STATE: Final = "__pulumi_raw_state_delta"
"""The bridge's record of how Terraform wrote the same properties; the two have to match."""
_UNKNOWN_PROPERTY: Final = ("Missing required argument", "Invalid or unknown key")
"""The provider's errors for a property that has another name in Terraform (`helper/schema/schema.go` in its SDK)."""
_DESIRED: Final = ("news", "properties")
"""The fields of Create and Update with the properties that the provider will apply: their code has to be a file."""


class Call:
    """The names in one call: changed in the request at once, and later in the response."""

    def __init__(self, method: str, request: Any, zips: Path, region: str, folder: Path) -> None:  # noqa: ANN401 - many types
        """Change the names in `request` to the bridge's.

        Args:
            method: The name of the remote procedure, e.g. "Create".
            request: Its message, an instance of one of many generated classes (hence Any).
            zips: The folder for zip files of code archives; the bridge runs in the folder that it is in.
            region: The provider's region.
            folder: The project's folder, which relative paths in its state start from.

        Raises:
            UserError: The request has code that can't be read, or another region.
        """
        urn = getattr(request, "urn", "")
        self.token = getattr(request, "tok", "") or (aws_types.urn_token(urn) if urn else "pulumi:none")
        """The SDK's token of the type or function that is called."""
        self._to_bridge = aws_types.bridge_properties(self.token)
        self._to_sdk = {bridge: sdk for sdk, bridge in self._to_bridge.items()}
        self._region = region if aws_types.has_own_region(self.token) else None
        self._codes: dict[str, Value] = {}
        self._inputs = _copy(request.inputs) if method == "Read" else Struct()
        self._known = {name: _copy(field) for name, field in _structs(request, _COMPARED)} if method == "Read" else {}
        self._urns = (aws_types.bridge_urn(urn), urn) if urn else ("", "")
        self._unchanged = method == "Diff" and _is_unchanged(request)

        if method == "Check":
            self._fill_in_name(request)
        for name, properties in _structs(request, _REQUEST_STRUCTS):
            self._remove_region(properties)
            self._zip_code(properties, zips, folder, write=method in ("Create", "Update") and name in _DESIRED)
            _rename(properties, self._to_bridge)
        if urn:
            request.urn = self._urns[0]
        if getattr(request, "type", ""):
            request.type = aws_types.bridge_token(request.type)
        if getattr(request, "tok", ""):
            request.tok = aws_types.bridge_token(request.tok)
        if ignored := getattr(request, "ignoreChanges", None):
            ignored[:] = [_rename_path(path, self._to_bridge) for path in ignored]

    def rename_response(self, response: Any) -> None:  # noqa: ANN401 - one of many generated classes
        """Change the names in `response`, a message of the bridge, back to the engine's."""
        for name, properties in _structs(response, _RESPONSE_STRUCTS):
            _rename(properties, self._to_sdk)
            self._restore_code(properties)
            if self._region and name == "properties":
                properties["region"] = self._region
            if name in self._known:
                mirrors = aws_types.mirrors(self.token) - set(self._inputs.fields)
                _restore_known(self._known[name], properties, mirrors)
        for failure in getattr(response, "failures", ()):
            failure.property = _rename_path(failure.property, self._to_sdk)
            unknown = any(phrase in failure.reason for phrase in _UNKNOWN_PROPERTY)
            hint = f" {aws_types.not_a_property(self.token)}" if unknown else ""
            failure.reason = self.rename_text(failure.reason) + hint
        if isinstance(response, provider_pb2.DiffResponse):
            self._rename_diff(response)

    def _rename_diff(self, diff: provider_pb2.DiffResponse) -> None:
        if self._unchanged and not (diff.detailedDiff or diff.replaces):
            diff.CopyFrom(provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE))
        for paths in (diff.replaces, diff.stables, diff.diffs):
            paths[:] = [_rename_path(path, self._to_sdk) for path in paths]
        for path in list(diff.detailedDiff):
            if (renamed := _rename_path(path, self._to_sdk)) != path:
                diff.detailedDiff[renamed].CopyFrom(diff.detailedDiff[path])
                del diff.detailedDiff[path]

    def rename_text(self, message: str) -> str:
        """Return `message`, a text for people, with the URN and the properties named as in the program."""
        bridge_urn, sdk_urn = self._urns
        message = message.replace(bridge_urn, sdk_urn) if bridge_urn else message
        for bridge, sdk in self._to_sdk.items():
            message = message.replace(f"'{bridge}'", f"'{sdk}'").replace(f'"{bridge}"', f'"{sdk}"')
        return message

    def _fill_in_name(self, request: Any) -> None:  # noqa: ANN401 - CheckRequest
        """Fill in the physical name that `pulumi_aws` promises when the program gives none: logical name, 7 digits."""
        key = aws_types.physical_name(self.token)
        if key is None or key in request.news.fields:
            return
        if key in request.olds.fields:
            request.news.fields[key].CopyFrom(request.olds.fields[key])
            return
        suffix = hashlib.sha256(request.randomSeed or os.urandom(32)).hexdigest()[:7]
        request.news[key] = f"{request.urn.split('::', 3)[3]}-{suffix}".lower()

    def _zip_code(self, properties: Struct, zips: Path, folder: Path, *, write: bool) -> None:
        """Replace a function's archive with the path of its zip file, and remember the archive."""
        if self._to_bridge.get("code") is None or "code" not in properties.fields:
            return
        value = properties.fields["code"]
        archive = json_format.MessageToDict(value)
        if not archives.is_archive(archive):
            return
        # Relative, because Terraform changes strings to Unicode's NFC, and on disk the folders' names may be in NFD.
        path = str(archives.zip_path(archive, zips, folder).relative_to(zips.parent))
        if write:
            archives.write_zip(archive, zips, folder)
        self._codes[path] = _copy(value)
        value.string_value = path

    def _remove_region(self, properties: Struct) -> None:
        """Remove the region, which resources have only since version 6 of Terraform's provider; this one is older."""
        if self._region and "region" in properties.fields:
            if (region := properties.fields["region"].string_value) != self._region:
                raise UserError(
                    f"this checkout's AWS plugin can't put a single resource into another region ({region}): "
                    "remove its 'region', or use the official Pulumi."
                )
            del properties.fields["region"]

    def _restore_code(self, properties: Struct) -> None:
        if "code" in properties.fields and (code := self._codes.get(properties.fields["code"].string_value)):
            properties.fields["code"].CopyFrom(code)


def _structs(message: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Struct]]:  # noqa: ANN401 - see `Call`
    for name in names:
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field and field.message_type is Struct.DESCRIPTOR and message.HasField(name):
            yield name, getattr(message, name)


def _copy(message: _M) -> _M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _restore_known(known: Struct, read: Struct, mirrors: set[str]) -> None:
    """Restore the `known` value of each property whose value as `read` now means the same.

    AWS and the provider write JSON documents with other spaces, and the bridge reads an unset list or map as an empty
    one; a refresh would show each of these as a change. The `mirrors` are properties that other resources set, which
    show their changes themselves.
    """
    for key in (known.fields.keys() | read.fields.keys()) - {_RAW_STATE}:
        if key in mirrors or _normalized(_value(known, key)) == _normalized(_value(read, key)):
            _copy_field(known, read, key)
            raw = _raw_state(known)
            if key in raw.fields:
                _raw_state(read, create=True).fields[key].CopyFrom(raw.fields[key])
            elif key in _raw_state(read).fields:
                del _raw_state(read).fields[key]


def _is_unchanged(request: provider_pb2.DiffRequest) -> bool:
    """Return whether the program's new inputs mean the same as its old inputs and as the state.

    Terraform may plan a change even then: to write a JSON document with other spaces.
    """
    inputs, old_inputs, state = (_dict(properties) for properties in (request.news, request.old_inputs, request.olds))
    return _normalized(inputs) == _normalized(old_inputs) == _normalized({key: state.get(key) for key in inputs})


def _copy_field(source: Struct, target: Struct, key: str) -> None:
    if key in source.fields:
        target.fields[key].CopyFrom(source.fields[key])
    elif key in target.fields:
        del target.fields[key]


def _raw_state(properties: Struct, *, create: bool = False) -> Struct:
    """Return the part of `_RAW_STATE` with an entry for each property."""
    for part in (_RAW_STATE, "obj", "ps"):
        if part not in properties.fields and not create:
            return Struct()
        properties = properties.get_or_create_struct(part)
    return properties


def _dict(properties: Struct) -> dict[str, Any]:
    return json_format.MessageToDict(properties)


def _value(properties: Struct, key: str) -> Any:  # noqa: ANN401 - any JSON
    return json_format.MessageToDict(properties.fields[key]) if key in properties.fields else None


def _normalized(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return `value` with JSON documents parsed, and with None for every empty value."""
    if isinstance(value, dict):
        value = {key: kept for key, item in value.items() if (kept := _normalized(item)) is not None}
    elif isinstance(value, list):
        value = [_normalized(item) for item in value]
    elif isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            value = json.loads(value)
    return None if value in _EMPTY else value


def _rename(properties: Struct, names: dict[str, str]) -> None:
    # Looking up a missing key of a Struct would create it with a value of no kind, and the engine would panic on that.
    values = {old: _copy(properties.fields[old]) for old in names if old in properties.fields}
    for old in values:
        del properties.fields[old]
    for old, value in values.items():
        properties.fields[names[old]].CopyFrom(value)


def _rename_path(path: str, names: dict[str, str]) -> str:
    """Return `path` (`name`, `code.assets`, `tags["a"]`) with its first part renamed."""
    first = re.match(r"[^.\[]*", path)
    head = first.group() if first else ""
    return names.get(head, head) + path[len(head) :]
