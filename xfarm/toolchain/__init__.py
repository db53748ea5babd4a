"""A Pulumi toolchain for machines that can't download the official one: engine, language host and AWS plugin."""
