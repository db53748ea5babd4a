"""Where a stack is deployed: `local` on the embedded AWS, every other one in an AWS account."""

import os
from collections.abc import Callable
from typing import Final

from orchestrator.graph import ROOT, STACKS, dependencies
from shared.errors import UserError

LOCAL: Final = "local"


def known_stacks() -> list[str]:
    """Return the stack names that every project has settings for, as ``Pulumi.<stack>.yaml``."""
    named = [
        {path.name.split(".")[1] for path in (STACKS / project).glob("Pulumi.*.yaml")} for project in dependencies()
    ]
    return sorted(set.intersection(*named))


def enter(stack: str, say: Callable[[str], None]) -> None:
    """Make this process, and all that it starts, work on what ``stack`` names.

    The environment is replaced, not added to: nothing that is left of another account may reach Pulumi's plugins.

    Raises:
        UserError: There is no such stack, or what it needs is missing.
    """
    known = known_stacks()
    if stack not in known:
        raise UserError(
            f"there is no stack '{stack}', only {', '.join(known)}: name one of these, "
            f"or add a Pulumi.{stack}.yaml to every project."
        )
    if stack == LOCAL:
        import local  # noqa: PLC0415  an AWS user never enters that room

        environment = local.enter(ROOT, say)
    else:
        from orchestrator import aws_account  # noqa: PLC0415

        environment = aws_account.enter(stack, say)
    os.environ.clear()
    os.environ.update(environment)
