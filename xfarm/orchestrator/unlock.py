"""The command unlock."""

import contextlib
import os
import sys
from datetime import UTC, datetime

from rich.console import Console

from xfarm.errors import UserError, WrongUsageError
from xfarm.orchestrator import locks, stores, targets
from xfarm.orchestrator.graph import dependencies, order


def unlock(stack: str, *, yes: bool) -> None:
    """Show the locks of the stacks of one name, ask for confirmation, and delete those that were shown.

    Raises:
        UserError: Nothing was unlocked, and why.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    targets.activate(stack, Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print)
    place = stores.store(os.environ["PULUMI_BACKEND_URL"])
    if place is None:
        raise UserError(
            "xfarm reads locks in an S3 bucket or a folder only, and the state is elsewhere: "
            f"run 'pulumi cancel {stack}' in the folder of the project that is locked."
        )
    with contextlib.ExitStack() as examined:
        shown: list[locks.Lock] = []
        for project in order(dependencies()):
            found = examined.enter_context(locks.examined(place, project, stack))
            if not found.alone:
                raise UserError(f"{project}: {locks.refusal(next(iter(found.unproven), None), locks.RUNS)}.")
            known = found.unproven | dict.fromkeys(found.ended, "its owner has ended")
            for lock, reason in known.items():
                console.print(f"{project} is locked by {lock}{_age(lock)}; {reason}.")
            shown += known
        if not shown:
            console.print(f"Nothing to unlock: no project of '{stack}' is locked.")
            return
        _confirm(stack, console, yes=yes)
        for lock in shown:
            place.delete(lock.path)
    console.print(f"Unlocked: run 'xfarm deploy {stack}' to continue.")


def _age(lock: locks.Lock) -> str:
    if not lock.taken:
        return ""
    minutes = int((datetime.now(UTC) - lock.taken).total_seconds()) // 60
    return f" ({minutes // 60} h {minutes % 60} min ago)"


def _confirm(stack: str, console: Console, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsageError(f"unlock of '{stack}' needs --yes if there is no terminal to confirm it at.")
    console.print("If an update still runs, two at the same time can damage the state.")
    if console.input(f"Type '{stack}' if you are sure that no update of it runs on any machine: ").strip() != stack:
        raise UserError(f"that was not '{stack}', so nothing was unlocked.")
