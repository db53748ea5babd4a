"""Turns errors of boto3 and botocore into sentences that never contain a credential."""

import json
import re
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError

_HEADERS: Final = re.compile(
    "invalid header value|authorization header|AWS4-HMAC-SHA256|credential=|signature=|security-token", re.IGNORECASE
)
"""What an error message contains if http.client or AWS quotes a header in it."""


_MISSING: Final = {
    "404",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NoSuchBucket",
    "NoSuchEntity",
    "NotFound",
    "QueueDoesNotExist",
    "ResourceNotFoundException",
}
"""AWS's error codes for a resource that does not exist."""


def is_missing(error: ClientError) -> bool:
    """Return whether an error means that a resource does not exist."""
    return error.response.get("Error", {}).get("Code") in _MISSING


def explain(error: BaseException, stack: str | None = None) -> str | None:
    """Return a sentence for an error of boto3 or botocore, or None for any other error.

    Args:
        error: The error.
        stack: The name of the stacks to whose resources the request was about, or None if it was about others.
    """
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        message = without_credentials(details.get("Message") or "it gives no reason")
        refused = f"AWS refused {error.operation_name}: {message} ({details.get('Code')})."
        if stack and is_missing(error):
            refused += f" If that was deleted by hand, 'xfarm deploy {stack} --refresh' creates it again."
        return refused
    if isinstance(error, CredentialRetrievalError) and (
        answer := re.search(r'\{"code": "NoCredentials".*\}', str(error))
    ):
        return str(json.loads(answer[0])["message"])  # of our own server (`orchestrator.role`)
    # Not by their base class: the import of boto3 takes a quarter of a second, and most commands for `local` need none.
    if isinstance(error, BotoCoreError) or type(error).__module__ == "boto3.exceptions":
        return f"{without_credentials(str(error)).strip().rstrip('.')}."
    return None


def without_credentials(text: str) -> str:
    """Return the message of an error, or a placeholder if it quotes a header of the request."""
    return "the reason is not shown because it contains parts of the request" if _HEADERS.search(text) else text
