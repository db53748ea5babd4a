"""Dead letters are redriven by cause, and none is lost, whenever the command is killed."""

import io
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.emulated_pipeline import ACCOUNTS, create_pipeline
from tests.support.waiting import eventually
from xfarm.emulator.server import Emulator
from xfarm.errors import UserError
from xfarm.operations import dead_letters
from xfarm.operations.discard import discard
from xfarm.operations.pipeline import Counts, Pipeline, counts
from xfarm.operations.redrive import redrive
from xfarm.paths import ROOT

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

DENIED = 12
GARBAGE = ["this is not JSON"] * 3

CHOSEN = 12
OTHERS = 5
HIDDEN_S = 20
"""Short enough to wait for, and long enough for a command on a busy machine."""

INTERRUPTED = """
import json, os, signal, sys
from pathlib import Path

import boto3
from rich.console import Console

from xfarm import cli
from xfarm.operations import dead_letters
from xfarm.operations.discard import discard
from xfarm.operations.pipeline import Pipeline
from xfarm.operations.redrive import redrive

described, command, number, name, hidden_s, folder = sys.argv[1:]
pipeline, key = Pipeline(**json.loads(described)), "inputs/chosen"
dead_letters.HIDDEN_S, dead_letters.WAIT_S = int(hidden_s), 0
signal.signal(signal.SIGINT, signal.default_int_handler)
cli._end_like_ctrl_c()
boto3.setup_default_session()
calls = 0


def interrupt(**_):
    global calls
    calls += 1
    if calls == int(number):
        os.kill(os.getpid(), signal.Signals[name])


boto3.DEFAULT_SESSION.events.register("after-call.sqs", interrupt)
if command == "redrive":
    redrive(pipeline, Console(), key=key, trial=False)
else:
    discard(pipeline, Console(), Path(folder), key=key, ask=False)
"""
"""A command that gets a signal after so many requests to SQS, or none if it makes fewer."""


def causes(driver: Driver) -> dict[str, dead_letters.Cause]:
    """Return the causes of the dead letters by a word of their errors."""
    letters = dead_letters.peek(driver.pipeline)
    found = dead_letters.causes(letters, dead_letters.last_errors(driver.pipeline, letters))
    return {"denied" if "AccessDenied" in cause.error else "garbage": cause for cause in found}


def test_dead_letters_are_tried_redriven_and_discarded_by_cause(driver: Driver, tmp_path: Path) -> None:
    driver.shorten_visibility_timeout()
    dead, output = driver.pipeline.dead_letter_queue_url, io.StringIO()
    console = Console(file=output, width=1000)
    contents = {f"denied-{number}.csv": f"a\n{number}\n".encode() for number in range(DENIED)}
    driver.deny_reading("denied-*")
    driver.upload(contents)
    driver.send(GARBAGE)
    eventually(lambda: counts(dead).waiting == DENIED + len(GARBAGE))
    found = causes(driver)
    assert {word: len(cause.letters) for word, cause in found.items()} == {"denied": DENIED, "garbage": len(GARBAGE)}

    with pytest.raises(UserError, match=r"denied-\d+\.csv, the first, failed again, .*AccessDenied"):
        redrive(driver.pipeline, console, cause=found["denied"].number)
    assert counts(dead) == Counts(waiting=DENIED - 1 + len(GARBAGE), in_flight=0)
    assert driver.results() == set()

    driver.allow_reading()
    redrive(driver.pipeline, console, cause=found["denied"].number)
    assert "It is done: processed.\n" in output.getvalue()
    assert output.getvalue().endswith(f"{DENIED - 1} moved from xFarmDeadLetterSqs back to xFarmMainQueue.\n")
    eventually(lambda: driver.results() == contents.keys())
    assert causes(driver).keys() == {"garbage"}

    discard(driver.pipeline, console, tmp_path, cause=found["garbage"].number, ask=False)
    (path,) = tmp_path.iterdir()
    assert [json.loads(line)["body"] for line in path.read_text(encoding="utf-8").splitlines()] == GARBAGE
    driver.assert_complete(contents)


def test_one_of_many_is_tried_before_sqs_moves_all(driver: Driver) -> None:
    driver.shorten_visibility_timeout()
    pipeline, output = driver.pipeline, io.StringIO()
    policy = {"deadLetterTargetArn": pipeline.dead_letter_queue_arn, "maxReceiveCount": 1}
    boto3.client("sqs").set_queue_attributes(
        QueueUrl=pipeline.main_queue_url, Attributes={"RedrivePolicy": json.dumps(policy)}
    )
    contents = {f"denied-{number}.csv": f"a\n{number}\n".encode() for number in range(DENIED)}
    driver.deny_reading("denied-*")
    driver.upload(contents)
    eventually(lambda: counts(pipeline.dead_letter_queue_url).waiting == DENIED)
    driver.allow_reading()
    driver.set_mapping(enabled=False)
    with pytest.raises(UserError, match="event source mapping is Disabled"):
        redrive(pipeline, Console(file=output))
    assert counts(pipeline.dead_letter_queue_url) == Counts(waiting=DENIED, in_flight=0)
    driver.set_mapping(enabled=True)
    redrive(pipeline, Console(file=output, width=1000), rate=100)
    first, done, moved = output.getvalue().splitlines()
    assert first.startswith(f"First s3://{pipeline.bucket_name}/{pipeline.input_prefix}denied-")
    assert done == "It is done: processed."
    assert moved == f"{DENIED} moved from xFarmDeadLetterSqs back to xFarmMainQueue."
    driver.assert_complete(contents)


