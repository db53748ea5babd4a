"""Reads and writes the files of a Pulumi backend in an S3 bucket."""

import boto3
from botocore.exceptions import ClientError

from xfarm.orchestrator.aws_account import aws_errors_as_user_errors


class Bucket:
    """A backend in an S3 bucket. Its methods raise a `UserError` if AWS refuses.

    Args:
        name: The bucket's name.
        prefix: What all keys begin with.
    """

    def __init__(self, name: str, prefix: str) -> None:
        self._client = boto3.client("s3")
        self._name = name
        self._prefix = prefix

    @aws_errors_as_user_errors()
    def names(self, folder: str) -> list[str]:
        """Return the paths of the JSON files in a folder."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._name, Prefix=f"{self._prefix}{folder}/"
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key.removeprefix(self._prefix) for key in keys if key.endswith(".json")]

    @aws_errors_as_user_errors()
    def read(self, path: str) -> str | None:
        """Return the content of a file, or None if there is none."""
        try:
            answer = self._client.get_object(Bucket=self._name, Key=self._prefix + path)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        return answer["Body"].read().decode(errors="replace")

    @aws_errors_as_user_errors()
    def write(self, path: str, content: str) -> None:
        """Write a file."""
        self._client.put_object(Bucket=self._name, Key=self._prefix + path, Body=content.encode())

    @aws_errors_as_user_errors()
    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""
        self._client.delete_object(Bucket=self._name, Key=self._prefix + path)
