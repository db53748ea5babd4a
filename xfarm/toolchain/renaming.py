"""One call from the engine to the bridge and back, with everything in it called by the names that each side knows.

It works on the protobuf messages of `pulumirpc.ResourceProvider`, in place and by the names of their fields, so that a
call that carries nothing to rename needs no code here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

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

_REQUEST_STRUCTS = ("args", "inputs", "news", "old_inputs", "olds", "properties")
_RESPONSE_STRUCTS = ("inputs", "properties", "return")
_COMPARED = ("inputs", "properties")
_NOTHING: tuple[object, ...] = (None, False, 0, "", [], {})
"""What one side may leave out and the other write, as Terraform's own types do with zero values."""
_RAW_STATE = "__pulumi_raw_state_delta"
"""The bridge's own note on how Terraform wrote the same properties: what one says has to fit the other."""
_UNKNOWN_PROPERTY = ("Missing required argument", "Invalid or unknown key")
"""What the provider says where a property is not called as in Terraform (`helper/schema/schema.go` in its SDK)."""
_WRITTEN = ("news", "properties")
"""The fields of Create and Update that hold what is about to be made real: its code must lie there as a file."""


class Call:
    """The names of one call: made from the request, which it renames, and then applied to the answer."""

    def __init__(self, method: str, request: Any, zips: Path, region: str, folder: Path) -> None:  # noqa: ANN401
        """Rename `request`, a message of the engine's, to what the bridge understands.

        Args:
            method: The name of the remote procedure, e.g. "Create".
            request: Its message, of one of many generated classes (hence Any).
            zips: The folder for zip files made of code archives.
            region: The provider's region.
            folder: The project's, which paths in its state are relative to.

        Raises:
            UserError: The request is about code that can't be read, or another region.
        """
        urn = getattr(request, "urn", "")
        self.token = getattr(request, "tok", "") or (aws_types.urn_token(urn) if urn else "pulumi:none")
        """The type or function that the call is about, by its name in the SDK."""
        self._to_bridge = aws_types.bridge_properties(self.token)
        self._to_sdk = {bridge: sdk for sdk, bridge in self._to_bridge.items()}
        self._region = region if aws_types.has_own_region(self.token) else None
        self._codes: dict[str, Value] = {}
        self._asked = _copy(request.inputs) if method == "Read" else Struct()
        self._known = {name: _copy(field) for name, field in _structs(request, _COMPARED)} if method == "Read" else {}
        self._urns = (aws_types.bridge_urn(urn), urn) if urn else ("", "")

        self._settled = method == "Diff" and _settled(request)

        if method == "Check":
            self._name(request)
        for name, properties in _structs(request, _REQUEST_STRUCTS):
            self._leave_region_out(properties)
            self._zip_code(properties, zips, folder, write=method in ("Create", "Update") and name in _WRITTEN)
            _rename(properties, self._to_bridge)
        if urn:
            request.urn = self._urns[0]
        if getattr(request, "type", ""):
            request.type = aws_types.bridge_token(request.type)
        if getattr(request, "tok", ""):
            request.tok = aws_types.bridge_token(request.tok)
        if ignored := getattr(request, "ignoreChanges", None):
            ignored[:] = [_rename_path(path, self._to_bridge) for path in ignored]

    def answer(self, response: Any) -> None:  # noqa: ANN401 - one of many generated classes
        """Rename `response`, a message of the bridge's, to what the engine asked about."""
        for name, properties in _structs(response, _RESPONSE_STRUCTS):
            _rename(properties, self._to_sdk)
            self._restore_code(properties)
            if self._region and name == "properties":
                properties["region"] = self._region
            if name in self._known:
                mirrors = aws_types.mirrors(self.token) - set(self._asked.fields)
                _put_back(self._known[name], properties, mirrors)
        for failure in getattr(response, "failures", ()):
            failure.property = _rename_path(failure.property, self._to_sdk)
            unknown = any(phrase in failure.reason for phrase in _UNKNOWN_PROPERTY)
            hint = f" {aws_types.not_a_property(self.token)}" if unknown else ""
            failure.reason = self.text(failure.reason) + hint
        if isinstance(response, provider_pb2.DiffResponse):
            self._answer_diff(response)

    def _answer_diff(self, diff: provider_pb2.DiffResponse) -> None:
        if self._settled and not (diff.detailedDiff or diff.replaces):
            diff.CopyFrom(provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE))
        for paths in (diff.replaces, diff.stables, diff.diffs):
            paths[:] = [_rename_path(path, self._to_sdk) for path in paths]
        for path in list(diff.detailedDiff):
            if (renamed := _rename_path(path, self._to_sdk)) != path:
                diff.detailedDiff[renamed].CopyFrom(diff.detailedDiff[path])
                del diff.detailedDiff[path]

    def text(self, message: str) -> str:
        """`message`, meant for people, with the resource called as the program calls it."""
        ours, theirs = self._urns
        message = message.replace(ours, theirs) if ours else message
        for bridge, sdk in self._to_sdk.items():
            message = message.replace(f"'{bridge}'", f"'{sdk}'").replace(f'"{bridge}"', f'"{sdk}"')
        return message

    def _name(self, request: Any) -> None:  # noqa: ANN401 - CheckRequest
        """Give the resource the name that `pulumi_aws` promises to whoever gives none: logical name, 7 digits."""
        key = aws_types.physical_name(self.token)
        if key is None or key in request.news.fields:
            return
        if key in request.olds.fields:
            request.news.fields[key].CopyFrom(request.olds.fields[key])
            return
        suffix = hashlib.sha256(request.randomSeed or os.urandom(32)).hexdigest()[:7]
        request.news[key] = f"{request.urn.split('::', 3)[3]}-{suffix}".lower()

    def _zip_code(self, properties: Struct, zips: Path, folder: Path, *, write: bool) -> None:
        """Replace a function's archive value by the path of its zip, and remember which it was."""
        if self._to_bridge.get("code") is None or "code" not in properties.fields:
            return
        value = properties.fields["code"]
        archive = json_format.MessageToDict(value)
        if not archives.is_archive(archive):
            return
        path = str(archives.zip_path(archive, zips, folder))
        if write:
            archives.write_zip(archive, zips, folder)
        self._codes[path] = _copy(value)
        value.string_value = path

    def _leave_region_out(self, properties: Struct) -> None:
        """Take out what each resource got only in version 6 of Terraform's provider: the bridged one is older."""
        if self._region and "region" in properties.fields:
            if (asked := properties.fields["region"].string_value) != self._region:
                raise UserError(f"This checkout's AWS plugin can't put single resources into another region ({asked}).")
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


