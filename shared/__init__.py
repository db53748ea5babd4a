"""What the stacks agree on: names, settings, output contracts and tags."""
