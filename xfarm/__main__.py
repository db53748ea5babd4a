"""Runs the command line: `python -m xfarm`."""

from xfarm.cli import xfarm

xfarm(prog_name="xfarm")
