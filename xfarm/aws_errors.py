"""Says in a sentence what AWS refused, or why it was not reached."""

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError


def explain(error: BaseException) -> str | None:
    """Return a sentence about an error of boto3's or botocore's, and None for any other."""
    if isinstance(error, ClientError):
        said = error.response.get("Error", {})
        return f"AWS refused {error.operation_name}: {said.get('Message')} ({said.get('Code')})."
    return f"{error}." if isinstance(error, BotoCoreError | Boto3Error) else None
