"""Measures how fast the stacks deploy, beside a peer, how fast files are processed, and how both grow."""
