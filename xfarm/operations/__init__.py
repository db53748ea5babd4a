"""The commands of the operator on deployed stacks: send files, show their state, and redrive dead letters."""
