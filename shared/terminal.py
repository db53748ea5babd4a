"""Prints whatever there is to print, on whatever it is printed."""

import io
import sys


def print_anything() -> None:
    """Let standard output take characters that its encoding lacks, as escapes, which standard error does anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
