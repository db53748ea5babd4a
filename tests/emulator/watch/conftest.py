"""A pipeline for each module, with a function that refuses some files until it is mended."""

from collections.abc import Callable, Iterator

import boto3
import pytest

from tests.support.emulated_pipeline import REFUSING, lambda_zip, make, private_emulator, running
from xfarm.operations.pipeline import Pipeline

VISIBILITY_S = 10
"""Longer than a first, slow call of the function takes: a message that reappears before is a dead letter."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running(private_emulator(tmp_path_factory.mktemp("emulator"))):
        yield make(visibility_s=VISIBILITY_S, receives=1, code=lambda_zip(process=REFUSING))


@pytest.fixture
def mend(pipeline: Pipeline) -> Callable[[], None]:
    def mend() -> None:
        boto3.client("lambda").update_function_code(FunctionName=pipeline.function_name, ZipFile=lambda_zip())

    return mend
