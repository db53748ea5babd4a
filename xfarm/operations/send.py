"""Sending files, and following each to its result or to the dead-letter queue."""

from __future__ import annotations

import json
import mimetypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from rich import filesize
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lambda_code.result_keys import result_keys
from xfarm.errors import UserError
from xfarm.operations.dead_letters import DeadLetter, failures, last_errors, peek
from xfarm.operations.pipeline import counts, number_of, print_plain, require_working, shortened
from xfarm.waiting import announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 2.0
"""The longest pause between two looks for results, in seconds. It doubles from the first while nothing arrives."""

THREADS: Final = 8
"""The number of files that are uploaded, or looked for, at the same time."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that has been uploaded.

    Attributes:
        name: Its key without the input prefix.
        key: Its key.
        etag: Its ETag, without quotes.
        version_id: Its version, or None if the bucket has no versioning.
        written: When S3 received it, by the clock of S3.
        earlier: The ETags of the results that were there before the upload.
    """

    name: str
    key: str
    etag: str
    version_id: str | None
    written: datetime
    earlier: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """The end of an upload: a result, or the dead-letter queue.

    Attributes:
        upload: The upload.
        result: The key of its result.
        document: Its result, or None if it is in the dead-letter queue.
        error: Why it is in the dead-letter queue.
    """

    upload: Upload
    result: str = ""
    document: dict[str, Any] | None = None
    error: str = ""


def _walk(folder: Path) -> list[Path]:
    """Return the files in a folder and in its folders.

    Raises:
        OSError: Something in it can't be read.
        UserError: Something in it is neither a file nor a folder: no file is passed over in silence.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        for path in (Path(parent, name) for name in (*names, *folders)):
            path.lstat()  # raises an error for a file that has just been deleted
            if path.is_file():
                found.append(path)
            elif path.is_symlink() or not path.is_dir():
                raise UserError(f"{_neither(path)}: remove it, or name the files to send.")
    return sorted(found)


def _neither(path: Path) -> str:
    return f"'{shortened(str(path))}' is neither a file nor a folder, but a link to a folder, a broken link or a device"


@contextmanager
def _os_errors_as_user_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"'{shortened(str(error.filename))}' can't be read: {error.strerror}.") from error


@_os_errors_as_user_errors()
def find(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the files to send by their names in the bucket. A file in a folder is named by its path in that folder.

    Raises:
        UserError: There is nothing to send, something can't be read, a name is not UTF-8, or two files have the same
            name.
    """
    files: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            found = {file.relative_to(path): file for file in _walk(path)}
            if not found:
                raise UserError(f"the folder '{path}' contains no files.")
        elif path.is_file():
            found = {Path(path.name): path}
        elif os.path.lexists(path):
            raise UserError(f"{_neither(path)}: name the files to send.")
        elif str(path).startswith("s3:/"):
            url = shortened(f"s3://{str(path).removeprefix('s3:/')}")
            raise UserError(
                f"'{url}' is no file of this machine: 'xfarm reprocess' processes files of the bucket again."
            )
        else:
            raise UserError(f"there is no file or folder '{shortened(str(path))}'.")
        for relative, file in found.items():
            try:
                name = os.fsencode(relative).decode()  # the locale's encoding may be another one
            except UnicodeDecodeError:
                raise UserError(f"{str(file)!r} has a name that is not UTF-8: rename it.") from None
            if name in files and not file.samefile(files[name]):
                raise UserError(
                    f"'{files[name]}' and '{file}' would both be named '{name}': send them one after the other."
                )
            files[name] = file
    return files


