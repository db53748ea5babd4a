"""Dead letters by cause, and what is done with some of them, without AWS."""

import io
import itertools
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from tests.support.fake_sqs import FakeSqs, throttled
from tests.support.undeployed import PIPELINE
from xfarm.errors import UserError
from xfarm.operations import dead_letters, discard, redrive, reprocess
from xfarm.operations.dead_letters import Cause, DeadLetter

MAIN, DEAD = PIPELINE.main_queue_url, PIPELINE.dead_letter_queue_url
NOW = datetime(2026, 11, 26, tzinfo=UTC)


def letter(number: int, key: str | None = None) -> DeadLetter:
    return DeadLetter(
        message_id=f"m{number}", sent=NOW + timedelta(seconds=number), receives=1, bucket="bucket", key=key
    )


def grouped(*errors: str) -> list[Cause]:
    """Return the causes of dead letters of the files 0, 1, ... with these errors."""
    letters = [letter(number, f"inputs/{number}") for number in range(len(errors))]
    return dead_letters.causes(letters, {f"m{number}": error for number, error in enumerate(errors)})


# Causes


@pytest.mark.parametrize(
    "errors",
    [
        ("ValueError: row 17 of inputs/0", "ValueError: row 4 of inputs/1"),
        ("not finished within the 58 s", "not finished within the 57.5 s"),
        ("E: object at 0x7f00ab", "E: object at 0x7f11cd"),
        ("E: request 0d6f2c1e-1111-4222-8333-123456789abc", "E: request f00dbabe-9999-4aaa-9bbb-cba987654321"),
        ("E: digest 9e107d9d372bb682", "E: digest e4d909c290d0fb1c"),
    ],
)
def test_errors_that_differ_in_numbers_ids_and_the_key_have_one_cause(errors: tuple[str, str]) -> None:
    (cause,) = grouped(*errors)
    assert (cause.error, len(cause.letters)) == (errors[0], 2)


@pytest.mark.parametrize(
    "errors",
    [
        ("ValueError: a", "KeyError: a"),
        ("HTTPError: HTTP 404", "HTTPError: HTTP 500"),
        ("E: status code: 403", "E: status code: 503"),
        ("OSError: [Errno 28] full", "OSError: [Errno 13] full"),
        ("E: accede", "E: facade"),
    ],
)
def test_other_errors_have_causes_of_their_own(errors: tuple[str, str]) -> None:
    assert len(grouped(*errors)) == 2


def test_the_most_frequent_cause_comes_first_then_the_order_is_that_of_the_errors() -> None:
    found = grouped("b", "a", "c", "c")
    assert [cause.error for cause in found] == ["c", "a", "b"]
    assert [each.message_id for each in found[0].letters] == ["m2", "m3"]


def test_a_cause_has_the_same_number_whatever_else_is_in_the_queue() -> None:
    (alone,) = grouped("RuntimeError: row 3")
    among = grouped("x", "x", "y", "RuntimeError: row 900", "x")
    assert alone.number in {cause.number for cause in among}
    assert len({cause.number for cause in among}) == 3
    assert len(alone.number) == dead_letters.DIGITS


def colliding() -> tuple[str, str]:
    """Return two errors whose numbers begin with the same four digits."""
    seen: dict[str, str] = {}
    for letters in itertools.product("abcdefgh", repeat=4):
        error = "".join(letters)
        (cause,) = grouped(error)
        if cause.number in seen:
            return seen[cause.number], error
        seen[cause.number] = error
    raise AssertionError


def test_a_number_of_two_causes_is_refused_and_longer_ones_are_shown() -> None:
    first, second = colliding()
    found = grouped(first, second, "other")
    short = found[0].number[:4]
    assert len({cause.number for cause in found}) == 3
    with pytest.raises(UserError, match=rf"^{short} is the number of several causes now: give that of one, {short}\d"):
        dead_letters.choose(PIPELINE, found, cause=short)
    for cause in found:
        assert dead_letters.choose(PIPELINE, found, cause=cause.number) == cause.letters
    (alone,) = grouped(first)  # as the second is gone
    assert dead_letters.choose(PIPELINE, [alone], cause=found[0].number) == alone.letters


