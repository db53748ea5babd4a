"""`local`: the stacks on an embedded AWS, with a Pulumi toolchain of its own where none can be downloaded."""
