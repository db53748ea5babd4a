"""ministack, with what it lacks of AWS made good.

Of the three protocols of CloudWatch, Terraform's provider speaks the oldest, in which ministack 1.5.33 leaves out an
alarm's period, statistic, dimensions and actions: every preview would want to set them again.

Of S3's listings, the one of versions overlooks `encoding-type=url`, without which XML can't hold a control character.
Terraform's provider, which empties a bucket by that listing, takes the `+` in a key for a space, deletes another key,
and begins again, without end.

Of IAM's wildcards, none matches a line break, which a key may hold. Those of AWS match any character ("IAM JSON policy
elements: Resource").

Of a function's output, it loses what has not arrived 5 ms after the line before: on a busy machine, the last lines.

Of SQS's actions, it has none of those that move dead letters back to the queue they came from.

Of the queue's messages that a function may not process, as too much runs already, it uses up a receive at once. Lambda
goes on trying until their visibility timeout has passed. And it receives no more than the function's reserved
concurrency, which Lambda's pollers don't look at.

Usage: python local/patched_ministack.py
"""

from __future__ import annotations

import json
import re
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partialmethod
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape, unescape

from ministack.app import main
from ministack.core import iam_evaluator
from ministack.core.lambda_runtime import Worker
from ministack.services import cloudwatch, lambda_svc, s3, sqs

_describe_alarms = cloudwatch._describe_alarms  # noqa: SLF001 - there is no other way to mend it


def describe_alarms(
    params: dict[str, list[str]],
    data: dict[str, Any],
    is_cbor: bool,  # noqa: FBT001 - as ministack calls it
    is_json: bool = False,  # noqa: FBT001, FBT002
) -> tuple[int, dict[str, str], bytes]:
    """Answer DescribeAlarms: in the query protocol by what the JSON protocol says."""
    if is_cbor or is_json:
        return _describe_alarms(params, data, is_cbor, is_json)
    asked: dict[str, Any] = {"AlarmNames": [], "AlarmTypes": []}
    for key, value in params.items():
        name, _, index = key.partition(".member.")
        if index:
            asked[name].append(value[0])
        else:
            asked[name] = value[0]
    _, _, body = _describe_alarms({}, asked, is_cbor=False, is_json=True)
    return cloudwatch._xml(  # noqa: SLF001
        200, "DescribeAlarmsResponse", f"<DescribeAlarmsResult>{to_xml(json.loads(body))}</DescribeAlarmsResult>"
    )


_list_object_versions = s3._list_object_versions  # noqa: SLF001


