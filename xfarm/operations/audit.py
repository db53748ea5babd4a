"""The audit: which files have no result of their current content, and whether they are on their way, dead or lost."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import boto3
from botocore.config import Config
from rich.progress import Progress, TextColumn

from lambda_code.result_keys import key_digest, result_keys
from xfarm.errors import UserError
from xfarm.operations.dead_letters import MOST, peek
from xfarm.operations.pipeline import counts, key_of, number_of, print_plain, printable
from xfarm.operations.send import head
from xfarm.waiting import announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef
    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

T = TypeVar("T")
State = Literal["dead letter", "on its way", "lost"]

THREADS: Final = 16
"""The number of folders that are compared at the same time."""

LEVELS: Final = 3
"""How many levels of folders are searched for enough of them to keep all threads busy."""

SHOWN: Final = 20
"""The number of files that are listed as text; `--json` lists all of them."""

CHUNK: Final = 1000
"""The number of files that are held in memory for each folder."""

MANY: Final = 100_000
"""The number of objects from which on the requests and their price are estimated first."""

PAGE: Final = 1000
"""The most objects in one answer ("ListObjectsV2", Amazon S3 API Reference)."""

LIST_PRICE: Final = 0.005 / 1000
HEAD_PRICE: Final = 0.0004 / 1000
"""Dollars for a request, in us-east-1 ("Amazon S3 pricing", "Requests & data retrievals")."""


@dataclass(frozen=True, kw_only=True)
class File:
    """An object in a listing.

    Attributes:
        key: Its key.
        etag: Its ETag, without quotes.
        size: Its size in bytes.
        written: When it was written.
    """

    key: str
    etag: str
    size: int
    written: datetime


@dataclass(frozen=True, kw_only=True)
class Finding(File):
    """A file without a result of its current content."""

    state: State


def audit(pipeline: Pipeline, prefix: str, console: Console, *, thorough: bool, as_json: bool) -> bool:
    """Show how many files under `prefix` have a result of their current content, and what became of the others.

    The memory needed does not grow with the number of files: listings are compared while they are read, and findings
    are kept in a temporary file.

    Args:
        pipeline: The pipeline.
        prefix: The prefix of the keys.
        console: Shows progress and the result.
        thorough: See `findings`.
        as_json: Whether to print JSON.

    Returns:
        Whether no file is lost.

    Raises:
        UserError: The prefix is not in the input folder.
    """
    prefix = require_input(pipeline, prefix)
    _announce_requests(pipeline, console, thorough=thorough)
    numbers: Counter[State] = Counter()
    progress = Progress(
        TextColumn("files compared: {task.completed:,}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task("", total=None)

    def compared() -> str:
        return f"{round(progress.tasks[0].completed):,} files compared"

    with (
        TemporaryFile("w+", encoding="utf-8") as kept,
        announced(compared, unless=console.is_terminal),
        progress,
    ):
        for finding in findings(pipeline, prefix, thorough=thorough, advance=partial(progress.advance, task)):
            numbers[finding.state] += 1
            _keep(kept, finding)
        kept.seek(0)
        files = round(progress.tasks[0].completed)
        totals = {"files": files, "has a result": files - numbers.total()} | {
            state: numbers[state] for state in ("on its way", "dead letter", "lost")
        }
        progress.stop()
        if as_json:
            _print_json(totals, kept)
        else:
            _print(pipeline, totals, kept, console)
    return not totals["lost"]


def _print_json(totals: dict[str, int], kept: TextIO) -> None:
    print(f'{{"counts": {json.dumps(totals)}, "without_result": [', end="")
    for number, line in enumerate(kept):
        print("," * bool(number), line.rstrip("\n"), sep="\n", end="")
    print("\n]}")


def _print(pipeline: Pipeline, totals: dict[str, int], kept: TextIO, console: Console) -> None:
    others = totals["files"] - totals["has a result"]
    for number, line in enumerate(kept):
        if number == SHOWN:
            console.print(f"... and {others - SHOWN:,} more, which --json lists.")
            break
        finding = json.loads(line)
        print_plain(console, f"{finding['state']}: {finding['key']}")
    console.print(
        f"{number_of(totals['files'], 'file')}: {totals['has a result']:,} with a result, {totals['on its way']:,} on "
        f"the way, {totals['dead letter']:,} in the dead-letter queue, {totals['lost']:,} lost.",
        highlight=False,
    )
    if totals["lost"]:
        console.print(f"To process what is lost: xfarm reprocess {pipeline.stack} --missing", highlight=False)


def require_input(pipeline: Pipeline, prefix: str) -> str:
    """Return the prefix, or the input prefix if it is empty.

    Raises:
        UserError: The prefix is not in the input folder.
    """
    prefix = key_of(pipeline, prefix) or pipeline.input_prefix
    if not prefix.startswith(pipeline.input_prefix):
        raise UserError(
            f"'{printable(prefix)}' is not in '{pipeline.input_prefix}', the folder of the files: add that."
        )
    return prefix


def client() -> S3Client:
    """Return a client of S3 that slows down where S3 asks for it ("Retries", Boto3 documentation)."""
    config = Config(max_pool_connections=THREADS, retries={"mode": "adaptive", "total_max_attempts": 10})
    return boto3.client("s3", config=config)


def findings(
    pipeline: Pipeline, prefix: str, *, thorough: bool = False, advance: Callable[[], None] = lambda: None
) -> Iterator[Finding]:
    """Yield each file without a result of its current content.

    A dead letter must be about the current content. Any other file is on its way if the main queue has messages and the
    file is younger than their retention, because nobody can look into a queue. Otherwise it is lost: S3 did not
    announce it, or its message was purged or expired.

    Args:
        pipeline: The pipeline.
        prefix: The prefix of the keys, in the input folder.
        thorough: Whether the metadata of each result decides what it is a result of. By default, the listings decide:
            a result must not be older than its file.
        advance: Called for each file that was compared.
    """
    s3 = client()
    with TemporaryFile("w+", encoding="utf-8") as kept, ThreadPoolExecutor(THREADS) as pool:

        def look_up(files: list[File]) -> list[tuple[File, bool]]:
            return list(zip(files, pool.map(partial(_has_result, s3, pipeline), files), strict=True))

        _compare(s3, folders(s3, pipeline, prefix), kept, look_up if thorough else None, advance)
        if not kept.tell():
            return
        _require_readable(pipeline)
        letters = {(letter.key, letter.etag) for letter in peek(pipeline)}
        queue = counts(pipeline.main_queue_url)
        oldest = datetime.now(UTC) - _retention(pipeline) if queue.waiting or queue.in_flight else datetime.now(UTC)
        kept.seek(0)
        for lines in chunks(kept):
            # Meanwhile, the function may have written some of the results.
            for file, current in look_up([_restore(line) for line in lines]):
                if (file.key, file.etag) in letters:
                    yield Finding(**asdict(file), state="dead letter")
                elif not current:
                    yield Finding(**asdict(file), state="on its way" if file.written > oldest else "lost")


def _require_readable(pipeline: Pipeline) -> None:
    """Require that all dead letters can be read: a file with a hidden one would seem to be lost.

    Raises:
        UserError: Some are in flight, or there are more than can be read.
    """
    letters = counts(pipeline.dead_letter_queue_url)
    if letters.in_flight:
        raise UserError(
            f"{number_of(letters.in_flight, 'dead letter')} can't be read, because another command reads them or was "
            "killed while it did: run this command again when that has ended, or in some minutes."
        )
    if letters.waiting > MOST:
        raise UserError(
            f"there are {letters.waiting:,} dead letters, of which {MOST:,} can be read: redrive or discard some first."
        )


def _compare(
    s3: S3Client,
    parts: list[Folder],
    kept: TextIO,
    look_up: Callable[[list[File]], list[tuple[File, bool]]] | None,
    advance: Callable[[], None],
) -> None:
    """Write each file that seems to have no result to `kept`."""
    lock = Lock()

    def compare(folder: Folder) -> None:
        for pairs in chunks(folder.pairs(s3)):
            found = [(file, bool(result and result.written >= file.written)) for file, result in pairs]
            if look_up:
                found = look_up([file for file, _ in pairs])
            with lock:
                for file, current in found:
                    if not current:
                        _keep(kept, file)
                    advance()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(compare, parts))


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yield the items in lists of up to `size`."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _keep(kept: TextIO, file: File) -> None:
    kept.write(json.dumps(asdict(file), default=datetime.isoformat) + "\n")


def _restore(line: str) -> File:
    facts = json.loads(line)
    return File(**facts | {"written": datetime.fromisoformat(facts["written"])})


def _retention(pipeline: Pipeline) -> timedelta:
    name = "MessageRetentionPeriod"
    answer = boto3.client("sqs").get_queue_attributes(QueueUrl=pipeline.main_queue_url, AttributeNames=[name])
    return timedelta(seconds=int(answer["Attributes"][name]))


def result_of(s3: S3Client, pipeline: Pipeline, key: str) -> HeadObjectOutputTypeDef | None:
    """Return the metadata of the result of a file, or None if it has none.

    The results of version 0.1.0 do not say whose they are, and no two files had the same.
    """
    for place in result_keys(key, pipeline.input_prefix, pipeline.output_prefix):
        result = head(s3, pipeline.bucket_name, place)
        if result and result["Metadata"].get("key-sha256", key_digest(key)) == key_digest(key):
            return result
    return None


def _has_result(s3: S3Client, pipeline: Pipeline, file: File) -> bool:
    """Return whether the file has a result of its current content.

    The metadata says so, or the time of a result that version 0.1.0 wrote.
    """
    if not (result := result_of(s3, pipeline, file.key)):
        return False
    etag = result["Metadata"].get("etag")
    return etag == file.etag if etag else result["LastModified"] >= file.written


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A part of the bucket: the files with a prefix, and their results.

    Attributes:
        pipeline: The pipeline.
        prefix: The prefix of the files.
        flat: Whether the files in its subfolders are left out.
    """

    pipeline: Pipeline
    prefix: str
    flat: bool = False

    def pairs(self, s3: S3Client) -> Iterator[tuple[File, File | None]]:
        """Yield each file with its result, or None if it has none.

        Both listings are in the order of the keys' UTF-8 bytes, which is the order of Python's strings. The order of
        the keys that the results should have is almost the same: `a` comes before `a-b`, but `a-b.json` before
        `a.json`. A heap holds back the few that a later file's may come before.
        """
        results = self._list(s3, self.pipeline.output_prefix + self.prefix.removeprefix(self.pipeline.input_prefix))
        result = next(results, None)
        heap: list[tuple[str, int, File, list[str]]] = []
        numbers = count()  # so that the heap compares no more than these

        def find(below: str | None) -> Iterator[tuple[File, File | None]]:
            nonlocal result
            while heap and (below is None or heap[0][0] < below):
                key, _, file, others = heapq.heappop(heap)
                while result and result.key < key:
                    result = next(results, None)
                if result and result.key == key:
                    yield file, result
                elif others:
                    heapq.heappush(heap, (others[0], next(numbers), file, others[1:]))
                else:
                    yield file, None

        for file in self.files(s3):
            # The key of every result to come is greater than the file's with the same prefix.
            start, name = self.pipeline.output_prefix, file.key.removeprefix(self.pipeline.input_prefix)
            yield from find(start + name)
            keys = result_keys(file.key, self.pipeline.input_prefix, start)
            if all(key.startswith(start + name) for key in keys):
                heapq.heappush(heap, (keys[0], next(numbers), file, keys[1:]))
            else:  # a key that was cut, which has no place in this order
                cut = result_of(s3, self.pipeline, file.key)
                yield file, cut and replace(file, written=cut["LastModified"])
        yield from find(None)

    def files(self, s3: S3Client) -> Iterator[File]:
        """Yield the files, without the empty objects that S3's console creates for folders."""
        return (file for file in self._list(s3, self.prefix) if file.size or not file.key.endswith("/"))

    def _list(self, s3: S3Client, prefix: str) -> Iterator[File]:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.pipeline.bucket_name, Prefix=prefix, Delimiter="/" if self.flat else ""
        )
        for page in pages:
            for each in page.get("Contents", []):
                yield File(
                    key=each["Key"], etag=each["ETag"].strip('"'), size=each["Size"], written=each["LastModified"]
                )


