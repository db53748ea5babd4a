"""The loop of who changes the function: on each change, its code is replaced, and files are processed with it."""

from __future__ import annotations

import io
import time
import zipfile
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

import boto3
from watchfiles import PythonFilter, watch

from xfarm.errors import UserError
from xfarm.operations import logs, send
from xfarm.operations.dead_letters import failures
from xfarm.operations.pipeline import print_plain, require_working

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

PAUSE_MS: Final = 200
"""The milliseconds between two looks for results and for changes."""


def develop(pipeline: Pipeline, code: Path, files: Iterable[Path], console: Console) -> None:
    """Replace the function's code and send files, now and on each change of the code, until Ctrl-C.

    Then the deployed code is put back. Pulumi compares the code here with what it deployed last, so it would not notice
    an experiment that was left behind ("pulumi-aws #906").

    Args:
        pipeline: The pipeline.
        code: The folder with the function's code.
        files: Files, and folders of files.
        console: Shows the results.

    Raises:
        UserError: A file can't be sent, or would not be processed, or the deployed code can't be downloaded.
    """
    files = list(files)
    send.find(files)  # fails before anything is replaced, if a file is missing
    require_working(pipeline)
    deployed = _deployed_code(pipeline)
    failed: set[str] = set()
    changes = watch(code, watch_filter=PythonFilter(), yield_on_timeout=True, rust_timeout=PAUSE_MS)
    next(changes)  # from now on, no change is missed
    try:
        with suppress(KeyboardInterrupt):
            while True:
                if archive := _archive(code, console):
                    _replace(pipeline, archive, console)
                    if not _process(pipeline, files, failed, console, changes):
                        continue
                console.print(f"Waiting for a change in {code}, until you press Ctrl-C.", highlight=False, markup=False)
                while not next(changes):
                    pass
    finally:
        _replace(pipeline, deployed, console)  # prints nothing before: nobody may read the output any more
    text = f"It has the deployed code again. Yours is in {code}: 'xfarm deploy {pipeline.stack}' deploys it."
    console.print(text, highlight=False, markup=False)


def _deployed_code(pipeline: Pipeline) -> bytes:
    """Return the zip file of the function's present code.

    Raises:
        UserError: It can't be downloaded.
    """
    function = boto3.client("lambda").get_function(FunctionName=pipeline.function_name)
    try:
        with urlopen(function["Code"]["Location"]) as answer:  # noqa: S310 - AWS's own URL
            return answer.read()
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"the deployed code can't be downloaded, to put it back later: {reason}.") from error


def _archive(code: Path, console: Console) -> bytes:
    """Return a zip file of the code; nothing if it has a syntax error, which is shown."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for source in sorted(code.rglob("*.py")):
            text = source.read_bytes()
            try:
                compile(text, source.name, "exec")
            except (SyntaxError, ValueError) as error:
                console.print(f"{source.relative_to(code)}: {error}", style="red", highlight=False, markup=False)
                return b""
            writer.writestr(source.relative_to(code).as_posix(), text)
    return archive.getvalue()


def _replace(pipeline: Pipeline, archive: bytes, console: Console) -> None:
    """Replace the function's code, and wait until Lambda uses it."""
    started = time.monotonic()
    functions = boto3.client("lambda")
    functions.update_function_code(FunctionName=pipeline.function_name, ZipFile=archive)
    functions.get_waiter("function_updated_v2").wait(FunctionName=pipeline.function_name)
    seconds = time.monotonic() - started
    console.print(f"The code of {pipeline.function_name} was replaced in {seconds:.1f} s.", highlight=False)


def _process(
    pipeline: Pipeline, files: list[Path], failed: set[str], console: Console, changes: Iterator[object]
) -> bool:
    """Send files, and show the result of each, or the log of its first attempt if that failed.

    Args:
        pipeline: The pipeline.
        files: The files.
        failed: The ids of the messages that failed before, which may be of the same files; those that fail are added.
        console: Shows the results.
        changes: Waits a moment each time, for a change of the code.

    Returns:
        Whether the code is still the same; if not, the results are not waited for.
    """
    uploads = send.upload(pipeline, send.find(files), console)
    tracker = send.UploadTracker(pipeline)
    waiting = {upload.key: upload for upload in uploads}
    deadline = time.monotonic() + send.one_retry(pipeline)
    while waiting:
        for arrival in tracker.look(list(waiting.values())):
            del waiting[arrival.upload.key]
            what = send.in_brief(arrival.document) if arrival.document else arrival.error
            send.print_end(console, arrival.upload.name, arrival.result or pipeline.dead_letter_queue_name, what)
        since = min((upload.written for upload in waiting.values()), default=None)
        for failure in failures(pipeline, since - timedelta(seconds=1)) if since else ():
            if failure.message_id in failed:
                continue
            if upload := waiting.pop(failure.key or "", None):
                failed.add(failure.message_id)
                logs.show(pipeline, console, key=upload.key, since=upload.written - timedelta(seconds=1))
                print_plain(console, f"{upload.name} failed ({failure.error}); it is tried again.")
        if waiting and time.monotonic() > deadline:
            print_plain(console, f"{len(waiting)} without a result so far: see 'xfarm status {pipeline.stack}'.")
            return True
        if waiting and next(changes):
            return False
    return True
