"""The tags of every resource that can have tags."""

import pulumi


def tags() -> dict[str, str]:
    """Return the tags, by which the project's resources and their costs can be found in an account."""
    return {
        "Application": "xfarm-pipeline",
        "PulumiProject": pulumi.get_project(),
        "PulumiStack": pulumi.get_stack(),
    }
