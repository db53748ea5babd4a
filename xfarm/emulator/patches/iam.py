"""IAM: policies decide as in AWS, about the requests that this project makes.

In ministack:

- Wildcards don't match a line break, which a key may contain. In AWS they match any character ("IAM JSON policy
  elements: Resource").
- If IAM is enforced (`Emulator.enforces_iam`), some requests are checked for another action or resource than in AWS, or
  without the keys that conditions need.
- Simulations ignore conditions.
"""

import json
import logging
import re
import uuid
from contextvars import ContextVar
from itertools import count, takewhile
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import iam, lambda_svc

from xfarm.emulator.patches import patch, to_xml

_fnmatch_compile = iam_evaluator._fnmatch_compile


@patch(iam_evaluator, "_fnmatch_compile")
def fnmatch_compile(pattern: str, ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001 - as ministack calls it
    """Return the regular expression for a policy's pattern, with wildcards that match any character."""
    compiled = _fnmatch_compile(pattern, ignore_case)
    return re.compile(compiled.pattern, compiled.flags | re.DOTALL)


_caller: ContextVar[str] = ContextVar("_caller", default="")
"""The access key of the current request, if IAM is enforced."""

_enforce = iam_evaluator.enforce
_extract_iam_action = iam_actions.extract_iam_action
_extract_resource_arn = iam_actions.extract_resource_arn
_request_tag_context = iam_actions.request_tag_context


@patch(iam_evaluator, "enforce")
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


@patch(app, "pin_request_origin")
def pin_request_origin(source_ip: str, _secure_transport: bool) -> None:  # noqa: FBT001 - as ministack calls it
    """Record where a request is from, and that it came by TLS: the policies of the buckets refuse plain HTTP."""
    iam_evaluator.pin_request_origin(source_ip, secure_transport=True)


@patch(iam_actions, "extract_iam_action")
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


@patch(iam_actions, "_lambda_action")
def lambda_action(method: str, path: str) -> str | None:
    """Return the action of a request to Lambda, which is the operation's name but for `InvokeFunction`."""
    operation = iam_actions._match_rest_action("lambda", method, path)
    return "InvokeFunction" if operation == "Invoke" else operation


@patch(iam_actions, "extract_resource_arn")
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


@patch(iam_actions, "request_tag_context")
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


iam._IAM_HANDLERS["SimulatePrincipalPolicy"] = simulate_principal_policy
iam_actions._BOTOCORE_SERVICE_MAP["lambda"] = ["lambda"]
