"""CloudWatch Logs: lines have ids, and a long log is read page by page.

In ministack, a function's lines have no ids, and FilterLogEvents returns the first 10,000 lines only.
"""

import json
import uuid
from http import HTTPStatus
from typing import Any, Final

from ministack.services import cloudwatch_logs

from xfarm.emulator.patches import patch

_append_log_events = cloudwatch_logs._append_log_events
_filter_log_events = cloudwatch_logs._filter_log_events

_PAGE: Final = 10_000
"""The most lines in one answer of FilterLogEvents."""


@patch(cloudwatch_logs, "_append_log_events")
def append_log_events(stream: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Store log lines, each with an id ("FilteredLogEvent", Amazon CloudWatch Logs API Reference)."""
    _append_log_events(stream, [{"eventId": str(uuid.uuid4()), **event} for event in events])


@patch(cloudwatch_logs, "_filter_log_events")
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