def list_object_versions(bucket: str, query: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Answer ListObjectVersions, with the keys encoded where that is asked for, as in ministack's other listings."""
    status, headers, body = _list_object_versions(bucket, query)
    if s3._qp(query, "encoding-type") != "url" or status != HTTPStatus.OK:  # noqa: SLF001
        return status, headers, body
    # Not by an XML parser, as a key may hold a character that XML can't.
    encoded = re.sub(
        r"(?<=<)(Key|Prefix|Delimiter|KeyMarker|NextKeyMarker)>([^<]+)",
        lambda match: f"{match[1]}>{s3._url_encode(unescape(match[2]))}",  # noqa: SLF001
        body.decode(),
    )
    end = "</ListVersionsResult>"
    return status, headers, encoded.replace(end, f"<EncodingType>url</EncodingType>{end}").encode()


_fnmatch_compile = iam_evaluator._fnmatch_compile  # noqa: SLF001


def fnmatch_compile(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001
    """Return the expression for a pattern of a policy, in which a wildcard matches any character."""
    compiled = _fnmatch_compile(pattern, ignore_case)
    return re.compile(compiled.pattern, compiled.flags | re.DOTALL)


_move_tasks: dict[str, list[dict[str, Any]]] = {}
"""What was moved, by the queue's ARN, the latest first; forgotten, unlike messages, when the emulator stops."""


def start_message_move_task(data: dict[str, Any], _url: str) -> dict[str, Any]:
    """Answer StartMessageMoveTask by moving all messages before it returns: each, as on AWS, is a new one."""
    source = data["SourceArn"]
    queue = sqs._queue_by_arn(source)  # noqa: SLF001
    if queue is None:
        raise sqs._Err("ResourceNotFoundException", "The resource that you specified for SourceArn doesn't exist.")  # noqa: SLF001
    started = time.time()
    waiting = [message for message in queue["messages"] if message["visible_at"] <= started]
    for message in waiting:
        destination: Any = sqs._queue_by_arn(data.get("DestinationArn") or message["sys"]["DeadLetterQueueSourceArn"])  # noqa: SLF001
        sqs._act_send_message(  # noqa: SLF001
            {"MessageBody": message["body"], "MessageAttributes": message["message_attributes"]}, destination["url"]
        )
        queue["messages"].remove(message)
    _move_tasks.setdefault(source, []).insert(
        0,
        {
            "Status": "COMPLETED",
            "SourceArn": source,
            "ApproximateNumberOfMessagesMoved": len(waiting),
            "ApproximateNumberOfMessagesToMove": len(waiting),
            "StartedTimestamp": int(started * 1000),
        },
    )
    return {"TaskHandle": str(uuid.uuid4())}


def list_message_move_tasks(data: dict[str, Any], _url: str) -> dict[str, Any]:
    """Answer ListMessageMoveTasks."""
    return {"Results": _move_tasks.get(data["SourceArn"], [])[: data.get("MaxResults", 1)]}


_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 0.5
"""How soon a throttled call is tried again, twice as late each time. Lambda's own times are not documented."""

_batch: ContextVar[tuple[str, float] | None] = ContextVar("_batch", default=None)
"""In the thread that hands a batch over: whose event source mapping's it is, and when SQS shows its messages again."""
_throttled: list[str] = []
"""The event source mapping of each batch that waits until the function may process it."""

_sqs_esm_concurrency = lambda_svc._sqs_esm_concurrency  # noqa: SLF001
_run_sqs_batch = lambda_svc._run_sqs_batch  # noqa: SLF001
_execute_function = lambda_svc._execute_function  # noqa: SLF001


def sqs_esm_concurrency(
    esm: dict[str, Any],
    _function: dict[str, Any],
    _config: dict[str, Any],
    queue: dict[str, Any] | None = None,
) -> int:
    """Return how many batches of an event source mapping may be in work.

    It is the mapping's maximum concurrency, even where the function's reserved concurrency is less and Lambda "may
    throttle your messages" ("Configuring scaling behavior for SQS event source mappings"). While one is throttled, no
    further one is received: Lambda is "reducing the amount of concurrency allocated to your Amazon SQS event source
    mapping" ("Handling errors for an SQS event source in Lambda").
    """
    return 0 if esm["UUID"] in _throttled else _sqs_esm_concurrency(esm, {}, {}, queue)


def run_sqs_batch(
    esm: dict[str, Any], function: dict[str, Any], event: dict[str, Any], batch: list[dict[str, Any]], *queue: str
) -> None:
    """Hand a batch over to a function, in a thread of its own."""
    _batch.set((esm["UUID"], min(message["visible_at"] for message in batch)))
    _run_sqs_batch(esm, function, event, batch, *queue)


def execute_function(function: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """Invoke a function; with a batch of a queue's messages again and again, for as long as it is throttled.

    "Lambda continues to retry the message until the message's timestamp exceeds your queue's visibility timeout"
    ("Handling errors for an SQS event source in Lambda"). Nobody else's call is tried again.
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


def to_xml(value: Any, name: str = "") -> str:  # noqa: ANN401 - any JSON
    """`value` as AWS's query protocol writes it: a list as members, a time in ISO 8601, nothing as nothing."""
    if isinstance(value, dict):
        return "".join(f"<{key}>{to_xml(item, key)}</{key}>" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return "".join(f"<member>{to_xml(item)}</member>" for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if name.endswith("Timestamp") and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).isoformat()
    return escape(str(value))


if __name__ == "__main__":
    setattr(cloudwatch, "_describe_alarms", describe_alarms)  # noqa: B010 - a plain assignment has the wrong type
    setattr(s3, "_list_object_versions", list_object_versions)  # noqa: B010
    setattr(iam_evaluator, "_fnmatch_compile", fnmatch_compile)  # noqa: B010
    handlers = {"StartMessageMoveTask": start_message_move_task, "ListMessageMoveTasks": list_message_move_tasks}
    patient = partialmethod(Worker._drain_stderr_bounded, first_line_wait=0.2, idle_confirm=0.05, hard_cap=2.0)  # noqa: SLF001
    setattr(Worker, "_drain_stderr_bounded", patient)  # noqa: B010
    sqs._HANDLERS.update(handlers)  # noqa: SLF001
    setattr(lambda_svc, "_sqs_esm_concurrency", sqs_esm_concurrency)  # noqa: B010
    setattr(lambda_svc, "_run_sqs_batch", run_sqs_batch)  # noqa: B010
    setattr(lambda_svc, "_execute_function", execute_function)  # noqa: B010
    main()
