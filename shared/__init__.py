"""What the stacks share: names, outputs, checks of settings, tags and the shape of alarms."""
