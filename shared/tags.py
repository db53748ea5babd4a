"""The tags of every resource that can have tags."""

from typing import Final

import pulumi

APPLICATION: Final = "xfarm-pipeline"


def tags() -> dict[str, str]:
    """Return the tags, by which the project's resources and their costs can be found in an account."""
    return {
        "Application": APPLICATION,
        "PulumiProject": pulumi.get_project(),
        "PulumiStack": pulumi.get_stack(),
    }