@pytest.mark.parametrize("number", ["1", "12", "x", "", "-123", "12 3", "\x1b[1m"])
def test_what_is_not_a_number_of_a_cause_is_refused(number: str) -> None:
    with pytest.raises(UserError, match="is not the number of a cause: 'xfarm dead-letters' shows them"):
        dead_letters.choose(PIPELINE, grouped("a"), cause=number)


def test_a_cause_that_is_gone_is_refused() -> None:
    (gone,) = grouped("gone")
    with pytest.raises(UserError, match=f"no dead letter has the cause {gone.number}: see 'xfarm dead-letters dev'"):
        dead_letters.choose(PIPELINE, grouped("there"), cause=gone.number)


@pytest.mark.parametrize("key", ["inputs/1", "s3://bucket/inputs/1"])
def test_a_file_is_chosen_by_its_key_or_url(key: str) -> None:
    assert dead_letters.choose(PIPELINE, grouped("a", "b", "c"), key=key) == [letter(1, "inputs/1")]


def test_the_oldest_of_a_choice_are_chosen_and_none_is_an_error() -> None:
    found = grouped("a", "b", "b", "a")
    assert [each.message_id for each in dead_letters.choose(PIPELINE, found, limit=3)] == ["m0", "m1", "m2"]
    with pytest.raises(UserError, match=r"no dead letter has the cause \d+ and is about 'inputs/9'"):
        dead_letters.choose(PIPELINE, found, cause=found[0].number, key="inputs/9")


# A queue in memory


class Log:
    """The function's log and its event source mapping."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.state = "Enabled"
        self.deleted = False

    def get_paginator(self, _name: str) -> "Log":
        return self

    def paginate(self, **_: object) -> list[dict[str, Any]]:
        if self.deleted:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "FilterLogEvents")
        return [{"events": [{"timestamp": 0, "message": json.dumps(line)} for line in self.lines]}]

    def get_event_source_mapping(self, **_: object) -> dict[str, Any]:
        return {"State": self.state, "ResponseMetadata": {"HTTPHeaders": {"date": format_datetime(NOW, usegmt=True)}}}

    def get_function_configuration(self, **_: object) -> dict[str, Any]:
        return {"Timeout": 60}


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch, log: Log) -> FakeSqs:
    fake = FakeSqs()
    clients = {"sqs": fake, "logs": log, "lambda": log}
    monkeypatch.setattr(boto3, "client", clients.__getitem__)
    for module in (dead_letters, redrive, reprocess):
        monkeypatch.setattr(module, "time", fake)
    return fake


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=1000)


def shown(console: Console) -> str:
    """Return what a console has shown."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def body(name: str) -> str:
    record = {
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-01-02T03:04:05Z",
        "s3": {"bucket": {"name": "bucket"}, "object": {"key": f"inputs/{name}", "sequencer": "1"}},
    }
    return json.dumps({"Records": [record]})


def fill(sqs: FakeSqs, log: Log, **errors: int) -> dict[str, list[str]]:
    """Put so many dead letters of each error into the queue, alternating, and return their bodies by error."""
    bodies: dict[str, list[str]] = {error: [] for error in errors}
    for number in range(max(errors.values())):
        for error, wanted in errors.items():
            if number < wanted:
                bodies[error].append(body(f"{error}-{number}"))
                log.lines.append(
                    {"outcome": "failed", "message_id": sqs.put(DEAD, bodies[error][-1]), "error": f"broken {error}"}
                )
    return bodies


def number_of(error: str) -> str:
    (cause,) = grouped(f"broken {error}")
    return cause.number


def test_a_queue_that_takes_longer_to_read_than_a_minute_is_read_once_and_completely(sqs: FakeSqs) -> None:
    ids = {sqs.put(DEAD, "x") for _ in range(6000)}
    sqs.latency_s = 0.2  # for each of 600 requests
    letters = dead_letters.peek(PIPELINE)
    assert sqs.now > 3 * dead_letters.HIDDEN_S
    assert {each.message_id for each in letters} == ids
    assert {each.receives for each in letters} == {1}
    assert sqs.hidden(DEAD) == 0


def test_a_queue_that_cannot_be_read_in_time_is_an_error_and_visible_again(sqs: FakeSqs) -> None:
    for _ in range(2000):
        sqs.put(DEAD, "x")
    sqs.latency_s = 2
    with pytest.raises(UserError, match=r"AWS is too slow: .* Nothing was changed"):
        dead_letters.peek(PIPELINE)
    assert sqs.hidden(DEAD) == 0


