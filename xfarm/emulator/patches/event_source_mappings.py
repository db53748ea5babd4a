"""Lambda, event source mappings: throttled batches are retried, and there is one mapping for a queue and function.

In ministack:

- A throttled batch uses up a receive at once, but Lambda retries it until the visibility timeout of its messages has
  passed.
- The reserved concurrency limits how many batches are received, but not in Lambda.
- A second mapping for the same queue and function is accepted.
"""

import time
from contextvars import ContextVar
from typing import Any, Final

from ministack.services import lambda_svc

from xfarm.emulator.patches import patch

_FIRST_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 0.5
"""The waits before retries of a throttled invocation, doubled each time. Lambda doesn't document its own."""

_batch: ContextVar[tuple[str, float] | None] = ContextVar("_batch", default=None)
"""The batch of the current thread: its event source mapping's UUID, and when its messages become visible again."""
_throttled: list[str] = []
"""The UUID of the event source mapping of each throttled batch."""

_sqs_esm_concurrency = lambda_svc._sqs_esm_concurrency
_run_sqs_batch = lambda_svc._run_sqs_batch
_execute_function = lambda_svc._execute_function


@patch(lambda_svc, "_sqs_esm_concurrency")
def sqs_esm_concurrency(
    esm: dict[str, Any],
    _function: dict[str, Any],
    _config: dict[str, Any],
    queue: dict[str, Any] | None = None,
) -> int:
    """Return how many batches of an event source mapping may be processed at the same time.

    This is the mapping's maximum concurrency, even if the function's reserved concurrency is lower and Lambda "may
    throttle your messages" ("Configuring scaling behavior for SQS event source mappings"). While a batch is throttled,
    no further batch is received: Lambda is "reducing the amount of concurrency allocated to your Amazon SQS event
    source mapping" ("Handling errors for an SQS event source in Lambda").
    """
    return 0 if esm["UUID"] in _throttled else _sqs_esm_concurrency(esm, {}, {}, queue)


@patch(lambda_svc, "_run_sqs_batch")
def run_sqs_batch(
    esm: dict[str, Any], function: dict[str, Any], event: dict[str, Any], batch: list[dict[str, Any]], *queue: str
) -> None:
    """Invoke a function with a batch; ministack calls this in a separate thread."""
    _batch.set((esm["UUID"], min(message["visible_at"] for message in batch)))
    _run_sqs_batch(esm, function, event, batch, *queue)


@patch(lambda_svc, "_execute_function")
def execute_function(function: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """Invoke a function; retry a batch of a queue's messages while it is throttled.

    "Lambda continues to retry the message until the message's timestamp exceeds your queue's visibility timeout"
    ("Handling errors for an SQS event source in Lambda"). Other invocations are not retried.
    """
    result = _execute_function(function, event)
    if not result.get("throttle") or not (batch := _batch.get()):
        return result
    mapping, visible_at = batch
    _throttled.append(mapping)
    wait_s = _FIRST_RETRY_S
    try:
        while result.get("throttle") and time.time() + wait_s < visible_at:
            time.sleep(wait_s)
            result = _execute_function(function, event)
            wait_s = min(2 * wait_s, _LONGEST_RETRY_S)
    finally:
        _throttled.remove(mapping)
    return result


_create_esm = lambda_svc._create_esm


@patch(lambda_svc, "_create_esm")
def create_esm(data: dict[str, Any]) -> Any:  # noqa: ANN401 - as in ministack
    """Answer CreateEventSourceMapping; refuse a second mapping for the same queue and function.

    aws/chalice #2146 quotes the message.
    """
    source, function = data["EventSourceArn"], data["FunctionName"].rpartition(":")[2]
    for mapping in lambda_svc._esms.values():
        if (mapping["EventSourceArn"], mapping["FunctionName"]) == (source, function):
            message = (
                f'An event source mapping with SQS arn (" {source} ") and function (" {function} ") already exists. '
                f"Please update or delete the existing mapping with UUID {mapping['UUID']}"
            )
            return lambda_svc.error_response_json("ResourceConflictException", message, 409)
    return _create_esm(data)
