"""Paths in the checkout."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
"""The checkout."""

STACKS: Final = ROOT / "stacks"
"""The Pulumi projects, each in a folder of its name."""
