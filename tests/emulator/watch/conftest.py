"""A pipeline for each module, with a function that fails for some files until it is fixed."""

from collections.abc import Callable, Iterator

import boto3
import pytest

from tests.support.emulated_pipeline import FAILING, create_pipeline, lambda_zip, private_emulator, running
from xfarm.operations.pipeline import Pipeline

VISIBILITY_S = 10
"""Longer than the first, slow call of the function: a message that is visible again before that is a dead letter."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running(private_emulator(tmp_path_factory.mktemp("emulator"))):
        yield create_pipeline(visibility_s=VISIBILITY_S, max_receives=1, code=lambda_zip(process=FAILING))


@pytest.fixture
def fix_function(pipeline: Pipeline) -> Callable[[], None]:
    def fix() -> None:
        boto3.client("lambda").update_function_code(FunctionName=pipeline.function_name, ZipFile=lambda_zip())

    return fix
