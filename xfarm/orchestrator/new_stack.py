"""Writes the settings of a new stack."""

import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import yaml

from shared import names
from xfarm.errors import UserError
from xfarm.orchestrator.graph import dependencies, order
from xfarm.orchestrator.targets import LOCAL
from xfarm.paths import ROOT, STACKS

MODEL: Final = "dev"
"""The stack whose settings a new stack gets."""

WORKFLOW: Final = ROOT / ".github" / "workflows" / "deploy.yml"

_BUCKET: Final = re.compile(r"^( +)storage:bucketName:.*$", re.MULTILINE)
_CHOICES: Final = re.compile(r"(\n( +)stackName:\n(?:\2 .*\n)*?\2 +options: \[)([^\]\n]*)\]")


def create(stack: str, notify: Callable[[str], None]) -> None:
    """Write the settings files of a new stack, and add it to the choices of the deploy workflow.

    Files that exist are left alone, so the same command completes what an interrupted one has begun.

    Raises:
        UserError: The name does not fit or is `LOCAL`, the stack exists, or there is nothing to copy.
    """
    if not names.fits(stack):
        raise UserError(f"'{stack}' can't be the name of a stack: it must be {names.STACK_NAME}.")
    files = {STACKS / project / f"Pulumi.{stack}.yaml": project for project in order(dependencies())}
    missing = {path: project for path, project in files.items() if not path.exists()}
    if not missing:
        raise UserError(f"the stack '{stack}' exists already: its settings are in stacks/*/Pulumi.{stack}.yaml.")
    if stack == LOCAL:
        raise UserError(f"'{LOCAL}' is on the emulator and has settings of its own: restore {_listed(missing)}.")
    models = {path: STACKS / project / f"Pulumi.{MODEL}.yaml" for path, project in missing.items()}
    for model in models.values():
        if not model.exists():
            raise UserError(f"{model.relative_to(ROOT)} is missing, and the settings of '{stack}' are copied from it.")
    texts = {path: model.read_text(encoding="utf-8") for path, model in models.items()}
    texts = {path: _with_bucket(text, stack) if missing[path] == "storage" else text for path, text in texts.items()}
    # First, because the stack exists once all of its settings files do.
    _add_choice(stack, notify)
    for path, text in texts.items():
        _write(path, text)
        notify(f"Wrote {path.relative_to(ROOT)}.")
    notify(
        f"Next: check the settings in these files, the name of the bucket for example, and commit them. Then run "
        f"'xfarm bootstrap {stack}' if the account has no state bucket in the region yet, and 'xfarm deploy {stack}'."
    )


def _listed(paths: Iterable[Path]) -> str:
    return " and ".join(path.relative_to(ROOT).as_posix() for path in paths)


def _with_bucket(settings: str, stack: str) -> str:
    """Return the settings of the storage project with another name for the bucket; bucket names are globally unique."""
    name = f"xfarm-bucket-{stack}-{secrets.token_hex(4)}"
    line = f"storage:bucketName: {name}"
    if _BUCKET.search(settings):
        text = _BUCKET.sub(rf"\g<1>{line}", settings)
    elif re.search(r"^config:\s*$", settings, re.MULTILINE):
        text = re.sub(r"^config:\s*$", f"config:\n  {line}", settings, count=1, flags=re.MULTILINE)
    else:
        text = f"{settings.rstrip()}\nconfig:\n  {line}\n"
    wanted = yaml.safe_load(settings) or {}
    wanted["config"] = (wanted.get("config") or {}) | {"storage:bucketName": name}
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if found != wanted or len(re.findall(r"^config:", text, re.MULTILINE)) != 1:
        raise UserError(
            "stacks/storage/Pulumi.dev.yaml is written in a way that can't be copied with another bucket name: write "
            "'config:' in a line of its own, and below it, indented by two spaces, 'storage:bucketName: NAME'."
        )
    return text


def _add_choice(stack: str, notify: Callable[[str], None]) -> None:
    """Add a stack to the choices of the deploy workflow, if there is one."""
    if not WORKFLOW.exists():
        return
    text = WORKFLOW.read_text(encoding="utf-8")
    found = _CHOICES.search(text)
    if not found:
        notify(f"Add {stack} to the options of stackName in {WORKFLOW.relative_to(ROOT)}.")
    elif stack not in yaml.safe_load(f"[{found[3]}]"):
        quoted = stack if yaml.safe_load(stack) == stack else f'"{stack}"'  # in YAML, true and null are not text
        _write(WORKFLOW, _CHOICES.sub(rf"\g<1>\g<3>, {quoted}]", text))
        notify(f"Added {stack} to the choices of {WORKFLOW.relative_to(ROOT)}.")


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all.

    Raises:
        UserError: It can't be written.
    """
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise UserError(
            f"{path.relative_to(ROOT)} can't be written ({error.strerror}): "
            "make its folder writable, and run the same command again."
        ) from error