def folders(s3: S3Client, pipeline: Pipeline, prefix: str) -> list[Folder]:
    """Return parts of the bucket that can be compared at the same time, and are all files with a prefix together.

    A folder is divided into its subfolders if one request lists all of it that is not in these.
    """
    parts = [Folder(pipeline=pipeline, prefix=prefix)]
    for _ in range(LEVELS):
        if len(parts) >= THREADS:
            break
        divided: list[Folder] = []
        for part in parts:
            page = s3.list_objects_v2(Bucket=pipeline.bucket_name, Prefix=part.prefix, Delimiter="/")
            below = [each["Prefix"] for each in page.get("CommonPrefixes", [])]
            if part.flat or page["IsTruncated"] or not below:
                divided.append(part)
            else:
                divided.append(replace(part, flat=True))
                divided += [replace(part, prefix=each) for each in below]
        parts = divided
    return parts


def _announce_requests(pipeline: Pipeline, console: Console, *, thorough: bool) -> None:
    """Say how many requests will be made, and what they cost, if the bucket has many objects.

    CloudWatch has the number of the day before ("Amazon S3 CloudWatch daily storage metrics for buckets").
    """
    now = datetime.now(UTC)
    points = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/S3",
        MetricName="NumberOfObjects",
        Dimensions=[
            {"Name": "BucketName", "Value": pipeline.bucket_name},
            {"Name": "StorageType", "Value": "AllStorageTypes"},
        ],
        StartTime=now - timedelta(days=3),
        EndTime=now,
        Period=int(timedelta(days=1).total_seconds()),
        Statistics=["Average"],
    )["Datapoints"]
    objects = round(max((point["Average"] for point in points), default=0))
    if objects > MANY:
        lists, heads = objects // PAGE, objects // 2 if thorough else 0
        console.print(
            f"The bucket has about {objects:,} objects: this makes about {lists:,} requests to list them"
            + (f" and {heads:,} to look at results" if heads else "")
            + f", for about ${lists * LIST_PRICE + heads * HEAD_PRICE:.2f} in us-east-1.",
            highlight=False,
        )
