"""SQS in memory, with a clock of its own: a queue of thousands of messages and hours of waiting take a second."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from botocore.exceptions import ClientError

SENT_S = 1_767_323_045
"""When the first message was sent, in seconds since 1970; each following one a second later."""


@dataclass
class Message:
    """A message in a queue."""

    message_id: str
    body: str
    attributes: dict[str, Any]
    visible_at: float = 0.0
    receives: int = 0
    handle: str = ""


@dataclass
class FakeSqs:
    """The part of boto3's client that the operations use, and of the module `time`.

    Attributes:
        latency_s: How long each request takes, in seconds; requests are answered one after the other.
        before: Called with the name of each action and its parameters before it is done.
    """

    latency_s: float = 0.0
    before: Callable[[str, dict[str, Any]], None] = lambda _action, _parameters: None
    queues: dict[str, list[Message]] = field(default_factory=dict)
    now: float = 0.0
    requests: list[str] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """The bodies that a queue does not take."""
    _ids: Any = field(default_factory=count)
    _lock: Any = field(default_factory=threading.RLock)

    def put(self, url: str, body: str, **attributes: Any) -> str:  # noqa: ANN401 - as in boto3
        """Put a message into a queue, and return its id."""
        message_id = f"m{next(self._ids)}"
        self.queues.setdefault(url, []).append(Message(message_id, body, attributes))
        return message_id

    def bodies(self, url: str) -> list[str]:
        """Return the bodies of the messages in a queue."""
        return [message.body for message in self.queues.get(url, [])]

    def hidden(self, url: str) -> int:
        """Return the number of messages in flight."""
        return sum(message.visible_at > self.now for message in self.queues.get(url, []))

    # The module `time`

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.before("Sleep", {})

    # The client

    def _request(self, action: str, parameters: dict[str, Any]) -> None:
        self.requests.append(action)
        self.now += self.latency_s
        self.before(action, parameters)

    def get_queue_attributes(self, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as in boto3
        self._request("GetQueueAttributes", parameters)
        url = parameters["QueueUrl"]
        hidden = self.hidden(url)
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(len(self.queues.get(url, [])) - hidden),
                "ApproximateNumberOfMessagesNotVisible": str(hidden),
                "VisibilityTimeout": "360",
            }
        }

    def list_message_move_tasks(self, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as in boto3
        self._request("ListMessageMoveTasks", parameters)
        return {"Results": []}

    def receive_message(self, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as in boto3
        with self._lock:
            self._request("ReceiveMessage", parameters)
            queue = self.queues.get(parameters["QueueUrl"], [])
            visible = (message for message in queue if message.visible_at <= self.now)
            received = list(islice(visible, parameters["MaxNumberOfMessages"]))
            for message in received:
                message.visible_at = self.now + parameters["VisibilityTimeout"]
                message.receives += 1
                message.handle = f"{message.message_id}/{message.receives}"
            if not received:
                return {}
            return {"Messages": [_received(message) for message in received]}

    def change_message_visibility_batch(self, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as in boto3
        with self._lock:
            self._request("ChangeMessageVisibilityBatch", parameters)
            for _, message in self._named(parameters):
                message.visible_at = self.now
        return {}

    def delete_message_batch(self, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as in boto3
        self._request("DeleteMessageBatch", parameters)
        deleted = self._named(parameters)
        gone = {message.message_id for _, message in deleted}
        url = parameters["QueueUrl"]
        self.queues[url] = [message for message in self.queues[url] if message.message_id not in gone]
        done = {entry["Id"] for entry, _ in deleted}
        failed = [entry["Id"] for entry in parameters["Entries"] if entry["Id"] not in done]
        return {
            "Successful": [{"Id": each} for each in done],
            "Failed": [{"Id": each, "Code": "ReceiptHandleIsInvalid"} for each in failed],
        }

    def send_message_batch(self, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as in boto3
        self._request("SendMessageBatch", parameters)
        sent: list[dict[str, str]] = []
        failed: list[dict[str, str]] = []
        for entry in parameters["Entries"]:
            if entry["MessageBody"] in self.refused:
                failed.append({"Id": entry["Id"], "Code": "InternalError"})
                continue
            message_id = self.put(parameters["QueueUrl"], entry["MessageBody"], **entry.get("MessageAttributes", {}))
            sent.append({"Id": entry["Id"], "MessageId": message_id})
            self.sent_at.append(self.now)
        return {"Successful": sent, "Failed": failed}

    def _named(self, parameters: dict[str, Any]) -> list[tuple[dict[str, Any], Message]]:
        by_handle = {message.handle: message for message in self.queues[parameters["QueueUrl"]] if message.handle}
        return [
            (entry, by_handle[entry["ReceiptHandle"]])
            for entry in parameters["Entries"]
            if entry["ReceiptHandle"] in by_handle
        ]


def _received(message: Message) -> dict[str, Any]:
    sent_ms = 1000 * (SENT_S + int(message.message_id[1:]))
    return {
        "MessageId": message.message_id,
        "ReceiptHandle": message.handle,
        "Body": message.body,
        "MessageAttributes": message.attributes,
        "Attributes": {"SentTimestamp": str(sent_ms), "ApproximateReceiveCount": str(message.receives)},
    }


def throttled(action: str) -> ClientError:
    """Return the error with which AWS throttles an action."""
    return ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, action)
