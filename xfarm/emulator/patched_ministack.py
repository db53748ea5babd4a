"""ministack 1.5.33 with fixes where it differs from AWS.

- CloudWatch: Terraform's provider uses the query protocol, in which ministack omits an alarm's period, statistic,
  dimensions and actions. Every preview would set them again.
- S3: ListObjectVersions ignores `encoding-type=url`, without which XML can't contain a control character. Terraform's
  provider, which empties a bucket with this listing, reads the `+` in a key as a space, deletes the wrong key, and
  repeats that endlessly.
- S3: XML contains control characters as they are, so that no parser reads it, or reads a carriage return as a newline.
- S3: GetBucketRequestPayment, and subresources that ministack doesn't have, are answered with a listing.
- IAM: wildcards don't match a line break, which a key may contain. In AWS they match any character ("IAM JSON policy
  elements: Resource"). If IAM is enforced (`Emulator.enforces_iam`), some requests are checked for another action or
  resource than in AWS, or without the keys that conditions need, and nobody needs `iam:PassRole`. Simulations ignore
  conditions.
- Lambda, logs: lines that haven't arrived some milliseconds after the result are lost, what follows the last line break
  is in the next invocation's log, and nothing is logged any more after bytes that are not UTF-8. A missing log group is
  created even if the function's role may not create it.
- CloudWatch Logs: a function's lines have no ids, and FilterLogEvents returns the first 10,000 lines only.
- Lambda, concurrency: a throttled batch uses up a receive at once, but Lambda retries it until the visibility timeout
  of its messages has passed. The reserved concurrency limits how many batches are received, but not in Lambda.
- Lambda, roles: a function still works after its role was deleted and created again.
- Lambda, event source mappings: a second one for the same queue and function is accepted.
- SQS: the actions that redrive dead letters to their source queue are missing.
- SQS: with another port than before, event source mappings and CreateQueue don't find the queues that exist.
- SNS: e-mail subscriptions are confirmed without a confirmation.

It ends when its folder, the working directory, is deleted or moved, and records in the file `lock` that it has saved
its data.

Usage: python xfarm/emulator/patched_ministack.py
"""

# ruff: noqa: SLF001 - ministack has no public API for what is patched here

import json
import logging
import os
import re
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from http import HTTPStatus
from io import TextIOWrapper
from itertools import count, takewhile
from pathlib import Path
from queue import Empty
from threading import Thread
from typing import Any, Final
from xml.sax.saxutils import escape, unescape

from ministack import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.core.lambda_runtime import Worker
from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudwatch, cloudwatch_logs, iam, lambda_svc, s3, sns, sqs

_describe_alarms = cloudwatch._describe_alarms


def describe_alarms(
    params: dict[str, list[str]],
    data: dict[str, Any],
    is_cbor: bool,  # noqa: FBT001 - as ministack calls it
    is_json: bool = False,  # noqa: FBT001, FBT002 - as ministack calls it
) -> tuple[int, dict[str, str], bytes]:
    """Answer DescribeAlarms; in the query protocol, with the data of the JSON protocol."""
    if is_cbor or is_json:
        return _describe_alarms(params, data, is_cbor, is_json)
    request: dict[str, Any] = {"AlarmNames": [], "AlarmTypes": []}
    for key, value in params.items():
        name, _, index = key.partition(".member.")
        if index:
            request[name].append(value[0])
        else:
            request[name] = value[0]
    _, _, body = _describe_alarms({}, request, is_cbor=False, is_json=True)
    return cloudwatch._xml(
        200, "DescribeAlarmsResponse", f"<DescribeAlarmsResult>{to_xml(json.loads(body))}</DescribeAlarmsResult>"
    )


_xml_body = s3._xml_body

_CHARACTERS: Final = {f"&#x{code:x};": chr(code) for code in range(0x20)}
"""The references to control characters in XML, and these characters."""


def xml_body(root: Any) -> bytes:  # noqa: ANN401 - ministack's elements
    """Return an XML document in which control characters are character references.

    S3 writes them like this (basho/riak_cs #1255). XML 1.0 allows no reference to most of them, so a parser still
    refuses these.
    """
    references = str.maketrans({code: name for name, code in _CHARACTERS.items() if code not in "\t\n"})
    return _xml_body(root).decode().translate(references).encode()


_list_object_versions = s3._list_object_versions


