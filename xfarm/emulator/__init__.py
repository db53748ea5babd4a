"""The AWS account on this machine: ministack, made to do as AWS does where the pipeline depends on it."""
