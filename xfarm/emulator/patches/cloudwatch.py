"""CloudWatch: alarms are answered completely.

Terraform's provider uses the query protocol, in which ministack omits an alarm's period, statistic, dimensions and
actions. Every preview would set them again.
"""

import json
from typing import Any

from ministack.services import cloudwatch

from xfarm.emulator.patches import patch, to_xml

_describe_alarms = cloudwatch._describe_alarms


@patch(cloudwatch, "_describe_alarms")
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
