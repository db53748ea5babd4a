"""Says in a sentence what AWS refused, or why it was not reached, without ever quoting a credential."""

import re
from typing import Final

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

_HEADERS: Final = re.compile(
    "invalid header value|authorization header|AWS4-HMAC-SHA256|credential=|signature=|security-token", re.IGNORECASE
)
"""What is found where http.client, or AWS, quotes a header."""


def explain(error: BaseException) -> str | None:
    """Return a sentence about an error of boto3's or botocore's, and None for any other."""
    if isinstance(error, ClientError):
        said = error.response.get("Error", {})
        message = without_credentials(str(said.get("Message")))
        return f"AWS refused {error.operation_name}: {message} ({said.get('Code')})."
    return f"{without_credentials(str(error))}." if isinstance(error, BotoCoreError | Boto3Error) else None


def without_credentials(text: str) -> str:
    """Return what botocore or AWS says of an error, unless parts of a request's headers are in it."""
    return "the reason holds parts of the request, and so is not shown" if _HEADERS.search(text) else text
