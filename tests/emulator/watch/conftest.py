"""A pipeline for each module, with a function that fails for some files until it is fixed."""

from collections.abc import Callable, Iterator

import boto3
import pytest

from tests.support.driver import Driver
from tests.support.emulated_pipeline import FAILING, create_pipeline, lambda_zip, private_emulator, running
from xfarm.operations.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running(private_emulator(tmp_path_factory.mktemp("emulator"))) as emulator:
        pipeline = create_pipeline(visibility_s=60, max_receives=1, code=lambda_zip(process=FAILING))
        Driver(emulator, pipeline).shorten_visibility_timeout()
        yield pipeline


@pytest.fixture
def fix_function(pipeline: Pipeline) -> Callable[[], None]:
    def fix() -> None:
        boto3.client("lambda").update_function_code(FunctionName=pipeline.function_name, ZipFile=lambda_zip())

    return fix
