"""The tags that every resource of every stack carries."""

import pulumi


def tags() -> dict[str, str]:
    """Return the tags by which the project's resources, and their costs, are found in an account."""
    return {
        "Application": "xfarm-pipeline",
        "PulumiProject": pulumi.get_project(),
        "PulumiStack": pulumi.get_stack(),
    }
