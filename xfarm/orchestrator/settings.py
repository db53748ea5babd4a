"""Checks the files with a stack's settings before a command begins.

Pulumi ignores settings that nothing reads, such as a misspelt one, and its messages about the rest name no file. What a
setting's value may be is checked by the stack's program (`shared.settings`).
"""

import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from types import NoneType
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError

from xfarm.errors import UserError
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import STACKS


def check(stack: str) -> None:
    """Check the file `Pulumi.<stack>.yaml` of each project.

    A project that declares no settings may have any.

    Raises:
        UserError: One is not YAML, or has a setting that no project declares, of the wrong type, or in the wrong place.
    """
    declared = {
        f"{project}:{key}": setting
        for project in dependencies()
        for key, setting in (read(STACKS / project / "Pulumi.yaml").get("config") or {}).items()
    }
    projects = {name.partition(":")[0] for name in declared}
    for project in dependencies():
        path = STACKS / project / f"Pulumi.{stack}.yaml"
        content = read(path)
        if outside := sorted(map(str, content.keys() - _OF_PULUMI)):
            raise UserError(
                f"{_short(path)} has '{outside[0]}' beside 'config:', where Pulumi ignores it: indent it below "
                "'config:', or remove it."
            )
        for written, value in (content.get("config") or {}).items():
            name = written if ":" in written else f"{project}:{written}"
            if name in declared and name.startswith(f"{project}:"):
                kind = declared[name].get("type", "")
                if not _fits(value, kind):
                    raise UserError(
                        f"{_short(path)} sets '{written}' to {_written(value)}, which must be of type {kind}."
                    )
            elif (near := _nearest(name, declared)) or name.partition(":")[0] in projects:
                instead = f"set '{near}' in {_short(STACKS / near.partition(':')[0] / path.name)}, or " if near else ""
                raise UserError(
                    f"{_short(path)} sets '{written}', which is not a setting of {project}: {instead}remove it "
                    "(docs/settings.md lists all)."
                )


_OF_PULUMI: Final = {"config", "encryptedkey", "encryptionsalt", "environment", "secretsprovider"}
"""What a stack's file has at its top ("Pulumi stack settings file reference")."""


def _nearest(name: str, declared: Collection[str]) -> str:
    """Return a declared setting whose name contains that of `name`, or else the most similar one, if there is any."""
    project, _, key = name.partition(":")
    ours = key and any(each.startswith(f"{project}:") for each in declared)
    containing = [each for each in declared if ours and key.lower() in each.partition(":")[2].lower()]
    return next(iter(containing or difflib.get_close_matches(name, declared, 1, cutoff=0.8)), "")


def _fits(value: object, kind: str) -> bool:
    """Return whether a value in YAML is of a setting's type. `pulumi config set` writes numbers as text."""
    if isinstance(value, dict) and "secure" in value:
        return True
    fits = {
        "array": isinstance(value, list),
        "boolean": value in (True, False, "true", "false"),
        "integer": bool(re.fullmatch(r"-?[0-9]+", str(value))),
        "object": isinstance(value, dict),
        "string": isinstance(value, str | int | float),
    }
    return fits.get(kind, True)


def _written(value: object) -> str:
    """Return a value as people write it in YAML."""
    return f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # pyrefly: ignore[invalid-inheritance]
    """Loads YAML as Pulumi does, which refuses a mapping that has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as in the base class
        """Return the mapping.

        Raises:
            ConstructorError: A key is in it twice.
        """
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConstructorError(None, None, f"'{key.value}' is set a second time", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a YAML file.

    Raises:
        UserError: It can't be read, is not YAML, or not a mapping of names to values.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # noqa: S506 - a safe one
    except OSError as error:
        raise UserError(f"{_short(path)} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{_short(path)} is not YAML: it is not UTF-8.") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise UserError(f"{_short(path)} is not YAML: {problem}{line}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("config", {}), (dict, NoneType)):
        raise UserError(f"{_short(path)} has no names with values, such as 'compute:memorySize: 512', below 'config:'.")
    return content


def _short(path: Path) -> str:
    return path.relative_to(STACKS.parent).as_posix()
