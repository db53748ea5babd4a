"""The one kind of error that is shown to people without a traceback."""


class UserError(Exception):
    """Something the person at the keyboard can mend.

    The message is one sentence or two: what is wrong, and what to do.
    """
