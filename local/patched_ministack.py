"""ministack, with its answer about CloudWatch alarms made complete.

Of the three protocols of CloudWatch, Terraform's provider speaks the oldest, in which ministack 1.5.33 leaves out an
alarm's period, statistic, dimensions and actions: every preview would want to set them again.

Usage: python -m local.patched_ministack
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

from ministack.app import main
from ministack.services import cloudwatch

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
    main()
