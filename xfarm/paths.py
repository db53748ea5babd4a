"""Paths in the checkout."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The checkout, by the one path that has no symbolic links."""

STACKS: Final = ROOT / "stacks"
"""The Pulumi projects, each in a folder of its name."""
