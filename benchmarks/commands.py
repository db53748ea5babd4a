"""A helper for running commands."""

from subprocess import CompletedProcess

from xfarm.errors import UserError


def check(done: CompletedProcess[str]) -> None:
    """Check that a command has succeeded, so that no failure is measured.

    Raises:
        UserError: It has failed.
    """
    if done.returncode:
        raise UserError(f"'{' '.join(map(str, done.args))}' failed:\n{done.stdout}{done.stderr}")
