"""What the benchmarks run commands with."""

from subprocess import CompletedProcess

from xfarm.errors import UserError


def check(done: CompletedProcess[str]) -> None:
    """Make sure that a command has succeeded: the time that a failure took is no figure.

    Raises:
        UserError: It has failed.
    """
    if done.returncode:
        raise UserError(f"'{' '.join(map(str, done.args))}' failed:\n{done.stdout}{done.stderr}")
