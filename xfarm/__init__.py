"""Everything that deploys and operates the pipeline; installed with the command `xfarm`."""