@_os_errors_as_user_errors()
def upload(pipeline: Pipeline, files: dict[str, Path], console: Console) -> list[Upload]:
    """Upload files, with a progress bar at a terminal.

    Raises:
        UserError: A file can't be read.
    """
    s3 = _s3()
    progress = Progress(
        TextColumn("uploading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    stopping = Event()

    def advance(sent: int) -> None:
        if stopping.is_set():
            raise RuntimeError  # boto3 would retry after an OSError
        progress.advance(task, sent)

    task = progress.add_task("", total=sum(file.stat().st_size for file in files.values()))
    with (
        announced(lambda: f"{progress.tasks[0].percentage:.0f} % uploaded.", unless=console.is_terminal),
        progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        try:
            running = [pool.submit(_upload, s3, pipeline, name, file, advance) for name, file in files.items()]
            return [each.result() for each in running]
        finally:  # after an error or Ctrl-C, stop the other uploads
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _upload(s3: S3Client, pipeline: Pipeline, name: str, file: Path, advance: Callable[[int], None]) -> Upload:
    key = pipeline.input_prefix + name
    earlier = [head(s3, pipeline.bucket_name, place) for place in places(pipeline, key)]
    content_type = mimetypes.guess_type(name)[0]
    s3.upload_file(
        str(file),
        pipeline.bucket_name,
        key,
        ExtraArgs={"ContentType": content_type} if content_type else {},
        Callback=advance,
    )
    uploaded = s3.head_object(Bucket=pipeline.bucket_name, Key=key)
    return Upload(
        name=name,
        key=key,
        etag=uploaded["ETag"].strip('"'),
        version_id=uploaded.get("VersionId"),
        written=uploaded["LastModified"],
        earlier=frozenset(each["ETag"] for each in earlier if each),
    )


def follow(pipeline: Pipeline, uploads: Iterable[Upload], timeout: float) -> Iterator[Arrival]:
    """Yield the arrival of each upload as soon as there is one, for at most `timeout` seconds."""
    waiting = list(uploads)
    tracker = UploadTracker(pipeline)
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE_S
    while True:
        arrivals = tracker.look(waiting)
        waiting = _without(waiting, arrivals)
        yield from arrivals
        left = deadline - time.monotonic()
        if not waiting or left <= 0:
            return
        pause = FIRST_PAUSE_S if arrivals else min(2 * pause, LONGEST_PAUSE_S)
        time.sleep(min(pause, left))


class UploadTracker:
    """A tracker of uploads: each call of `look` returns those that have ended.

    A result belongs to an upload if it has the same ETag and version and was not there before. A dead letter belongs to
    it if it has the same ETag and version and is not older than the upload. The tracker reads the dead-letter queue
    (see `operations.dead_letters.peek`) only when the number of its messages has changed since the last look.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._s3 = _s3()
        self._seen = 0

    def look(self, waiting: list[Upload], *, at_dead_letters: bool = True) -> list[Arrival]:
        """Return an arrival for each of the uploads `waiting` that has ended.

        Args:
            waiting: The uploads.
            at_dead_letters: Whether to read the dead-letter queue too.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            arrivals = list(filter(None, pool.map(partial(_result, self._s3, self._pipeline), waiting)))
        waiting = _without(waiting, arrivals)
        if waiting and at_dead_letters and counts(self._pipeline.dead_letter_queue_url).waiting != self._seen:
            letters = peek(self._pipeline)
            self._seen = len(letters)
            arrivals += _dead(self._pipeline, waiting, letters)
        return arrivals


def _without(uploads: list[Upload], arrivals: list[Arrival]) -> list[Upload]:
    arrived = {arrival.upload.key for arrival in arrivals}
    return [upload for upload in uploads if upload.key not in arrived]


def _dead(pipeline: Pipeline, waiting: list[Upload], letters: list[DeadLetter]) -> list[Arrival]:
    found = [(upload, letter) for upload in waiting for letter in letters if is_about(letter, upload)]
    errors = last_errors(pipeline, [letter for _, letter in found])
    return [Arrival(upload=upload, error=errors[letter.message_id]) for upload, letter in found]


def is_about(letter: DeadLetter, upload: Upload) -> bool:
    """Return whether a dead letter belongs to an upload, and not to an earlier one of the same contents."""
    return (
        (letter.key, letter.etag, letter.version_id) == (upload.key, upload.etag, upload.version_id)
        and letter.uploaded is not None
        and letter.uploaded >= upload.written
    )


def _result(s3: S3Client, pipeline: Pipeline, upload: Upload) -> Arrival | None:
    """Return the arrival of an upload if its result is there."""
    for place in places(pipeline, upload.key):
        try:
            result = s3.get_object(Bucket=pipeline.bucket_name, Key=place)
        except ClientError as error:
            if is_missing_object(error):  # the function does not use the next key before this one
                return None
            raise
        with closing(result["Body"]) as body:
            if result["ETag"] in upload.earlier:
                continue
            document = json.load(body)
        if is_of(document, upload):
            return Arrival(upload=upload, result=place, document=document)
    return None


def is_of(document: dict[str, Any], upload: Upload) -> bool:
    """Return whether a result document is about an upload."""
    source = document.get("key"), document.get("etag"), document.get("version_id")
    return source == (upload.key, upload.etag, upload.version_id)


def places(pipeline: Pipeline, key: str) -> list[str]:
    """Return the keys that the result of the file `key` can have, the usual one first."""
    return result_keys(key, pipeline.input_prefix, pipeline.output_prefix)


def in_brief(document: dict[str, Any]) -> str:
    """Return a summary of a result document."""
    words = [filesize.decimal(document["size"])] if "size" in document else []
    if document.get("rows") is not None:
        words.append(number_of(document["rows"], "row"))
    if fewer := document.get("rows_with_fewer_fields"):
        words.append(f"{fewer:,} with fewer fields")
    if more := document.get("rows_with_more_fields"):
        words.append(f"{more:,} with more fields")
    if names := document.get("duplicate_columns"):
        words.append(f"columns named more than once: {', '.join(names)}")
    if malformed := document.get("malformed"):
        words.append(f"malformed at line {malformed['line']}: {malformed['reason']}")
    return ", ".join(words)


def one_retry(pipeline: Pipeline) -> float:
    """Return the longest time, in seconds, in which a file fails once and has a result after the second attempt.

    This is the queue's visibility timeout, after which a failed message is received again, and the function's timeout.
    It is not enough to see a file fail for good: with the default settings that takes half an hour.
    """
    attributes = boto3.client("sqs").get_queue_attributes(
        QueueUrl=pipeline.main_queue_url, AttributeNames=["VisibilityTimeout"]
    )["Attributes"]
    function = boto3.client("lambda").get_function_configuration(FunctionName=pipeline.function_name)
    return int(attributes["VisibilityTimeout"]) + function["Timeout"]


def send(pipeline: Pipeline, paths: Iterable[Path], console: Console, *, timeout: float | None = None) -> None:
    """Upload files, and follow each until it has a result or is in the dead-letter queue.

    Args:
        pipeline: The pipeline to send them to.
        paths: Files, and folders of files.
        console: The console to print to.
        timeout: How long to follow the files, in seconds; 0 to only upload them, None for the time of `one_retry`.

    Raises:
        UserError: A file can't be sent or would not be processed, is in the dead-letter queue, or has no result after
            that time.
    """
    files = find(paths)
    require_working(pipeline, enabled=timeout != 0, otherwise=", or only upload the files (--no-wait)")
    uploads = upload(pipeline, files, console)
    timeout = one_retry(pipeline) if timeout is None else timeout
    if not timeout:
        for each in uploads:
            print_end(console, each.name, f"s3://{pipeline.bucket_name}/{each.key}")
        return
    waiting = {each.key: each for each in uploads}
    dead = 0

    def remaining() -> str:
        return f"waiting for {len(waiting)} of {len(uploads)}"

    with console.status(remaining()) as status, announced(remaining, unless=console.is_terminal):
        for arrival in follow(pipeline, uploads, timeout):
            del waiting[arrival.upload.key]
            status.update(remaining())
            if arrival.document is None:
                dead += 1
                print_end(console, arrival.upload.name, pipeline.dead_letter_queue_name, arrival.error)
            else:
                print_end(console, arrival.upload.name, arrival.result, in_brief(arrival.document))
    if waiting:
        _explain_waiting(pipeline, waiting, console)
    problems = []
    if dead:
        problems.append(
            f"{dead} of {len(uploads)} ended in the dead-letter queue: fix the cause, "
            f"then put them back with 'xfarm redrive {pipeline.stack}'."
        )
    if waiting:
        problems.append(
            f"{len(waiting)} of {len(uploads)} had no result after {timeout:g} s. Nothing is lost: each is tried "
            f"until it has a result or is in the dead-letter queue, see 'xfarm status {pipeline.stack}'."
        )
    if problems:
        raise UserError(" ".join(problems))


def _explain_waiting(pipeline: Pipeline, waiting: dict[str, Upload], console: Console) -> None:
    """Print why each of the uploads `waiting` has no result, as far as that can be found out."""
    s3 = _s3()
    since = min(upload.written for upload in waiting.values())
    errors = {failure.key: failure.error for failure in failures(pipeline, since)}
    for key, upload in waiting.items():
        now = head(s3, pipeline.bucket_name, key)
        if now is None or (now["ETag"].strip('"'), now.get("VersionId")) != (upload.etag, upload.version_id):
            print_end(console, upload.name, "no result", "it was deleted, or replaced by a newer upload")
        else:
            print_end(console, upload.name, "no result yet", errors.get(key, ""))


def print_end(console: Console, name: str, where: str, what: str = "") -> None:
    """Print where a file is now, and what is known of it."""
    print_plain(console, f"{name} -> {where}{f' ({what})' if what else ''}")


def head(s3: S3Client, bucket: str, key: str) -> HeadObjectOutputTypeDef | None:
    """Return the metadata of an object, or None if it does not exist."""
    try:
        return s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if is_missing_object(error):
            return None
        raise


def is_missing_object(error: ClientError) -> bool:
    """Return whether S3's error means that the object does not exist.

    The code is 404 for a HEAD request, whose response has no body with the error's name, and for a key with control
    characters, which make the body unreadable.
    """
    return error.response.get("Error", {}).get("Code") in {"404", "NoSuchKey"}


def _s3() -> S3Client:
    return boto3.client("s3", config=Config(max_pool_connections=4 * THREADS))
