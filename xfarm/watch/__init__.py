"""A live page of a deployed pipeline: its files, messages and results."""
