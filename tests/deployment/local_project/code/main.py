"""A function that reports the objects in its event, and its environment."""

import json
import os
from typing import Any

import boto3


def handler(event: dict[str, Any], _context: object) -> int:
    for record in event["Records"]:
        for notice in json.loads(record["body"]).get("Records", []):
            report = {
                "key": notice["s3"]["object"]["key"],
                "endpoint": os.environ["AWS_ENDPOINT_URL"],
                "region": os.environ["AWS_REGION"],
                "own": os.environ["OWN"],
                "aws": sorted(name for name in os.environ if name.startswith("AWS_")),
            }
            boto3.client("sqs").send_message(QueueUrl=os.environ["REPORTS"], MessageBody=json.dumps(report))
    return 1
