"""A Pulumi toolchain for machines that cannot have the official one: engine, language host and AWS plugin."""
