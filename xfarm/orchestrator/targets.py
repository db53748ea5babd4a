"""Where a stack is deployed: `local` on the embedded AWS, every other one in an AWS account."""

import os
from collections.abc import Callable
from typing import Final

from xfarm.errors import UserError
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT, STACKS

LOCAL: Final = "local"


def known_stacks() -> list[str]:
    """Return the stack names that every project has settings for, as ``Pulumi.<stack>.yaml``."""
    named = [
        {path.name.split(".")[1] for path in (STACKS / project).glob("Pulumi.*.yaml")} for project in dependencies()
    ]
    return sorted(set.intersection(*named))


def activate(stack: str, say: Callable[[str], None], *, engines: bool = False) -> None:
    """Make this process, and all that it starts, work on what ``stack`` names.

    The environment is replaced, not added to: nothing that is left of another account may reach Pulumi's plugins.

    Args:
        stack: The name of the stacks.
        say: Is told, in lines for people, what is found.
        engines: Whether this process is going to run Pulumi's engine.

    Raises:
        UserError: There is no such stack, or what it needs is missing.
    """
    require_known(stack)
    if stack == LOCAL:
        from xfarm.orchestrator import local_environment  # noqa: PLC0415  an AWS user never enters that room

        environment = local_environment.prepare(ROOT, say, STACKS if engines else None)
    else:
        from xfarm.orchestrator import aws_account, state  # noqa: PLC0415  nor does anybody load boto3 for `local`

        account = aws_account.identify(say)
        say(f"Account {account.number}, region {account.region}, as {account.identity}.")
        environment = account.environment
        aws_account.require_pulumi(environment)
        environment["PULUMI_BACKEND_URL"] = state.require(account, stack)
        say(f"State in {state.printable(environment['PULUMI_BACKEND_URL'])}.")
        # No stack holds a secret, so none needs a passphrase; Pulumi asks for one unless it is set, if only to nothing.
        if "PULUMI_CONFIG_PASSPHRASE_FILE" not in environment:
            environment.setdefault("PULUMI_CONFIG_PASSPHRASE", "")
        # A container's user may have no name, and Pulumi's locks want one ("os/user", Go's standard library).
        environment["USER"] = environment.get("USER") or "unknown"
    os.environ.clear()
    os.environ.update(environment)


def bootstrap(stack: str, say: Callable[[str], None]) -> None:
    """Prepare the place where the state of ``stack`` is kept.

    Raises:
        UserError: There is no such stack, or AWS refuses.
    """
    require_known(stack)
    if stack == LOCAL:
        say("'local' keeps its state in this folder: there is nothing to prepare.")
        return
    from xfarm.orchestrator import aws_account, state  # noqa: PLC0415

    state.bootstrap(aws_account.identify(say), say)


def require_known(stack: str) -> None:
    """Make sure that every project has settings for ``stack``.

    Raises:
        UserError: One has none.
    """
    known = known_stacks()
    if stack not in known:
        raise UserError(
            f"there is no stack '{stack}', only {', '.join(known)}: name one of these, "
            f"or add a Pulumi.{stack}.yaml to every project."
        )
