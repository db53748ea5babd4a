"""Measures deployments, compared with Terraform, the processing of files, and how both grow."""
