"""Gives each preview a backend of its own, in which the other stacks export what they will, not what they do.

A program reads what another stack exports from that stack's state. So a preview that follows other previews needs
states in which their planned outputs are, and must not write these where deployments look. A self-managed backend is a
folder with a JSON document for each stack ("State and backends" in Pulumi's documentation), and so is this one: the
state of the stack itself as it is, its secrets still encrypted, and of all others the outputs alone.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from xfarm.paths import ROOT, STACKS

Json = dict[str, Any]
Outputs = dict[str, Any]
"""What a stack exports, by name, as its state has it: a secret is encrypted with the stack's own key."""

UNKNOWN: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What the engine writes for a value that it can't know yet (`computedValuePlaceholder` in pulumi/pkg)."""

_ENCRYPTED: Final = "1b47061264138c4ac30d75fd1eb44270"
"""Marks an encrypted value in a state (`SecretSig` in pulumi/sdk)."""

_STACK: Final = "pulumi:pulumi:Stack"


def usable() -> bool:
    """Return whether previews can run in a folder: Pulumi Cloud keeps settings and secrets that only it can read."""
    return urlsplit(os.environ.get("PULUMI_BACKEND_URL", "")).scheme not in {"http", "https"}


def is_unknown(value: object) -> bool:
    """Return whether `value`, or anything in it, is not known yet."""
    if isinstance(value, Mapping):
        return any(map(is_unknown, value.values()))
    return any(map(is_unknown, value)) if isinstance(value, list) else value == UNKNOWN


def exported(state: Json | None) -> Outputs | None:
    """Return what a stack exports, or None where it is not deployed.

    Args:
        state: What `pulumi stack export` gives; None where the stack was never made.
    """
    found = (resource.get("outputs", {}) for resource in resources(state) if resource["type"] == _STACK)
    return next(found, None)


def resources(state: Json | None) -> list[Json]:
    """Return the resources in a state as `pulumi stack export` gives it, also those that are being created."""
    deployment = (state or {}).get("deployment") or {}
    pending = [operation["resource"] for operation in deployment.get("pending_operations") or []]
    return (deployment.get("resources") or []) + pending


def sources(project: str) -> str:
    """Return a digest of what a project's program and settings are: of all files that make a difference to it."""
    digest = hashlib.sha256()
    for folder in (STACKS / project, ROOT / "shared", ROOT / "lambda_code"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(_read(path)).hexdigest()
                digest.update(f"{path.relative_to(ROOT)}\0{content}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    """Return what a file says, without the salt that Pulumi writes into a file of settings that has none."""
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
    """Return what a stack will export.

    Args:
        plan: What `pulumi preview --save-plan` has written.
    """
    found: list[Outputs] = [
        steps["state"] or {} for urn, steps in plan["resourcePlans"].items() if f"::{_STACK}::" in urn
    ]
    return found[0] if found else {}


def known(outputs: Outputs) -> Outputs:
    """Return the outputs in which nothing is unknown."""
    return {name: value for name, value in outputs.items() if not is_unknown(value)}


@contextlib.contextmanager
def backend(
    stack: str, project: str, states: Mapping[str, Json | None], exports: Mapping[str, Outputs | None]
) -> Iterator[Path]:
    """Make a backend for one preview, and delete it afterwards.

    Args:
        stack: The name of the stacks.
        project: The one that is previewed.
        states: What `pulumi stack export` gives of each project; None where its stack was never made.
        exports: What each of the others is to export, which may be unknown; None where it is not deployed.

    Yields:
        The folder.
    """
    with TemporaryDirectory(prefix="xfarm-preview-") as name:
        folder = Path(name)
        places = folder / ".pulumi"
        places.mkdir()
        # The layout in which stacks of several projects may have one name (pulumi/pkg/backend/diy/meta.go).
        (places / "meta.yaml").write_text("version: 1\n", encoding="utf-8")
        for other, state in states.items():
            latest = ((state or {}).get("deployment") or {}) if other == project else {}
            if other != project and (outputs := exports[other]) is not None:
                latest = _only_outputs(stack, other, state, outputs)
            checkpoint = {"stack": f"organization/{other}/{stack}", "latest": latest or None}
            document = {"version": 3, **(state or {}), "checkpoint": checkpoint}
            document.pop("deployment", None)
            (places / "stacks" / other).mkdir(parents=True)
            (places / "stacks" / other / f"{stack}.json").write_text(json.dumps(document), encoding="utf-8")
        yield folder


def _only_outputs(stack: str, project: str, state: Json | None, outputs: Outputs) -> Json:
    """Return a state with nothing in it but what the stack exports."""
    deployment = (state or {}).get("deployment") or {}
    if "secrets_providers" not in deployment:
        outputs = {name: value for name, value in outputs.items() if _ENCRYPTED not in json.dumps(value)}
    urn = f"urn:pulumi:{stack}::{project}::{_STACK}::{project}-{stack}"
    resource = {"urn": urn, "custom": False, "type": _STACK, "outputs": known(outputs)}
    return {name: deployment[name] for name in ("manifest", "secrets_providers") if name in deployment} | {
        "resources": [resource]
    }
