"""What the page shows of a pipeline, and what it can do: upload files and redrive dead letters."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import boto3
from rich.console import Console

from xfarm.errors import UserError
from xfarm.operations.redrive import redrive
from xfarm.operations.send import UploadTracker, in_brief, places, upload
from xfarm.operations.status import alarms_in_words, health, in_words

if TYPE_CHECKING:
    from pathlib import Path

    from xfarm.operations.pipeline import Pipeline
    from xfarm.operations.send import Upload

MAX_FILES: Final = 100
"""How many files are shown, the latest first."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One of the bucket's two folders.

    Attributes:
        prefix: Its key prefix.
        objects: The number of its objects, 1,000 at most (MaxKeys, "ListObjectsV2", Amazon S3 API Reference).
        more: Whether there are more.
    """

    prefix: str
    objects: int
    more: bool


@dataclass
class File:
    """A file that was dropped on the page.

    Attributes:
        uploaded: The upload to follow.
        state: `waiting`, `done` if it has a result, or `dead` if it is in the dead-letter queue.
        text: A summary of its result, or the error.
        result: The key of its result, or the expected one.
        document: Its result document.
    """

    uploaded: Upload
    state: str = "waiting"
    text: str = ""
    result: str = ""
    document: dict[str, Any] | None = None


class PipelineView:
    """The current state of a pipeline.

    Several threads may use it. The first client is created in `__init__`, because boto3's default session is safe for
    threads only after that.

    Args:
        pipeline: The pipeline.
        refresh_s: How old the state may be, in seconds. It limits the requests to AWS, however many pages are open.
    """

    def __init__(self, pipeline: Pipeline, *, refresh_s: float) -> None:
        self.pipeline = pipeline
        self._refresh_s = refresh_s
        self._state: dict[str, Any] = {}
        self._refreshed_at = -refresh_s
        self._files: dict[str, File] = {}
        self._tracker = UploadTracker(pipeline)
        self._refreshing = Lock()
        # Reading the dead-letter queue hides its messages for a second, and a redrive would miss them.
        self._reading_dead_letters = Lock()

    def state(self) -> dict[str, Any]:
        """Return what the page shows, ready for JSON."""
        with self._refreshing:
            if time.monotonic() >= self._refreshed_at + self._refresh_s:
                self._follow()
                pipeline = self.pipeline
                state = health(pipeline)
                unconfirmed = state.alarm_email if state.alarm_email != "confirmed" else None
                self._state = {
                    "at": time.time(),
                    "inputs": asdict(self._folder(pipeline.input_prefix)),
                    "outputs": asdict(self._folder(pipeline.output_prefix)),
                    "health": asdict(state),
                    "times": in_words(state.times),
                    "alarms": unconfirmed and f"{pipeline.alarm_topic_name} {alarms_in_words(pipeline, unconfirmed)}.",
                }
                self._refreshed_at = time.monotonic()
            return self._state | {"files": [self._shown(file) for file in reversed(self._files.copy().values())]}

    def send(self, name: str, path: Path) -> None:
        """Upload a file under `name`, and follow it from now on.

        Raises:
            UserError: It has no name, or can't be read.
        """
        if not name:
            raise UserError("a file needs a name.")
        (uploaded,) = upload(self.pipeline, {name: path}, Console(quiet=True))
        self._files.pop(uploaded.key, None)
        self._files[uploaded.key] = File(uploaded, result=places(self.pipeline, uploaded.key)[0])
        for key in list(self._files)[:-MAX_FILES]:
            self._files.pop(key, None)

    def redrive(self) -> str:
        """Redrive the dead letters, follow the page's files among them again, and return what was done.

        Raises:
            UserError: SQS could not move all of them.
        """
        output = io.StringIO()
        with self._reading_dead_letters:
            try:
                redrive(self.pipeline, Console(file=output, soft_wrap=True), trial=False)
            finally:  # a file that was not moved is found in the dead-letter queue again
                for file in self._files.copy().values():
                    if file.state == "dead":
                        file.state, file.text = "waiting", "moved back to the main queue"
                self._tracker = UploadTracker(self.pipeline)
        return output.getvalue().strip()

    def _follow(self) -> None:
        if not self._reading_dead_letters.acquire(blocking=False):  # a redrive is running
            return
        try:
            waiting = [file.uploaded for file in self._files.copy().values() if file.state == "waiting"]
            for arrival in self._tracker.look(waiting) if waiting else []:
                file = self._files.get(arrival.upload.key)
                if file is None or file.uploaded is not arrival.upload:  # a newer upload has replaced it
                    continue
                file.document = arrival.document
                if arrival.document is None:
                    file.state, file.text = "dead", arrival.error
                else:
                    file.state, file.text, file.result = "done", in_brief(arrival.document), arrival.result
        finally:
            self._reading_dead_letters.release()

    def _folder(self, prefix: str) -> Folder:
        listed = boto3.client("s3").list_objects_v2(Bucket=self.pipeline.bucket_name, Prefix=prefix)
        return Folder(prefix=prefix, objects=listed["KeyCount"], more=listed["IsTruncated"])

    def _shown(self, file: File) -> dict[str, Any]:
        return {
            "name": file.uploaded.name,
            "state": file.state,
            "text": file.text,
            "result": file.result,
            "document": file.document,
        }
