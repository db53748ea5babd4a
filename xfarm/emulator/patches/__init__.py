"""Fixes where ministack 1.5.33 differs from AWS, a module for each part of AWS. Importing one applies its fixes."""

import pkgutil
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, TypeVar
from xml.sax.saxutils import escape

F = TypeVar("F", bound=Callable[..., Any])


def patch(owner: object, name: str) -> Callable[[F], F]:
    """Replace a function of ministack, a module's or a class's, by the decorated one.

    Raises:
        AttributeError: This version of ministack has no such function.
    """

    def replace(function: F) -> F:
        getattr(owner, name)
        setattr(owner, name, function)
        return function

    return replace


def apply_all() -> None:
    """Apply the fixes of all modules here."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(module.name)


def to_xml(value: Any, name: str = "") -> str:  # noqa: ANN401 - any JSON
    """Return a value as in AWS's query protocol: a list as members, a time in ISO 8601, null omitted."""
    if isinstance(value, dict):
        return "".join(f"<{key}>{to_xml(item, key)}</{key}>" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return "".join(f"<member>{to_xml(item)}</member>" for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if name.endswith("Timestamp") and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).isoformat()
    return escape(str(value))
