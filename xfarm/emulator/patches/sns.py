"""SNS: e-mail subscriptions wait for a confirmation, which ministack doesn't need."""

from typing import Any

from ministack.services import sns

from xfarm.emulator.patches import patch

_subscribe = sns._subscribe
_unsubscribe = sns._unsubscribe
_list_subscriptions_by_topic = sns._list_subscriptions_by_topic


@patch(sns, "_subscribe")
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


@patch(sns, "_unsubscribe")
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


@patch(sns, "_list_subscriptions_by_topic")
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
