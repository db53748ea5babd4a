"""SQS: dead letters can be redriven, and queues are found after the port has changed.

In ministack:

- The actions that redrive dead letters to their source queue are missing.
- With another port than before, event source mappings and CreateQueue don't find the queues that exist.
"""

import time
import uuid
from typing import Any

from ministack.services import sqs

from xfarm.emulator.patches import patch

_queue_url = sqs._queue_url


@patch(sqs, "_queue_url")
def queue_url(name: str) -> str:
    """Return the URL of a queue: the one that it was created with, which contains the port of that time."""
    return sqs._queue_name_to_url.get(name) or _queue_url(name)


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


sqs._HANDLERS |= {"StartMessageMoveTask": start_message_move_task, "ListMessageMoveTasks": list_message_move_tasks}
