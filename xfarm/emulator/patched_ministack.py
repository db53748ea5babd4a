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

Of a function's role, it asks neither whether it may make the log group that is missing, nor whether it is still the
role that the function was made with. Of a topic's subscribers, it takes those by e-mail for confirmed.

Usage: python xfarm/emulator/patched_ministack.py
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
from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudwatch, cloudwatch_logs, iam, lambda_svc, s3, sns, sqs

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


_emit_lambda_logs = lambda_svc._emit_lambda_logs  # noqa: SLF001


def emit_lambda_logs(func: dict[str, Any], *told: Any, **also: Any) -> None:  # noqa: ANN401 - as ministack calls it
    """Write what an invocation printed, unless the log group is missing and the role may not make it.

    Lambda makes it with the function's role ("Managing permissions in AWS Lambda", `logs:CreateLogGroup`); where it
    can't, the lines are lost.
    """
    config = func.get("config") or func
    group = f"/aws/lambda/{config['FunctionName']}"
    if group not in cloudwatch_logs._log_groups:  # noqa: SLF001
        role = config["Role"].rpartition("/")[2]
        asked = iam_evaluator.EvalContext(
            principal_arn=config["Role"],
            principal_type="AssumedRole",
            principal_account=get_account_id(),
            action="logs:CreateLogGroup",
            resource_arn=cloudwatch_logs._make_group_arn(group),  # noqa: SLF001
            region=get_region(),
        )
        policies = iam_evaluator._gather_role_policies(role, get_account_id())  # noqa: SLF001
        if iam_evaluator.evaluate(asked, policies).decision != "Allow":
            return
    _emit_lambda_logs(func, *told, **also)


_create_function = lambda_svc._create_function  # noqa: SLF001
_update_config = lambda_svc._update_config  # noqa: SLF001
_execute_function_dispatch = lambda_svc._execute_function_dispatch  # noqa: SLF001


def create_function(data: dict[str, Any]) -> Any:  # noqa: ANN401 - as ministack answers
    """Answer CreateFunction, and note which role the function may read its environment as."""
    answer = _create_function(data)
    if answer[0] == HTTPStatus.CREATED:
        lambda_svc._functions[data["FunctionName"]]["granted_to"] = _role_id(data["Role"])  # noqa: SLF001
    return answer


def update_config(name: str, data: dict[str, Any]) -> Any:  # noqa: ANN401
    """Answer UpdateFunctionConfiguration, which lets a role read the environment where it is another than before."""
    function = lambda_svc._functions.get(name)  # noqa: SLF001
    before = function and function["config"]["Role"]
    answer = _update_config(name, data)
    if function and data.get("Role", before) != before:
        function["granted_to"] = _role_id(data["Role"])
    return answer


def execute_function_dispatch(func: dict[str, Any], config: dict[str, Any], *told: Any) -> dict[str, Any]:  # noqa: ANN401
    """Run a function, unless its role was deleted and made again: that one may not read the function's environment.

    Lambda encrypts it under a KMS key, and grants the use of the key to the role as it is when the function is made, or
    given another role ("Resource: aws_lambda_function" in the documentation of Terraform's AWS provider, on
    KMSAccessDeniedException).
    """
    granted = func.get("granted_to")
    if granted and config.get("Environment", {}).get("Variables") and granted != _role_id(config["Role"]):
        message = "Lambda was unable to decrypt the environment variables because KMS access was denied."
        return {"error": True, "body": {"errorType": "KMSAccessDeniedException", "errorMessage": message}}
    return _execute_function_dispatch(func, config, *told)


_create_esm = lambda_svc._create_esm  # noqa: SLF001


def create_esm(data: dict[str, Any]) -> Any:  # noqa: ANN401
    """Answer CreateEventSourceMapping, which makes no second one for the same queue and function.

    The words are those that aws/chalice #2146 quotes.
    """
    source, function = data["EventSourceArn"], data["FunctionName"].rpartition(":")[2]
    for there in lambda_svc._esms.values():  # noqa: SLF001
        if (there["EventSourceArn"], there["FunctionName"]) == (source, function):
            message = (
                f'An event source mapping with SQS arn (" {source} ") and function (" {function} ") already exists. '
                f"Please update or delete the existing mapping with UUID {there['UUID']}"
            )
            return lambda_svc.error_response_json("ResourceConflictException", message, 409)
    return _create_esm(data)


def _role_id(arn: str) -> str | None:
    role = iam._roles.get(arn.rpartition("/")[2])  # noqa: SLF001
    return role and role["RoleId"]


_subscribe = sns._subscribe  # noqa: SLF001
_unsubscribe = sns._unsubscribe  # noqa: SLF001
_list_subscriptions_by_topic = sns._list_subscriptions_by_topic  # noqa: SLF001


def subscribe(params: dict[str, list[str]]) -> Any:  # noqa: ANN401
    """Answer Subscribe; one by e-mail has to be confirmed ("Subscribe", Amazon SNS API Reference).

    As no mail is sent, the token that it would hold is the last part of the subscription's ARN.
    """
    there = {each["arn"] for each in _subscriptions(params)}
    answer = _subscribe(params)
    for new in _subscriptions(params):
        if new["protocol"].startswith("email") and new["arn"] not in there:
            new |= {"confirmed": False, "token": new["arn"].rpartition(":")[2]}
            new["attributes"] |= {"PendingConfirmation": "true", "ConfirmationWasAuthenticated": "false"}
    return answer


def unsubscribe(params: dict[str, list[str]]) -> Any:  # noqa: ANN401
    """Answer Unsubscribe, which refuses to end what was never confirmed.

    As the AWS provider knows it (``resourceTopicSubscriptionDelete`` in terraform-provider-aws).
    """
    arn = params["SubscriptionArn"][0]
    pending = {
        each["arn"]
        for topic in sns._topics.values()  # noqa: SLF001
        for each in topic["subscriptions"]
        if not each["confirmed"]
    }
    if arn in pending:
        message = (
            "Invalid parameter: SubscriptionArn Reason: Cannot unsubscribe a subscription that is pending confirmation"
        )
        return sns._error("InvalidParameter", message, 400)  # noqa: SLF001
    return _unsubscribe(params)


def list_subscriptions_by_topic(params: dict[str, list[str]]) -> Any:  # noqa: ANN401
    """Answer ListSubscriptionsByTopic, which has no ARN for what waits to be confirmed."""
    status, headers, body = _list_subscriptions_by_topic(params)
    for each in _subscriptions(params):
        if not each["confirmed"]:
            body = body.replace(f"<SubscriptionArn>{each['arn']}<".encode(), b"<SubscriptionArn>PendingConfirmation<")
    return status, headers, body


def _subscriptions(params: dict[str, list[str]]) -> list[dict[str, Any]]:
    topic = sns._topics.get(params["TopicArn"][0], {})  # noqa: SLF001
    return list(topic.get("subscriptions", []))


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
    for patch in (emit_lambda_logs, create_function, create_esm, update_config, execute_function_dispatch):
        setattr(lambda_svc, f"_{patch.__name__}", patch)
    for patch in (subscribe, unsubscribe, list_subscriptions_by_topic):
        setattr(sns, f"_{patch.__name__}", patch)
    main()
