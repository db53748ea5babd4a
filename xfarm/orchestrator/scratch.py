"""Gives each preview a backend of its own, in which the other stacks have their planned outputs.

A program reads the outputs of another stack from that stack's state. So a preview that follows other previews needs
states with their planned outputs, which must not be written to the real backend. A self-managed backend is a folder
with a JSON document for each stack ("State and backends" in Pulumi's documentation). The one for a preview has the
unchanged state of the previewed stack, with its secrets encrypted, and only the outputs of all others.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from xfarm.paths import ROOT, STACKS

Json = dict[str, Any]
Outputs = dict[str, Any]
"""The outputs of a stack by name, as in its state: a secret is encrypted with the stack's own key."""

UNKNOWN: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What the engine writes for an unknown value (`computedValuePlaceholder` in pulumi/pkg)."""

ENCRYPTED: Final = "1b47061264138c4ac30d75fd1eb44270"
"""Marks an encrypted value in a state (`SecretSig` in pulumi/sdk)."""

_STACK: Final = "pulumi:pulumi:Stack"


def usable() -> bool:
    """Return whether a folder can be a preview's backend: only Pulumi Cloud can read the secrets of its stacks."""
    return urlsplit(os.environ.get("PULUMI_BACKEND_URL", "")).scheme not in {"http", "https"}


def is_unknown(value: object) -> bool:
    """Return whether `value` or a part of it is unknown."""
    if isinstance(value, Mapping):
        return any(map(is_unknown, value.values()))
    return any(map(is_unknown, value)) if isinstance(value, list) else value == UNKNOWN


def deployment(state: Json | None) -> Json:
    """Return the deployment in a state.

    Args:
        state: The output of `pulumi stack export`; None if the stack doesn't exist.
    """
    return (state or {}).get("deployment") or {}


def exported(state: Json | None) -> Outputs | None:
    """Return the outputs in a state; None if the stack is not deployed."""
    found = (resource.get("outputs", {}) for resource in resources(state) if resource["type"] == _STACK)
    return next(found, None)


def resources(state: Json | None) -> list[Json]:
    """Return the resources in a state, including those with pending operations."""
    latest = deployment(state)
    pending = [operation["resource"] for operation in latest.get("pending_operations") or []]
    return (latest.get("resources") or []) + pending


def region(resource: Json) -> str | None:
    """Return the region of a resource, by its outputs; None where it has none, as a role."""
    outputs = resource.get("outputs") or {}
    arn = re.match(r"arn:[^:]+:[^:]+:([a-z0-9-]+):", str(outputs.get("arn")))
    return outputs.get("region") or (arn[1] if arn else None)


def sources(project: str) -> str:
    """Return a digest of a project's program and settings, and of all other files that the program uses."""
    digest = hashlib.sha256()
    for folder in (STACKS / project, ROOT / "shared", ROOT / "lambda_code"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(_read(path)).hexdigest()
                digest.update(f"{path.relative_to(ROOT)}\0{content}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    """Return a file's content, without the salt that Pulumi adds to a settings file."""
    content = path.read_bytes()
    if not path.match("Pulumi.*.yaml"):
        return content
    try:
        settings = yaml.safe_load(content)
    except yaml.YAMLError:
        return content  # Pulumi says what is wrong with it
    if isinstance(settings, dict):
        settings.pop("encryptionsalt", None)
    return repr(settings).encode()


def planned(plan: Json) -> Outputs:
    """Return the planned outputs of a stack.

    Args:
        plan: The file that `pulumi preview --save-plan` wrote.
    """
    found: list[Outputs] = [
        steps["state"] or {} for urn, steps in plan["resourcePlans"].items() if f"::{_STACK}::" in urn
    ]
    return found[0] if found else {}


def known(outputs: Outputs) -> Outputs:
    """Return the outputs without an unknown part."""
    return {name: value for name, value in outputs.items() if not is_unknown(value)}


@contextlib.contextmanager
def backend(
    stack: str, project: str, states: Mapping[str, Json | None], exports: Mapping[str, Outputs | None]
) -> Iterator[Path]:
    """Create a backend for one preview, and delete it afterwards.

    Args:
        stack: The name of the stacks.
        project: The project to preview.
        states: The state of each project's stack; None for a stack that doesn't exist.
        exports: The planned outputs of each other project; None for a stack that is not deployed.

    Yields:
        The folder.
    """
    with TemporaryDirectory(prefix="xfarm-preview-") as name:
        folder = Path(name)
        root = folder / ".pulumi"
        root.mkdir()
        # The layout in which stacks of several projects may have one name (pulumi/pkg/backend/diy/meta.go).
        (root / "meta.yaml").write_text("version: 1\n", encoding="utf-8")
        for other, state in states.items():
            latest = deployment(state) if other == project else {}
            if other != project and (outputs := exports[other]) is not None:
                latest = _only_outputs(stack, other, state, outputs)
            checkpoint = {"stack": f"organization/{other}/{stack}", "latest": latest or None}
            document = {"version": 3, **(state or {}), "checkpoint": checkpoint}
            document.pop("deployment", None)
            (root / "stacks" / other).mkdir(parents=True)
            (root / "stacks" / other / f"{stack}.json").write_text(json.dumps(document), encoding="utf-8")
        yield folder


def _only_outputs(stack: str, project: str, state: Json | None, outputs: Outputs) -> Json:
    """Return a deployment that contains only the stack's outputs."""
    latest = deployment(state)
    if "secrets_providers" not in latest:
        outputs = {name: value for name, value in outputs.items() if ENCRYPTED not in json.dumps(value)}
    urn = f"urn:pulumi:{stack}::{project}::{_STACK}::{project}-{stack}"
    resource = {"urn": urn, "custom": False, "type": _STACK, "outputs": known(outputs)}
    return {name: latest[name] for name in ("manifest", "secrets_providers") if name in latest} | {
        "resources": [resource]
    }
