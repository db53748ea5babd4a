"""The command line of the benchmarks: `python -m benchmarks [PART...]`."""

import argparse
import sys
from typing import Final

from rich.console import Console

from benchmarks import audit, contents, deployment, files, growth, pipeline
from xfarm.errors import UserError

LARGE: Final = "large"
"""What takes a quarter of an hour by itself: 10,000 files in the pipeline, and a million in an audit."""


def _large(console: Console) -> None:
    growth.numbers(console, growth.LARGE)
    audit.run(console, audit.MILLION)


PARTS: Final = {
    "deployment": deployment.run,
    "pipeline": pipeline.run,
    "files": files.run,
    "contents": contents.run,
    "growth": growth.run,
    "audit": audit.run,
    LARGE: _large,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks that the arguments name, or all but `large`, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", choices=(*PARTS, []), help=f"{', '.join(PARTS)}; all but {LARGE} by default")
    options = parser.parse_args(arguments)
    # Without a terminal, make the console wide enough for all tables.
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        for part in options.part or [part for part in PARTS if part != LARGE]:
            PARTS[part](console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.unraisablehook = lambda _: None  # Pulumi's mocks leave event loops open
    sys.exit(main())
