"""What an operator does with deployed stacks: see, send, and put things back."""