def test_no_more_messages_are_in_flight_than_sqs_allows(
    sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    monkeypatch.setattr(dead_letters, "MOST", 50)
    monkeypatch.setattr(dead_letters.Received.__init__, "__defaults__", (50,))
    for _ in range(80):
        sqs.put(DEAD, "x")
    dead_letters.show(PIPELINE, console, as_json=False)
    assert shown(console).splitlines()[-1] == "These are the first 50: there may be more."
    assert sqs.hidden(DEAD) == 0


def test_causes_are_listed_with_their_number_oldest_and_samples(sqs: FakeSqs, log: Log, console: Console) -> None:
    fill(sqs, log, a=1, b=5)
    dead_letters.show(PIPELINE, console, as_json=False)
    a, b = number_of("a"), number_of("b")
    assert shown(console).splitlines() == [
        f"cause {b}: 5 dead letters",
        "  broken b",
        "  the oldest was sent 2026-01-02 03:04:06 UTC",
        "  s3://bucket/inputs/b-0 (message m1)",
        "  s3://bucket/inputs/b-1 (message m2)",
        "  s3://bucket/inputs/b-2 (message m3)",
        "  ... and 2 more, which --json lists",
        f"cause {a}: 1 dead letter",
        "  broken a",
        "  the oldest was sent 2026-01-02 03:04:05 UTC",
        "  s3://bucket/inputs/a-0 (message m0)",
        "6 in dead. All stay there; reading them counts as one receive each.",
        f"To put those of one cause back: xfarm redrive dev --cause {b}",
    ]


def test_what_somebody_put_into_the_queue_is_no_file_that_failed(sqs: FakeSqs, log: Log, console: Console) -> None:
    fill(sqs, log, a=1)
    log.lines.clear()
    sqs.put(DEAD, "hello")
    dead_letters.show(PIPELINE, console, as_json=False)
    lines = shown(console).splitlines()
    other = next(number for number, line in enumerate(lines) if "somebody sent it to this queue" in line)
    assert lines[other + 2] == "  not about a file (message m1)"
    assert [line.split(": ")[1] for line in lines if line.startswith("cause ")] == ["1 dead letter"] * 2


def test_json_lists_every_dead_letter_with_its_error_and_cause(
    sqs: FakeSqs, log: Log, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(sqs, log, a=2, b=5)
    dead_letters.show(PIPELINE, console, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [(each["key"], each["error"], each["cause"]) for each in listed[:3]] == [
        ("inputs/a-0", "broken a", number_of("a")),
        ("inputs/b-0", "broken b", number_of("b")),
        ("inputs/a-1", "broken a", number_of("a")),
    ]
    assert len(listed) == 7


def test_messages_that_a_killed_command_hides_are_mentioned_until_they_are_visible(
    sqs: FakeSqs, console: Console
) -> None:
    for _ in range(15):
        sqs.put(DEAD, "x")
    killed = dead_letters.Received(PIPELINE)
    next(killed.batches())
    dead_letters.show(PIPELINE, console, as_json=False)
    text = shown(console)
    assert "5 in dead." in text
    assert "10 may be in flight" in text
    assert "within 60 s" in text
    sqs.now += dead_letters.HIDDEN_S
    assert len(dead_letters.peek(PIPELINE)) == 15


# Redrives of a part


def test_only_the_dead_letters_of_a_cause_are_moved(sqs: FakeSqs, log: Log, console: Console) -> None:
    bodies = fill(sqs, log, a=5, b=40)
    redrive.redrive(PIPELINE, console, cause=number_of("a"))
    assert sqs.bodies(MAIN) == bodies["a"]
    assert sqs.bodies(DEAD) == bodies["b"]
    assert sqs.hidden(DEAD) == 0
    assert shown(console) == "5 moved from dead back to main.\n"


@pytest.mark.parametrize(
    ("choice", "moved"),
    [
        ({"key": "inputs/b-3"}, ["b-3"]),
        ({"limit": 2}, ["a-0", "b-0"]),
        ({"cause": "b", "limit": 2}, ["b-0", "b-1"]),
        ({"cause": "b", "key": "s3://bucket/inputs/b-1"}, ["b-1"]),
    ],
)
def test_a_choice_is_moved_and_nothing_else(
    sqs: FakeSqs, log: Log, console: Console, choice: dict[str, Any], moved: list[str]
) -> None:
    bodies = fill(sqs, log, a=5, b=5)
    if "cause" in choice:
        choice = choice | {"cause": number_of(choice["cause"])}
    redrive.redrive(PIPELINE, console, **choice)
    assert sqs.bodies(MAIN) == [body(name) for name in moved]
    assert sorted(sqs.bodies(MAIN) + sqs.bodies(DEAD)) == sorted(bodies["a"] + bodies["b"])
    assert sqs.hidden(DEAD) == 0


@pytest.mark.parametrize("rate", [1, 4, 25])
def test_no_more_are_moved_a_second_than_the_rate(sqs: FakeSqs, log: Log, console: Console, rate: int) -> None:
    bodies = fill(sqs, log, a=150, b=300)
    redrive.redrive(PIPELINE, console, cause=number_of("a"), rate=rate, trial=False)
    assert sqs.bodies(MAIN) == bodies["a"]
    assert sorted(sqs.bodies(DEAD)) == sorted(bodies["b"])
    assert sqs.hidden(DEAD) == 0
    assert sqs.sent_at[-1] - sqs.sent_at[0] >= (150 - min(rate, 10)) / rate


def test_at_a_low_rate_every_message_is_still_hidden_when_it_is_deleted(
    sqs: FakeSqs, log: Log, console: Console
) -> None:
    bodies = fill(sqs, log, a=100)["a"]
    fill(sqs, log, b=700)

    def check(action: str, parameters: dict[str, Any]) -> None:
        if action == "DeleteMessageBatch":
            handles = {entry["ReceiptHandle"] for entry in parameters["Entries"]}
            assert all(message.visible_at > sqs.now for message in sqs.queues[DEAD] if message.handle in handles)

        if action == "SendMessageBatch":
            sqs.now += 2

    sqs.before = check
    redrive.redrive(PIPELINE, console, cause=number_of("a"), rate=1, trial=False)
    assert sqs.bodies(MAIN) == bodies
    assert sqs.hidden(DEAD) == 0


def test_messages_that_are_visible_again_before_they_can_be_moved_stay(
    sqs: FakeSqs, log: Log, console: Console
) -> None:
    bodies = fill(sqs, log, a=1, b=30)

    def slow_down(action: str, _: dict[str, Any]) -> None:
        if action == "ReceiveMessage" and sqs.requests.count(action) > 5:  # after the look
            sqs.now += dead_letters.HIDDEN_S

    sqs.before = slow_down
    sqs.queues[DEAD].reverse()
    with pytest.raises(UserError, match="AWS is too slow: the dead letters are visible again before"):
        redrive.redrive(PIPELINE, console, cause=number_of("a"))
    assert sorted(sqs.bodies(DEAD)) == sorted(bodies["a"] + bodies["b"])
    assert sqs.hidden(DEAD) == 0


def test_messages_are_sent_with_their_attributes_in_requests_of_an_allowed_size(sqs: FakeSqs, console: Console) -> None:
    sizes: list[int] = []

    def measure(action: str, parameters: dict[str, Any]) -> None:
        if action == "SendMessageBatch":
            sizes.append(sum(len(entry["MessageBody"]) for entry in parameters["Entries"]))

    attribute = {"DataType": "String", "StringValue": "kept"}
    for _ in range(7):
        sqs.put(DEAD, "x" * 100_000, name=attribute)
    sqs.put(DEAD, "y" * 1_000_000)
    sqs.before = measure
    redrive.redrive(PIPELINE, console, limit=8)
    assert sizes == [200_000, 200_000, 200_000, 100_000, 1_000_000]
    assert [message.attributes for message in sqs.queues[MAIN]] == [{"name": attribute}] * 7 + [{}]


def test_a_message_that_the_main_queue_does_not_take_stays(sqs: FakeSqs, log: Log, console: Console) -> None:
    bodies = fill(sqs, log, a=25)["a"]
    sqs.refused = {bodies[14]}
    with pytest.raises(UserError, match=r"SQS does not take the messages \(InternalError\)"):
        redrive.redrive(PIPELINE, console, cause=number_of("a"), trial=False)
    assert set(sqs.bodies(DEAD)) == set(bodies[10:])
    assert sqs.hidden(DEAD) == 0
    assert shown(console) == "10 moved so far.\n"


def test_a_message_that_is_not_deleted_is_an_error_that_says_it_may_be_repeated(
    sqs: FakeSqs, log: Log, console: Console
) -> None:
    fill(sqs, log, a=1)

    def receive_elsewhere(action: str, _: dict[str, Any]) -> None:
        if action == "DeleteMessageBatch":
            sqs.queues[DEAD][0].handle = "of another receive"

    sqs.before = receive_elsewhere
    with pytest.raises(UserError, match=r"SQS did not delete 1 dead letters .* twice does no harm"):
        redrive.redrive(PIPELINE, console, limit=1)
    assert len(sqs.bodies(DEAD)) == 1


def test_messages_that_somebody_else_has_taken_meanwhile_are_counted(sqs: FakeSqs, log: Log, console: Console) -> None:
    fill(sqs, log, a=5)

    def take_one(action: str, _: dict[str, Any]) -> None:
        if action == "ChangeMessageVisibilityBatch" and len(sqs.queues[DEAD]) == 5:
            del sqs.queues[DEAD][2]

    sqs.before = take_one
    with pytest.raises(UserError, match=r"^1 of 5 were not found: somebody else has moved them"):
        redrive.redrive(PIPELINE, console, cause=number_of("a"))
    assert len(sqs.bodies(MAIN)) == 4


def test_a_part_is_not_moved_while_sqs_moves_all(
    sqs: FakeSqs, log: Log, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqs, log, a=5)
    monkeypatch.setattr(redrive, "_latest", Mock(return_value={"Status": "RUNNING"}))
    with pytest.raises(UserError, match="SQS is moving all dead letters already"):
        redrive.redrive(PIPELINE, console, limit=1)
    assert sqs.hidden(DEAD) == 0


@pytest.mark.parametrize("action", ["ReceiveMessage", "SendMessageBatch", "DeleteMessageBatch", "Sleep"])
@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (KeyboardInterrupt(), UserError, r"^interrupted, \d+ moved\. The others are still in the dead-letter queue"),
        (throttled("Any"), ClientError, "Rate exceeded"),
    ],
)
def test_after_ctrl_c_or_an_error_all_messages_are_visible_and_none_is_lost(
    action: str, error: BaseException, raised: type[Exception], says: str, request: pytest.FixtureRequest
) -> None:
    sqs, log, console = map(request.getfixturevalue, ("sqs", "log", "console"))
    bodies = fill(sqs, log, a=30, b=30)
    seen: list[str] = []

    def fail(name: str, _: object) -> None:
        if name == action:
            seen.append(name)
            if len(seen) == (9 if name == "ReceiveMessage" else 3):  # of which the first seven are of the look
                raise error

    sqs.before = fail
    with pytest.raises(raised, match=says):
        redrive.redrive(PIPELINE, console, cause=number_of("a"), rate=1, trial=False)
    assert sqs.hidden(DEAD) == 0
    assert set(sqs.bodies(MAIN)) | set(sqs.bodies(DEAD)) == {*bodies["a"], *bodies["b"]}


# One first


def answer(sqs: FakeSqs, log: Log, outcome: str, **facts: str) -> None:
    """Let the function log an outcome for each message that arrives in the main queue."""

    def process(action: str, _: dict[str, Any]) -> None:
        if action in {"ChangeMessageVisibilityBatch", "DeleteMessageBatch", "GetQueueAttributes"}:
            logged = {line["message_id"] for line in log.lines}
            log.lines.extend(
                {"outcome": outcome, "message_id": each.message_id, **facts}
                for each in sqs.queues.get(MAIN, [])
                if each.message_id not in logged
            )

    sqs.before = process


def test_one_is_followed_to_its_result_before_the_others_are_moved(sqs: FakeSqs, log: Log, console: Console) -> None:
    bodies = fill(sqs, log, a=11, b=5)
    answer(sqs, log, "processed")
    redrive.redrive(PIPELINE, console, cause=number_of("a"))
    assert sqs.bodies(MAIN) == bodies["a"]
    assert shown(console).splitlines() == [
        "First s3://bucket/inputs/a-0, before the others.",
        "It is done: processed.",
        "11 moved from dead back to main.",
    ]


def test_the_others_stay_if_the_first_fails_again(sqs: FakeSqs, log: Log, console: Console) -> None:
    bodies = fill(sqs, log, a=11)["a"]
    answer(sqs, log, "failed", error="still broken", error_type="E")
    with pytest.raises(
        UserError,
        match=r"s3://bucket/inputs/a-0, the first, failed again, so the others were not moved: E: still broken\.",
    ):
        redrive.redrive(PIPELINE, console, cause=number_of("a"))
    assert (sqs.bodies(MAIN), sqs.bodies(DEAD)) == (bodies[:1], bodies[1:])
    assert sqs.hidden(DEAD) == 0


def test_the_others_stay_if_nothing_is_heard_of_the_first_for_the_time_of_one_retry(
    sqs: FakeSqs, log: Log, console: Console
) -> None:
    bodies = fill(sqs, log, a=11)["a"]
    with pytest.raises(UserError, match=r"neither a result nor an error .* where 1 messages are waiting"):
        redrive.redrive(PIPELINE, console, cause=number_of("a"))
    assert 420 < sqs.now < 430
    assert sqs.bodies(DEAD) == bodies[1:]


def test_nothing_is_moved_if_the_function_is_not_fed(sqs: FakeSqs, log: Log, console: Console) -> None:
    fill(sqs, log, a=11)
    log.state = "Disabled"
    for limit in (None, 3):
        with pytest.raises(UserError, match="event source mapping is Disabled"):
            redrive.redrive(PIPELINE, console, limit=limit)
    assert len(sqs.bodies(DEAD)) == 11


def test_nothing_is_moved_if_the_log_was_deleted(sqs: FakeSqs, log: Log, console: Console) -> None:
    fill(sqs, log, a=11)
    log.deleted = True
    with pytest.raises(ClientError):
        redrive.redrive(PIPELINE, console)
    assert len(sqs.bodies(DEAD)) == 11


@pytest.mark.parametrize(("number", "options"), [(10, {}), (30, {"trial": False}), (30, {"limit": 10})])
def test_few_are_moved_at_once_and_so_are_many_if_asked(
    sqs: FakeSqs, log: Log, console: Console, number: int, options: dict[str, Any]
) -> None:
    fill(sqs, log, a=number)
    redrive.redrive(PIPELINE, console, cause=number_of("a"), **options)
    assert "First" not in shown(console)


def test_all_are_moved_by_sqs_once_the_first_has_a_result(
    sqs: FakeSqs, log: Log, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqs, log, a=11)
    answer(sqs, log, "processed")
    tasks: list[dict[str, Any]] = []

    def start(**parameters: object) -> None:
        assert len(sqs.bodies(DEAD)) == 10
        assert sqs.hidden(DEAD) == 0
        tasks.append(parameters)

    def latest(*_: object) -> dict[str, Any] | None:
        moved = {"ApproximateNumberOfMessagesMoved": 10, "ApproximateNumberOfMessagesToMove": 10}
        return {"Status": "COMPLETED", "StartedTimestamp": 1, **moved} if tasks else None

    monkeypatch.setattr(sqs, "start_message_move_task", start, raising=False)
    monkeypatch.setattr(redrive, "_latest", latest)
    redrive.redrive(PIPELINE, console, rate=7)
    queues = {"SourceArn": PIPELINE.dead_letter_queue_arn, "DestinationArn": "arn:aws:sqs:eu-west-1:000000000000:main"}
    assert tasks == [queues | {"MaxNumberOfMessagesPerSecond": 7}]
    assert shown(console).splitlines()[-1] == "11 moved from dead back to main."


# Discarding


def files(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the only file in a folder."""
    (path,) = folder.iterdir()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_discarded_messages_are_in_a_file_before_they_are_deleted(
    sqs: FakeSqs,
    log: Log,
    console: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies = fill(sqs, log, a=25, b=40)
    synced: list[int] = []

    def sync(_: int) -> None:
        synced.append(len(sqs.bodies(DEAD)))

    def check(action: str, _: object) -> None:
        if action == "DeleteMessageBatch":
            assert synced[-1] == len(sqs.bodies(DEAD))
            saved = {line["body"] for line in files(tmp_path)}
            assert saved | set(sqs.bodies(DEAD)) == {*bodies["a"], *bodies["b"]}

    monkeypatch.setattr(os, "fsync", sync)
    sqs.before = check
    discard.discard(PIPELINE, console, tmp_path, cause=number_of("a"), ask=False)
    assert sorted(sqs.bodies(DEAD)) == sorted(bodies["b"])
    assert sqs.bodies(MAIN) == []
    assert sqs.hidden(DEAD) == 0
    assert [line["body"] for line in files(tmp_path)] == bodies["a"]
    assert {(line["error"], line["key"][:9]) for line in files(tmp_path)} == {("broken a", "inputs/a-")}
    (path,) = tmp_path.iterdir()
    assert shown(console).splitlines() == ["25: broken a", f"25 moved from dead to {path}."]


def test_nothing_is_deleted_that_cannot_be_written(sqs: FakeSqs, log: Log, console: Console, tmp_path: Path) -> None:
    fill(sqs, log, a=5)
    with pytest.raises(
        UserError, match=r"can't be written: No such file or directory. Nothing was deleted that is not"
    ):
        discard.discard(PIPELINE, console, tmp_path / "gone", ask=False)
    assert len(sqs.bodies(DEAD)) == 5
    assert sqs.hidden(DEAD) == 0


def test_discarding_needs_a_terminal_or_a_decision(
    sqs: FakeSqs, log: Log, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqs, log, a=5)
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    with pytest.raises(UserError, match=r"discarding from 'dev' needs --yes"):
        discard.discard(PIPELINE, console, tmp_path, ask=True)
    assert sqs.requests == []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(UserError, match=r"that was not 'dev', so nothing was discarded"):
        discard.discard(PIPELINE, console, tmp_path, ask=True)
    assert (len(sqs.bodies(DEAD)), sqs.hidden(DEAD), list(tmp_path.iterdir())) == (5, 0, [])
    sys.stdin.seek(0)
    sys.stdin.write("dev\n")
    sys.stdin.seek(0)
    discard.discard(PIPELINE, console, tmp_path, ask=True)
    assert sqs.bodies(DEAD) == []


def test_an_interrupted_discard_says_where_the_messages_are(
    sqs: FakeSqs, log: Log, console: Console, tmp_path: Path
) -> None:
    bodies = fill(sqs, log, a=25)["a"]
    deletions: list[str] = []

    def interrupt(action: str, _: object) -> None:
        if action == "DeleteMessageBatch":
            deletions.append(action)
            if len(deletions) == 2:
                raise KeyboardInterrupt

    sqs.before = interrupt
    with pytest.raises(
        UserError, match=rf"^interrupted: 10 moved from dead to {tmp_path}/dead-letters-dev-\w+\.jsonl\.$"
    ):
        discard.discard(PIPELINE, console, tmp_path, ask=False)
    assert {line["body"] for line in files(tmp_path)} | set(sqs.bodies(DEAD)) == set(bodies)
    assert sqs.hidden(DEAD) == 0


def test_binary_attributes_are_written_as_base64(sqs: FakeSqs, console: Console, tmp_path: Path) -> None:
    sqs.put(DEAD, "x", data={"DataType": "Binary", "BinaryValue": b"\xff"})
    discard.discard(PIPELINE, console, tmp_path, ask=False)
    (line,) = files(tmp_path)
    assert line["message_attributes"]["data"]["BinaryValue"] == "/w=="
    assert line["error"] == dead_letters.NO_FILE


def test_an_empty_queue_is_no_error(sqs: FakeSqs, console: Console, tmp_path: Path) -> None:
    sqs.queues[DEAD] = []
    redrive.redrive(PIPELINE, console, limit=1)
    discard.discard(PIPELINE, console, tmp_path, ask=False)
    dead_letters.show(PIPELINE, console, as_json=False)
    assert shown(console).splitlines() == [
        "Nothing to redrive: dead has no messages.",
        "Nothing to discard: dead has no visible messages.",
        "dead is empty.",
    ]
    assert list(tmp_path.iterdir()) == []
