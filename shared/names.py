"""The names of resources in AWS, each written once."""

import re
from typing import Final

import pulumi

MAIN_QUEUE: Final = "xFarmMainQueue"
DEAD_LETTER_QUEUE: Final = "xFarmDeadLetterSqs"
FUNCTION: Final = "xFarmLambdaFunction"
FUNCTION_ROLE: Final = "xFarmLambdaRole"
ALARM_TOPIC: Final = "xFarmAlarms"

PLAIN: Final = ("dev", "local")
"""The stacks whose resources have the names above. Those of every other stack have the stack's name in theirs."""

STACK_NAME: Final = (
    "a lower-case letter, then lower-case letters, digits and hyphens, 40 characters at most, the last one not a hyphen"
)
"""Which names a stack can have, so that all of its resources can have it in their names.

The shortest limit is that of a function's name, 64 characters ("CreateFunction", AWS Lambda API Reference), and bucket
names are in lower case. Role names that differ only in case are the same ("CreateRole", IAM API Reference).
"""


def fits(stack: str) -> bool:
    """Return whether a stack can have this name: see `STACK_NAME`."""
    return re.fullmatch(r"[a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z]", stack) is not None


def of_stack(name: str, stack: str | None = None) -> str:
    """Return the name that a resource has in a stack, so that an account has room for several stacks.

    Args:
        name: Its name in the stacks `PLAIN`.
        stack: The stack; by default, the running one.

    Raises:
        pulumi.RunError: The stack's name does not fit into a resource's name.
    """
    stack = stack or pulumi.get_stack()
    if not fits(stack):
        raise pulumi.RunError(f"the stack's name '{stack}' is part of its resources' names and must be {STACK_NAME}.")
    return name if stack in PLAIN else f"{name}-{stack}"
