"""Runs the stacks in dependency order."""
