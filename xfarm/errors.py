"""The one kind of error that people see without a traceback."""

from typing import IO, Any

import click


class UserError(click.ClickException):
    """Something that the person at the keyboard can fix.

    The message is one or two sentences: what is wrong, and what to do.
    """

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message to `file`, or to standard error."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


class WrongUsageError(UserError):
    """A command line that can't be right, whatever the state of the stacks."""

    exit_code = click.UsageError.exit_code
