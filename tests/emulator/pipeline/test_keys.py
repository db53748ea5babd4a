"""Keys of all kinds are processed, and shown by every command without any character that a terminal would obey."""

import io
import json
from pathlib import Path
from urllib.parse import quote_plus

import boto3
import pytest
from rich.console import Console

from tests.support.driver import Driver
from tests.support.keys import LONGEST_BYTES, names
from tests.support.waiting import eventually
from xfarm.operations import audit, dead_letters, reprocess, send, status
from xfarm.operations.pipeline import counts, printable
from xfarm.watch.view import MAX_FILES, PipelineView


class Terminal:
    """What a command prints."""

    def __init__(self) -> None:
        self._output = io.StringIO()
        self.console = Console(file=self._output, soft_wrap=True, width=80)

    def lines(self) -> list[str]:
        """Return the lines printed since the last call, none of which has anything that a terminal would obey."""
        text = self._output.getvalue()
        self._output.truncate(self._output.seek(0))
        lines = text.removesuffix("\n").split("\n")
        assert all(line.isprintable() for line in lines), lines
        return lines


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_any_key_is_processed_and_shown(
    driver: Driver,
    terminal: Terminal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
        assert terminal.lines()[-1].startswith(f"{len(keys):,} files: {len(keys):,} have a result")
    status.show("local", {}, pipeline, terminal.console, as_json=False)
    terminal.lines()

    driver.set_mapping(enabled=False)
    for key in keys:
        record = {"s3": {"bucket": {"name": pipeline.bucket_name}, "object": {"key": quote_plus(key, safe="/")}}}
        body = json.dumps({"Records": [record | {"eventTime": "2026-01-02T03:04:05Z"}]})
        boto3.client("sqs").send_message(QueueUrl=pipeline.dead_letter_queue_url, MessageBody=body)
    eventually(lambda: counts(pipeline.dead_letter_queue_url).waiting == len(keys))
    capsys.readouterr()
    dead_letters.show(pipeline, terminal.console, as_json=True)
    assert {letter["key"] for letter in json.loads(capsys.readouterr().out)} == keys
    terminal.lines()
    dead_letters.show(pipeline, terminal.console, as_json=False)
    assert any(line.strip().startswith(f"s3://{pipeline.bucket_name}/") for line in terminal.lines())

    view = PipelineView(pipeline, refresh_s=0)
    for name in list(files)[:MAX_FILES]:
        view.send(name, path)
    sent = {file["name"] for file in json.loads(json.dumps(view.state()))["files"]}
    assert sent == {*list(files)[:MAX_FILES]}
    print(f"{len(keys)} keys, the longest of {longest} bytes")
    assert longest == LONGEST_BYTES
