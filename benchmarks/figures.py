"""Helpers for printing figures."""

from collections.abc import Sequence
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table


def seconds(values: Sequence[float]) -> str:
    """Return the median of `values`, and their range if there are several, as text: `66.1 s (65.8 to 67.0)`."""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{median(values):.1f} s{spread}"


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of `values`; if there is only one value, return that."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def table(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is text and whose others are figures."""
    if title:
        console.print(title)  # rich would wrap a title in the table at the table's width
    shown = Table(box=None, pad_edge=False)
    for number, name in enumerate(head):
        shown.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    console.print()