def _put_back(known: Struct, read: Struct, mirrors: set[str]) -> None:
    """Put back what was `known` of a resource where what was `read` now tells nothing new.

    AWS and the provider respell JSON documents, and the bridge reads "nothing" as an empty list or map where it wrote
    none at all; a refresh would show each of these as a change. The `mirrors` show what other resources are asked for,
    each of which tells of its own changes.
    """
    for key in (known.fields.keys() | read.fields.keys()) - {_RAW_STATE}:
        if key in mirrors or _plain(_value(known, key)) == _plain(_value(read, key)):
            _copy_field(known, read, key)
            noted = _noted(known)
            if key in noted.fields:
                _noted(read, create=True).fields[key].CopyFrom(noted.fields[key])
            elif key in _noted(read).fields:
                del _noted(read).fields[key]


def _settled(request: provider_pb2.DiffRequest) -> bool:
    """Whether all that the program asks for is what it asked for before, and is what there is, but for the spelling.

    Terraform then may still plan to write a JSON document anew, with other spaces.
    """
    asked, asked_before, there_is = (
        _dict(properties) for properties in (request.news, request.old_inputs, request.olds)
    )
    there = {key: there_is.get(key) for key in asked}
    return _plain(asked) == _plain(asked_before) == _plain(there)


def _copy_field(source: Struct, target: Struct, key: str) -> None:
    if key in source.fields:
        target.fields[key].CopyFrom(source.fields[key])
    elif key in target.fields:
        del target.fields[key]


def _noted(properties: Struct, *, create: bool = False) -> Struct:
    """The part of the bridge's note (see `_RAW_STATE`) that tells of each property how Terraform wrote it."""
    for part in (_RAW_STATE, "obj", "ps"):
        if part not in properties.fields and not create:
            return Struct()
        properties = properties.get_or_create_struct(part)
    return properties


def _dict(properties: Struct) -> dict[str, Any]:
    return json_format.MessageToDict(properties)


def _value(properties: Struct, key: str) -> Any:  # noqa: ANN401 - any JSON
    return json_format.MessageToDict(properties.fields[key]) if key in properties.fields else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """`value` with JSON documents taken apart and with nothing said in one way only."""
    if isinstance(value, dict):
        value = {key: kept for key, item in value.items() if (kept := _plain(item)) is not None}
    elif isinstance(value, list):
        value = [_plain(item) for item in value]
    elif isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            value = json.loads(value)
    return None if value in _NOTHING else value


def _rename(properties: Struct, names: dict[str, str]) -> None:
    # Looking up a missing key of a Struct would create it, with a value of no kind, on which the engine panics.
    values = {old: _copy(properties.fields[old]) for old in names if old in properties.fields}
    for old in values:
        del properties.fields[old]
    for old, value in values.items():
        properties.fields[names[old]].CopyFrom(value)


def _rename_path(path: str, names: dict[str, str]) -> str:
    """`path` ("name", "code.assets", `tags["a"]`) with its first step renamed."""
    first = re.match(r"[^.\[]*", path)
    head = first.group() if first else ""
    return names.get(head, head) + path[len(head) :]
