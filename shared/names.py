"""The names of resources in AWS, each written once."""

from typing import Final

MAIN_QUEUE: Final = "xFarmMainQueue"
DEAD_LETTER_QUEUE: Final = "xFarmDeadLetterSqs"
FUNCTION: Final = "xFarmLambdaFunction"
FUNCTION_ROLE: Final = "xFarmLambdaRole"
ALARM_TOPIC: Final = "xFarmAlarms"
