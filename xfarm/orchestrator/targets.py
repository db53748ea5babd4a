"""Where a stack is deployed: `local` on the emulator, every other stack in an AWS account."""

import atexit
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import click

from xfarm.errors import UserError, WrongUsageError
from xfarm.orchestrator import settings
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT, STACKS

LOCAL: Final = "local"


def known_stacks() -> list[str]:
    """Return the stack names for which every project has a `Pulumi.<stack>.yaml`."""
    names = [
        {path.name.split(".")[1] for path in (STACKS / project).glob("Pulumi.*.yaml")} for project in dependencies()
    ]
    return sorted(set.intersection(*names))


def activate(stack: str, notify: Callable[[str], None], *, engines: bool = False, preview: bool = False) -> None:
    """Set the environment of this process and its children for a stack.

    The environment is replaced, not extended, so that no variable for another account reaches Pulumi's plugins.

    Args:
        stack: The name of the stacks.
        notify: Called with each message for the user.
        engines: Whether this process will run Pulumi's engine.
        preview: Whether it will only preview. Without a state bucket, an empty folder is used in its place.

    Raises:
        UserError: There is no such stack, its settings are wrong, or something that it needs is missing or too old.
    """
    require_known(stack)
    if engines:
        settings.check(stack)
    if stack == LOCAL:
        from xfarm.orchestrator import local_environment  # noqa: PLC0415 - needed for `local` only

        environment = local_environment.prepare(ROOT, notify, STACKS if engines else None)
    else:
        from xfarm.orchestrator import aws_account, state  # noqa: PLC0415 - not needed for `local`

        account = aws_account.identify(notify)
        region = aws_account.region_in_words(account.region)
        notify(f"Account {account.number}, region {region}, as {account.identity}.")
        environment = account.environment
        aws_account.require_pulumi(environment)
        if preview and not state.has_states(account):
            environment["PULUMI_BACKEND_URL"] = _empty_folder().as_uri()
            notify("There is no state yet, so everything would be created.")
        else:
            environment["PULUMI_BACKEND_URL"] = state.existing_backend(account, stack)
            notify(f"State in {state.without_password(environment['PULUMI_BACKEND_URL'])}.")
        # No stack has a secret, so the passphrase is empty; Pulumi would prompt for one if it were not set.
        if "PULUMI_CONFIG_PASSPHRASE_FILE" not in environment:
            environment.setdefault("PULUMI_CONFIG_PASSPHRASE", "")
        # A container's user may have no name, and Pulumi's locks need one ("os/user", Go's standard library).
        environment["USER"] = environment.get("USER") or "unknown"
        # The stacks' programs import `shared` from here, even if PYTHONPATH leads to another package of that name.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    os.environ.clear()
    os.environ.update(environment)
    if engines and stack != LOCAL:  # the toolchain of `local` is chosen by its version
        from xfarm.orchestrator.pulumi_cli import require_supported_cli  # noqa: PLC0415 - needs all of Pulumi

        require_supported_cli()


def _empty_folder() -> Path:
    """Make an empty folder, which is deleted when this process ends."""
    folder = mkdtemp(prefix="xfarm-no-state-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def bootstrap(stack: str, notify: Callable[[str], None]) -> None:
    """Create the bucket for the state of a stack.

    Raises:
        UserError: There is no such stack, or AWS refuses.
    """
    require_known(stack)
    if stack == LOCAL:
        notify("'local' keeps its state in this folder, so there is nothing to create.")
        return
    from xfarm.orchestrator import aws_account, state  # noqa: PLC0415 - not needed for `local`

    state.bootstrap(aws_account.identify(notify), notify)


def check(stack: str, notify: Callable[[str], None]) -> int:
    """Print whether anything would stop a deployment of a stack, and return the exit code: 1 if something would.

    Raises:
        UserError: There is no such stack, its settings are wrong, or AWS refuses.
    """
    require_known(stack)
    settings.check(stack)
    if stack == LOCAL:
        notify("'local' needs no permissions, so there is nothing to check.")
        return 0
    from xfarm.orchestrator import aws_account  # noqa: PLC0415 - not needed for `local`
    from xfarm.orchestrator.check import check as findings  # noqa: PLC0415 - not needed for `local`

    account = aws_account.identify(notify)
    notify(f"Account {account.number}, region {account.region}, as {account.identity}.")
    os.environ.clear()
    os.environ.update(account.environment)
    failed = False
    for finding in findings(account, stack):
        click.echo(f"{finding.outcome:<8} {finding.text}")
        failed |= finding.outcome == "failed"
    return int(failed)


def require_known(stack: str) -> None:
    """Check that every project has settings for a stack.

    Raises:
        WrongUsageError: No project has them.
        UserError: Only some have them.
    """
    known = known_stacks()
    if stack in known:
        return
    from shared import names  # noqa: PLC0415 - needs Pulumi, whose import takes long

    files = [STACKS / project / f"Pulumi.{stack}.yaml" for project in dependencies()] if names.fits(stack) else []
    if missing := [path for path in files if not path.exists()]:
        path = missing[0].relative_to(STACKS.parent).as_posix()
        if len(missing) < len(files):
            again = "" if stack == LOCAL else f", or write it with 'xfarm new-stack {stack}'"
            raise UserError(
                f"{path} is missing, and other projects have their settings of '{stack}': restore it{again}."
            )
        create = f", or create it with 'xfarm new-stack {stack}'"
    else:
        create = ""
    raise WrongUsageError(f"there is no stack '{stack}', only {', '.join(known)}: choose one of these{create}.")
