"""Keys of all kinds are processed, and shown by every command without any character that a terminal would obey."""

import json
from pathlib import Path
from threading import Timer
from unittest.mock import Mock
from urllib.parse import quote_plus

import boto3
import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.keys import LONGEST_BYTES, names
from tests.support.waiting import eventually
from xfarm import cli, waiting
from xfarm.errors import UserError
from xfarm.operations import audit, dead_letters, reprocess, send, status
from xfarm.operations.pipeline import counts, printable
from xfarm.watch.view import MAX_FILES, PipelineView


class Terminal:
    """What the commands print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.console = cli._console()  # noqa: SLF001 - the one of all commands

    def lines(self) -> list[str]:
        """Return the lines printed since the last call, none of which has anything that a terminal would obey."""
        lines = self._capsys.readouterr().out.removesuffix("\n").split("\n")
        assert all(line.isprintable() for line in lines), lines
        return lines

    def errors(self) -> list[str]:
        """Return the lines of standard error since the last call."""
        return self._capsys.readouterr().err.splitlines()


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def test_any_key_is_processed_and_shown(
    driver: Driver,
    terminal: Terminal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = driver.pipeline
    (path := tmp_path / "content").write_bytes(b"a\n1\n")
    files = dict.fromkeys(names(pipeline.input_prefix, seed=1), path)
    keys = {pipeline.input_prefix + name for name in files}
    longest = max(len(key.encode()) for key in keys)

    def find(_paths: object) -> dict[str, Path]:
        return files

    monkeypatch.setattr(send, "find", find)  # not every key can be the name of a file
    send.send(pipeline, [], terminal.console, timeout=600)
    assert {line.split(" -> ")[0] for line in terminal.lines()} == {printable(name) for name in files}
    driver.assert_idle()
    assert {document["key"] for document in driver.documents(driver.results()).values()} == keys

    reprocess.reprocess(pipeline, terminal.console, dry_run=True)
    *shown, total = terminal.lines()
    assert sorted(shown) == sorted(map(printable, keys))
    assert total == f"To process again: {len(keys):,}."
    for thorough in (False, True):
        assert audit.audit(pipeline, "", terminal.console, thorough=thorough, as_json=False)
        assert terminal.lines()[-1].startswith(f"{len(keys):,} files: {len(keys):,} with a result")
    status.show("local", {}, pipeline, terminal.console, as_json=False)
    terminal.lines()

    driver.set_mapping(enabled=False)
    for key in keys:
        record = {"s3": {"bucket": {"name": pipeline.bucket_name}, "object": {"key": quote_plus(key, safe="/")}}}
        body = json.dumps({"Records": [record | {"eventTime": "2026-01-02T03:04:05Z"}]})
        boto3.client("sqs").send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody=body)
    eventually(lambda: counts(pipeline.dead_letter_queue_url).waiting == len(keys))
    dead_letters.show(pipeline, Console(quiet=True), as_json=True)
    assert {letter["key"] for letter in json.loads("\n".join(terminal.lines()))} == keys
    dead_letters.show(pipeline, terminal.console, as_json=False)
    assert any(line.strip().startswith(f"s3://{pipeline.bucket_name}/") for line in terminal.lines())

    view = PipelineView(pipeline, refresh_s=0)
    for name in list(files)[:MAX_FILES]:
        view.send(name, path)
    sent = {file["name"] for file in json.loads(json.dumps(view.state()))["files"]}
    assert sent == {*list(files)[:MAX_FILES]}
    print(f"{len(keys)} keys, the longest of {longest} bytes")
    assert longest == LONGEST_BYTES


def test_commands_without_a_terminal_say_what_they_wait_for(
    driver: Driver, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SILENCE_S", 0.01)
    for module in (send, reprocess):  # which refuse to wait for a mapping that is disabled
        monkeypatch.setattr(module, "require_working", Mock())
    driver.set_mapping(enabled=False)
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    with pytest.raises(UserError, match="had no result after 1 s"):
        send.send(driver.pipeline, [tmp_path], terminal.console, timeout=1)
    assert "waiting for 1 of 1" in terminal.errors()
    driver.upload({f"{number}.csv": b"a\n1\n" for number in range(2)})
    monkeypatch.setattr(reprocess, "BACKLOG_S", 0)
    enable = Timer(1, driver.set_mapping, kwargs={"enabled": True})
    enable.start()
    reprocess.reprocess(driver.pipeline, terminal.console, rate=100)
    enable.join()
    assert "0 sent, waiting for the queue" in terminal.errors()
    driver.assert_idle()
    assert audit.audit(driver.pipeline, "", terminal.console, thorough=True, as_json=False)
    assert " files compared" in terminal.errors()[-1]