@dataclass(frozen=True)
class Run:
    """A command that was interrupted, with queues and a folder of its own."""

    pipeline: Pipeline
    folder: Path
    returned: int
    said: str

    def bodies(self, url: str) -> list[str]:
        """Return the bodies of the messages in a queue, and leave them there."""
        sqs = boto3.client("sqs")
        found: list[MessageTypeDef] = []
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=60).get(
            "Messages"
        ):
            found += messages
        for message in found:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
        return [message["Body"] for message in found]

    def kept(self) -> list[str]:
        """Return the bodies that are in the main queue or in a file."""
        lines = [line for path in self.folder.iterdir() for line in path.read_text(encoding="utf-8").splitlines()]
        return self.bodies(self.pipeline.main_queue_url) + [json.loads(line)["body"] for line in lines]


def body(key: str, number: int) -> str:
    record = {"eventTime": "2026-01-02T03:04:05Z", "s3": {"bucket": {"name": "b"}, "object": {"key": key}}}
    return json.dumps({"Records": [record], "number": number})


ALL = [body("inputs/chosen" if number % 17 < CHOSEN else "inputs/other", number) for number in range(CHOSEN + OTHERS)]


def interrupted(pipeline: Pipeline, folder: Path, command: str, number: int, name: str) -> Run:
    """Create queues for a pipeline, and interrupt a command after some of its requests."""
    sqs = boto3.client("sqs")
    main, dead = (sqs.create_queue(QueueName=f"{command}-{name}-{number}-{which}")["QueueUrl"] for which in "md")
    for text in ALL:
        sqs.send_message(QueueUrl=dead, MessageBody=text)
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pipeline = replace(pipeline, main_queue_url=main, dead_letter_queue_url=dead, dead_letter_queue_arn=arn)
    (folder := folder / f"{command}-{number}").mkdir()
    arguments = [json.dumps(asdict(pipeline)), command, str(number), name, str(HIDDEN_S), folder]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode <= 0 or "interrupted" in said, said  # any other error would be met again and again
    return Run(pipeline, folder, done.returncode, said)


def interrupted_at_each_point(pipeline: Pipeline, folder: Path, command: str, name: str) -> list[Run]:
    """Interrupt a command after each of its requests, until it makes no more."""
    runs: list[Run] = []
    with ThreadPoolExecutor(4) as pool:
        for start in count(1, 4):
            numbers = range(start, start + 4)
            started = [pool.submit(interrupted, pipeline, folder, command, number, name) for number in numbers]
            runs += [each.result() for each in started]
            if runs[-1].returned == 0:
                return runs
    raise AssertionError


@pytest.fixture
def created(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Return a pipeline in a new account, which boto3 uses; this process finds dead letters without waiting."""
    assert emulator
    monkeypatch.setattr(dead_letters, "WAIT_S", 0)  # the emulator finds all messages at once
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", str(next(ACCOUNTS)))
    return create_pipeline(visibility_s=60)


def test_messages_that_were_sent_to_the_dead_letter_queue_itself_are_moved_too(created: Pipeline) -> None:
    output = io.StringIO()
    for text in GARBAGE:
        boto3.client("sqs").send_message(QueueUrl=created.dead_letter_queue_url, MessageBody=text)
    redrive(created, Console(file=output, width=1000), trial=False)
    assert output.getvalue() == "3 moved from xFarmDeadLetterSqs back to xFarmMainQueue.\n"
    assert counts(created.dead_letter_queue_url) == Counts(waiting=0, in_flight=0)


@pytest.mark.parametrize(("command", "name"), [("redrive", "SIGKILL"), ("redrive", "SIGTERM"), ("discard", "SIGKILL")])
def test_no_message_is_lost_if_the_command_ends_between_any_two_requests(
    created: Pipeline, tmp_path: Path, console: Console, command: str, name: str
) -> None:
    runs = interrupted_at_each_point(created, tmp_path, command, name)
    ended = [run for run in runs if run.returned]
    assert len(ended) > 10
    if name == "SIGKILL":
        assert {run.returned for run in ended} == {-signal.SIGKILL}
        assert any(counts(run.pipeline.dead_letter_queue_url).in_flight for run in ended)
    for run in runs:
        dead = run.pipeline.dead_letter_queue_url
        if name == "SIGTERM":  # they are visible again at once
            assert counts(dead).in_flight == 0, run.said
        eventually(lambda dead=dead: counts(dead).in_flight == 0)
        left, kept = run.bodies(dead), run.kept()
        assert {*left, *kept} == {*ALL}, run.said
        assert len(left) == len({*left})
        assert len(kept) == len({*kept})
        others = {text for text in ALL if "other" in text}
        assert others <= {*left}
        assert others.isdisjoint(kept)
        assert len({*left} & {*kept}) <= dead_letters.BATCH
        if run.returned and {*left} != others:  # the same command again
            if command == "redrive":
                redrive(run.pipeline, console, key="inputs/chosen", trial=False)
            else:
                discard(run.pipeline, console, run.folder, key="inputs/chosen", ask=False)
        assert {*run.bodies(dead)} == others
        assert {*run.kept()} == {*ALL} - others
    assert counts(runs[-1].pipeline.dead_letter_queue_url) == Counts(waiting=OTHERS, in_flight=0)