def list_object_versions(bucket: str, query: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Answer ListObjectVersions, with encoded keys if requested, as in ministack's other listings."""
    status, headers, body = _list_object_versions(bucket, query)
    if s3._qp(query, "encoding-type") != "url" or status != HTTPStatus.OK:
        return status, headers, body
    # An XML parser would reject keys with characters that XML can't contain.
    encoded = re.sub(
        r"(?<=<)(Key|Prefix|Delimiter|KeyMarker|NextKeyMarker)>([^<]+)",
        lambda match: f"{match[1]}>{s3._url_encode(unescape(match[2], _CHARACTERS))}",
        body.decode(),
    )
    end = "</ListVersionsResult>"
    return status, headers, encoded.replace(end, f"<EncodingType>url</EncodingType>{end}").encode()


_list_objects_v1 = s3._list_objects_v1

_LISTING: Final = {"delimiter", "encoding-type", "marker", "max-keys", "prefix"}
"""The parameters of ListObjects (Amazon S3 API Reference); others start with `x-`, in upper or lower case."""


def list_objects_v1(bucket: str, query: dict[str, Any]) -> Any:  # noqa: ANN401 - ministack's response
    """Answer ListObjects, or GetBucketRequestPayment, or refuse another subresource of a bucket."""
    if "requestPayment" in query:
        return s3._get_bucket_request_payment(bucket)
    if unknown := [name for name in query if name not in _LISTING and not name.lower().startswith("x-")]:
        return s3._error("NotImplemented", f"The emulator has no subresource '{unknown[0]}'.", 501, f"/{bucket}")
    return _list_objects_v1(bucket, query)


_fnmatch_compile = iam_evaluator._fnmatch_compile


def fnmatch_compile(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001 - as ministack calls it
    """Return the regular expression for a policy's pattern, with wildcards that match any character."""
    compiled = _fnmatch_compile(pattern, ignore_case)
    return re.compile(compiled.pattern, compiled.flags | re.DOTALL)


_queue_url = sqs._queue_url


def queue_url(name: str) -> str:
    """Return the URL of a queue: the one that it was created with, which contains the port of that time."""
    return sqs._queue_name_to_url.get(name) or _queue_url(name)


_caller: ContextVar[str] = ContextVar("_caller", default="")
"""The access key of the current request, if IAM is enforced."""

_enforce = iam_evaluator.enforce
_extract_iam_action = iam_actions.extract_iam_action
_extract_resource_arn = iam_actions.extract_resource_arn
_request_tag_context = iam_actions.request_tag_context


def enforce(  # noqa: PLR0913, PLR0917 - as ministack calls it
    access_key_id: str,
    iam_action: str,
    service: str,
    region: str,
    resource_arn: str = "*",
    service_context: dict[str, Any] | None = None,
) -> Any:  # noqa: ANN401 - as in ministack
    """Return why a request is refused, or None, and log the decision.

    `lambda:FunctionArn` is the function of the event source mapping ("Actions, resources, and condition keys for AWS
    Lambda", Service Authorization Reference).
    """
    _caller.set(access_key_id)
    context = dict(service_context or {})
    if mapping := lambda_svc._esms.get(resource_arn.partition(":event-source-mapping:")[2]):
        context["lambda:FunctionArn"] = mapping["FunctionArn"]
    denied = _enforce(access_key_id, iam_action, service, region, resource_arn, context)
    principal = getattr(iam_evaluator.resolve_credential(access_key_id), "principal_arn", "")
    decision = "denied" if denied else "allowed"
    logging.getLogger("iam").info("%s", json.dumps([decision, principal, iam_action, resource_arn]))
    return denied


def pin_request_origin(source_ip: str, _secure_transport: bool) -> None:  # noqa: FBT001 - as ministack calls it
    """Record where a request is from, and that it came by TLS: the policies of the buckets refuse plain HTTP."""
    iam_evaluator.pin_request_origin(source_ip, secure_transport=True)


def extract_iam_action(service: str, method: str, path: str, *args: Any) -> str | None:  # noqa: ANN401 - as in ministack
    """Return the action of a request.

    CloudWatch's newest protocol has it in the path. In SQS, a batch needs the same permission as a single message
    ("Amazon SQS API permissions: Actions and resource reference").
    """
    namespace, _, operation = path.rpartition("/operation/")
    if service == "monitoring" and namespace:
        return f"cloudwatch:{operation}"
    action = _extract_iam_action(service, method, path, *args)
    return action.removesuffix("Batch") if action and service == "sqs" else action


def lambda_action(method: str, path: str) -> str | None:
    """Return the action of a request to Lambda, which is the operation's name but for `InvokeFunction`."""
    operation = iam_actions._match_rest_action("lambda", method, path)
    return "InvokeFunction" if operation == "Invoke" else operation


def extract_resource_arn(  # noqa: PLR0913, PLR0917 - as ministack calls it
    service: str, method: str, path: str, headers: dict[str, str], body: bytes, params: dict[str, Any], *scope: str
) -> str:
    """Return the ARN of the resource that a request is for, also if a parameter other than its name has it."""
    arn: str = _extract_resource_arn(service, method, path, headers, body, params, *scope)
    if service == "lambda" and path.endswith("/functions"):
        return lambda_svc._func_arn(json.loads(body)["FunctionName"]) if body else arn
    if arn != "*" or service not in {"monitoring", "sns", "sqs"}:
        return arn
    if alarm := iam_actions._param(body, params, "AlarmNames.member.1"):
        params = {"AlarmName": [alarm]}
        return _extract_resource_arn(service, method, path, headers, body, params, *scope)
    return iam_actions._param(body, params, "ResourceArn", "ResourceARN", "SubscriptionArn", "SourceArn") or arn


def request_tag_context(service: str, iam_action: str, body: bytes, params: dict[str, Any]) -> dict[str, Any]:
    """Return the condition keys in a request: tags, and those of "Actions, resources, and condition keys" of IAM."""
    context: dict[str, Any] = _request_tag_context(service, iam_action, body, params)
    if service == "iam" and (policy := iam_actions._query_param(params, "PolicyArn")):
        context["iam:PolicyARN"] = policy
    if iam_action == "lambda:CreateEventSourceMapping":
        function = json.loads(body)["FunctionName"].rpartition(":")[2]
        context["lambda:FunctionArn"] = lambda_svc._func_arn(function)
    return context


def refused_role(role: str) -> Any:  # noqa: ANN401 - ministack's response
    """Return a refusal if the caller may not pass a role to Lambda, or None.

    "Granting a user permissions to pass a role to an AWS service", IAM User Guide.
    """
    if not app.AUTH:
        return None
    context = {"iam:PassedToService": "lambda.amazonaws.com"}
    denied = enforce(_caller.get(), "iam:PassRole", "iam", get_region(), role, context)
    return denied and iam_actions.access_denied_response(
        "lambda", "iam:PassRole", denied.principal_arn, str(uuid.uuid4())
    )


def simulate_principal_policy(p: dict[str, Any]) -> Any:  # noqa: ANN401 - ministack's response
    """Answer SimulatePrincipalPolicy for one resource, with the context that the request has."""

    def members(prefix: str) -> list[str]:
        numbered = (iam_actions._query_param(p, prefix.format(number)) for number in count(1))
        return list(takewhile(bool, numbered))

    arn, account = iam_actions._query_param(p, "PolicySourceArn"), get_account_id()
    kind, _, path = arn.rpartition(":")[2].partition("/")
    name = path.rpartition("/")[2]
    if name not in (iam._roles if kind == "role" else iam._users):
        return iam._error(404, "NoSuchEntity", f"The {kind} with name {name} cannot be found.", ns="iam")
    gather = iam_evaluator._gather_role_policies if kind == "role" else iam_evaluator._gather_user_policies
    context = {
        key.lower(): iam_actions._query_param(p, f"ContextEntries.member.{number}.ContextKeyValues.member.1")
        for number, key in enumerate(members("ContextEntries.member.{}.ContextKeyName"), 1)
    }
    resource = iam_actions._query_param(p, "ResourceArns.member.1") or "*"
    results = []
    for action in members("ActionNames.member.{}"):
        request = iam_evaluator.EvalContext(arn, kind, account, action, resource, get_region(), service_context=context)
        decision = iam_evaluator.evaluate(request, gather(name, account)).decision
        named = {"Allow": "allowed", "Deny": "explicitDeny"}.get(decision, "implicitDeny")
        results.append({"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": named})
    answer = to_xml({"EvaluationResults": results, "IsTruncated": False})
    body = f"<SimulatePrincipalPolicyResult>{answer}</SimulatePrincipalPolicyResult>"
    return iam._xml(200, "SimulatePrincipalPolicyResponse", body, ns="iam")


_move_tasks: dict[str, list[dict[str, Any]]] = {}
"""The tasks by the queue's ARN, the latest first. Unlike messages, they are lost when the emulator stops."""


def start_message_move_task(data: dict[str, Any], _url: str) -> dict[str, Any]:
    """Answer StartMessageMoveTask after moving all messages. Each becomes a new message, as on AWS."""
    source = data["SourceArn"]
    queue = sqs._queue_by_arn(source)
    if queue is None:
        raise sqs._Err("ResourceNotFoundException", "The resource that you specified for SourceArn doesn't exist.")
    started = time.time()
    waiting = [message for message in queue["messages"] if message["visible_at"] <= started]
    for message in waiting:
        destination: Any = sqs._queue_by_arn(data.get("DestinationArn") or message["sys"]["DeadLetterQueueSourceArn"])
        sqs._act_send_message(
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


def run_sqs_batch(
    esm: dict[str, Any], function: dict[str, Any], event: dict[str, Any], batch: list[dict[str, Any]], *queue: str
) -> None:
    """Invoke a function with a batch; ministack calls this in a separate thread."""
    _batch.set((esm["UUID"], min(message["visible_at"] for message in batch)))
    _run_sqs_batch(esm, function, event, batch, *queue)


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


_END_OF_LOG: Final = "\0end of the log"
_LATE_S: Final = 5
"""How long to wait for the end of the log of a function that was killed, if a process that it started keeps it open."""

_drain_stderr_bounded = Worker._drain_stderr_bounded


def with_end_of_log(script: str) -> str:
    """Return ministack's program for Python functions so that it also marks the end of each invocation's log."""
    before, result, after = script.rpartition("        _real_stdout.flush()\n")
    return f"{before}        print({_END_OF_LOG!r}, file=sys.__stderr__, flush=True)\n{result}{after}"


def read_stderr(worker: Worker) -> None:
    """Put the lines of a worker's log in its queue, and an end after the last."""
    stderr = worker._proc and worker._proc.stderr
    if isinstance(stderr, TextIOWrapper):
        stderr.reconfigure(encoding="utf-8", errors="replace")
        for line in stderr:
            worker._stderr_queue.put(line.rstrip("\n"))
    worker._stderr_queue.put(_END_OF_LOG)


def drain_stderr(worker: Worker, **waits: float) -> str:
    """Return the log of a worker's invocation, all of it."""
    if not worker.config.get("Runtime", "python").startswith("python"):
        return _drain_stderr_bounded(worker, **waits)
    lines: list[str] = []
    with suppress(Empty):
        while not lines or not lines[-1].endswith(_END_OF_LOG):
            lines.append(worker._stderr_queue.get(timeout=_LATE_S))
    return "\n".join(lines).removesuffix(_END_OF_LOG).rstrip("\n")


_emit_lambda_logs = lambda_svc._emit_lambda_logs


def emit_lambda_logs(func: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as ministack calls it
    """Write an invocation's log lines, unless the log group is missing and the role may not create it.

    Lambda creates it with the function's role (`logs:CreateLogGroup`, "Managing permissions in AWS Lambda"). If the
    role may not, the lines are lost.
    """
    config = func.get("config") or func
    group = f"/aws/lambda/{config['FunctionName']}"
    if group not in cloudwatch_logs._log_groups:
        role = config["Role"].rpartition("/")[2]
        context = iam_evaluator.EvalContext(
            principal_arn=config["Role"],
            principal_type="AssumedRole",
            principal_account=get_account_id(),
            action="logs:CreateLogGroup",
            resource_arn=cloudwatch_logs._make_group_arn(group),
            region=get_region(),
        )
        policies = iam_evaluator._gather_role_policies(role, get_account_id())
        if iam_evaluator.evaluate(context, policies).decision != "Allow":
            return
    _emit_lambda_logs(func, *args, **kwargs)


_append_log_events = cloudwatch_logs._append_log_events
_filter_log_events = cloudwatch_logs._filter_log_events

_PAGE: Final = 10_000
"""The most lines in one answer of FilterLogEvents."""


def append_log_events(stream: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Store log lines, each with an id ("FilteredLogEvent", Amazon CloudWatch Logs API Reference)."""
    _append_log_events(stream, [{"eventId": str(uuid.uuid4()), **event} for event in events])


def filter_log_events(data: dict[str, Any]) -> Any:  # noqa: ANN401 - ministack's response
    """Answer FilterLogEvents, with a token if there may be more lines ("FilterLogEvents", same reference).

    The token is the time of the last line, and the number of lines of that time that have been returned.
    """
    start, seen = map(int, data.get("nextToken", f"{data.get('startTime') or 0}/0").split("/"))
    answer = _filter_log_events({**data, "startTime": start})
    if answer[0] != HTTPStatus.OK:
        return answer
    found = json.loads(answer[2])["events"]
    page: dict[str, Any] = {"events": found[seen:], "searchedLogStreams": []}
    if len(found) >= min(data.get("limit", _PAGE), _PAGE):
        last = found[-1]["timestamp"]
        page["nextToken"] = f"{last}/{sum(event['timestamp'] == last for event in found)}"
    return cloudwatch_logs.json_response(page)


_create_function = lambda_svc._create_function
_update_config = lambda_svc._update_config
_execute_function_dispatch = lambda_svc._execute_function_dispatch


def create_function(data: dict[str, Any]) -> Any:  # noqa: ANN401 - ministack's response
    """Answer CreateFunction, and record the ID of the role that may decrypt the function's environment."""
    if refused := refused_role(data["Role"]):
        return refused
    answer = _create_function(data)
    if answer[0] == HTTPStatus.CREATED:
        lambda_svc._functions[data["FunctionName"]]["granted_to"] = _role_id(data["Role"])
    return answer


def update_config(name: str, data: dict[str, Any]) -> Any:  # noqa: ANN401 - as in ministack
    """Answer UpdateFunctionConfiguration, and record the ID of a new role that may decrypt the environment."""
    function = lambda_svc._functions.get(name)
    before = function and function["config"]["Role"]
    if "Role" in data and (refused := refused_role(data["Role"])):
        return refused
    answer = _update_config(name, data)
    if function and data.get("Role", before) != before:
        function["granted_to"] = _role_id(data["Role"])
    return answer


def execute_function_dispatch(func: dict[str, Any], config: dict[str, Any], *args: Any) -> dict[str, Any]:  # noqa: ANN401 - as in ministack
    """Run a function, or fail if its role was deleted and created again and can't decrypt its environment.

    Lambda encrypts the environment with a KMS key. It grants the key's use to the current role when the function is
    created, or gets another role ("Resource: aws_lambda_function" in the documentation of Terraform's AWS provider, on
    KMSAccessDeniedException).
    """
    granted = func.get("granted_to")
    if granted and config.get("Environment", {}).get("Variables") and granted != _role_id(config["Role"]):
        message = "Lambda was unable to decrypt the environment variables because KMS access was denied."
        return {"error": True, "body": {"errorType": "KMSAccessDeniedException", "errorMessage": message}}
    return _execute_function_dispatch(func, config, *args)


_create_esm = lambda_svc._create_esm


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


def _role_id(arn: str) -> str | None:
    role = iam._roles.get(arn.rpartition("/")[2])
    return role and role["RoleId"]


_subscribe = sns._subscribe
_unsubscribe = sns._unsubscribe
_list_subscriptions_by_topic = sns._list_subscriptions_by_topic


def subscribe(params: dict[str, list[str]]) -> Any:  # noqa: ANN401 - as in ministack
    """Answer Subscribe; an e-mail subscription must be confirmed ("Subscribe", Amazon SNS API Reference).

    No mail is sent. The token that it would contain is the last part of the subscription's ARN.
    """
    existing = {each["arn"] for each in _subscriptions(params)}
    answer = _subscribe(params)
    for new in _subscriptions(params):
        if new["protocol"].startswith("email") and new["arn"] not in existing:
            new |= {"confirmed": False, "token": new["arn"].rpartition(":")[2]}
            new["attributes"] |= {"PendingConfirmation": "true", "ConfirmationWasAuthenticated": "false"}
    return answer


def unsubscribe(params: dict[str, list[str]]) -> Any:  # noqa: ANN401 - as in ministack
    """Answer Unsubscribe; refuse to delete an unconfirmed subscription.

    The AWS provider handles this error (`resourceTopicSubscriptionDelete` in terraform-provider-aws).
    """
    arn = params["SubscriptionArn"][0]
    pending = {
        each["arn"] for topic in sns._topics.values() for each in topic["subscriptions"] if not each["confirmed"]
    }
    if arn in pending:
        message = (
            "Invalid parameter: SubscriptionArn Reason: Cannot unsubscribe a subscription that is pending confirmation"
        )
        return sns._error("InvalidParameter", message, 400)
    return _unsubscribe(params)


def list_subscriptions_by_topic(params: dict[str, list[str]]) -> Any:  # noqa: ANN401 - as in ministack
    """Answer ListSubscriptionsByTopic, without the ARNs of unconfirmed subscriptions."""
    status, headers, body = _list_subscriptions_by_topic(params)
    for each in _subscriptions(params):
        if not each["confirmed"]:
            body = body.replace(f"<SubscriptionArn>{each['arn']}<".encode(), b"<SubscriptionArn>PendingConfirmation<")
    return status, headers, body


def _subscriptions(params: dict[str, list[str]]) -> list[dict[str, Any]]:
    topic = sns._topics.get(params["TopicArn"][0], {})
    return list(topic.get("subscriptions", []))


LOCK: Final = Path("lock")
"""The file in the emulator's folder that `xfarm.emulator.server` holds a lock on."""

_save_all = app.save_all
_POLL_S: Final = 0.2


def save_all(services: dict[str, Callable[[], Any]]) -> None:
    """Save the state of all services, and record that."""
    _save_all(services)
    with LOCK.open("a") as lock:
        lock.write(" saved")


def end_with_folder(inode: int) -> None:
    """End this process and the workers of Lambda functions when the file `lock` is no longer the one with `inode`.

    After `git clean -fdx`, no command could find this process, and it would occupy its port. After a move of the
    folder, functions could not find their code, so this process saves its data in the new place first.
    """
    with suppress(FileNotFoundError):
        folder = Path.cwd()
        while LOCK.stat().st_ino == inode:
            if Path.cwd() != folder:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(_POLL_S)
    os.killpg(0, signal.SIGKILL)


def to_xml(value: Any, name: str = "") -> str:  # noqa: ANN401 - any JSON
    """Return a value as in AWS's query protocol: a list as members, a time in ISO 8601, null omitted."""
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
    setattr(s3, "_list_object_versions", list_object_versions)  # noqa: B010 - as above
    setattr(iam_evaluator, "_fnmatch_compile", fnmatch_compile)  # noqa: B010 - as above
    for patch in (enforce, extract_iam_action, extract_resource_arn, request_tag_context):
        setattr(iam_evaluator if patch is enforce else iam_actions, patch.__name__, patch)
    setattr(app, "pin_request_origin", pin_request_origin)  # noqa: B010 - as above
    setattr(iam_actions, "_lambda_action", lambda_action)  # noqa: B010 - as above
    iam._IAM_HANDLERS["SimulatePrincipalPolicy"] = simulate_principal_policy
    iam_actions._BOTOCORE_SERVICE_MAP["lambda"] = ["lambda"]
    handlers = {"StartMessageMoveTask": start_message_move_task, "ListMessageMoveTasks": list_message_move_tasks}
    script = "_PYTHON_WORKER_SCRIPT"
    setattr(lambda_runtime, script, with_end_of_log(getattr(lambda_runtime, script)))
    setattr(Worker, "_read_stderr", read_stderr)  # noqa: B010 - as above
    for name in ("_drain_stderr", "_drain_stderr_bounded"):
        setattr(Worker, name, drain_stderr)
    sqs._HANDLERS.update(handlers)
    setattr(lambda_svc, "_sqs_esm_concurrency", sqs_esm_concurrency)  # noqa: B010 - as above
    setattr(lambda_svc, "_run_sqs_batch", run_sqs_batch)  # noqa: B010 - as above
    setattr(lambda_svc, "_execute_function", execute_function)  # noqa: B010 - as above
    for patch in (emit_lambda_logs, create_function, create_esm, update_config, execute_function_dispatch):
        setattr(lambda_svc, f"_{patch.__name__}", patch)
    for patch in (subscribe, unsubscribe, list_subscriptions_by_topic):
        setattr(sns, f"_{patch.__name__}", patch)
    for patch in (append_log_events, filter_log_events):
        setattr(cloudwatch_logs, f"_{patch.__name__}", patch)
    setattr(s3, "_xml_body", xml_body)  # noqa: B010 - as above
    setattr(s3, "_list_objects_v1", list_objects_v1)  # noqa: B010 - as above
    setattr(sqs, "_queue_url", queue_url)  # noqa: B010 - as above
    setattr(app, "save_all", save_all)  # noqa: B010 - as above
    Thread(target=end_with_folder, args=(LOCK.stat().st_ino,), daemon=True).start()
    app.main()
