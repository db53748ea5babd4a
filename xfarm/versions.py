"""Versions of Pulumi that the product needs."""

from typing import Final

MINIMUM_CLI: Final = (3, 256, 0)
"""The first CLI with `destroy --ignore-protect` (release notes of Pulumi 3.256.0)."""
