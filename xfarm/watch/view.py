"""What the page shows of a pipeline, and what it can do: upload files and redrive dead letters."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass, field
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from xfarm.aws_errors import explain
from xfarm.errors import UserError
from xfarm.operations import dead_letters
from xfarm.operations.pipeline import counts, printable
from xfarm.operations.redrive import redrive
from xfarm.operations.send import UploadTracker, in_brief, places, upload
from xfarm.operations.status import alarms_in_words, health, in_words

if TYPE_CHECKING:
    from pathlib import Path

    from xfarm.operations.dead_letters import Cause
    from xfarm.operations.pipeline import Pipeline
    from xfarm.operations.redrive import Step
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


@dataclass
class Redrive:
    """A redrive that was started on the page.

    Attributes:
        started: When it started, in seconds since 1970.
        output: What it prints.
        error: Why it failed, or an empty string.
        moved: How many dead letters it has moved.
        total: How many it will move, approximately; 0 while that is unknown.
        running: Whether it has not ended.
    """

    started: float = field(default_factory=time.time)
    output: io.StringIO = field(default_factory=io.StringIO)
    error: str = ""
    moved: int = 0
    total: int = 0
    running: bool = True


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
        self._redrive: Redrive | None = None
        self._starting = Lock()
        self._closed = False
        self._thread = Thread()

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
            return self._state | {
                "files": [self._shown(file) for file in reversed(self._files.copy().values())],
                "redrive": self._shown_redrive(),
            }

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

    def causes(self) -> dict[str, Any]:
        """Return the causes of the dead letters, ready for JSON. Nobody else sees the messages until all are read.

        Raises:
            UserError: A redrive is running, or AWS is too slow.
        """
        if self._redrive and self._redrive.running:
            raise UserError("a redrive is running: look at the causes when it has ended.")
        with self._reading_dead_letters:
            before = counts(self.pipeline.dead_letter_queue_url)
            letters = dead_letters.peek(self.pipeline)
        found = dead_letters.causes(letters, dead_letters.last_errors(self.pipeline, letters))
        return {"causes": [_shown_cause(cause) for cause in found], "hidden": dead_letters.in_flight(before).strip()}

    def redrive(self, *, cause: str | None, limit: int | None, rate: int | None, trial: bool) -> None:
        """Start to redrive dead letters (see `operations.redrive.redrive`); `state` has the progress.

        Raises:
            UserError: A redrive is running already.
        """
        with self._starting:
            if self._redrive and self._redrive.running:
                raise UserError("a redrive is running already.")
            self._redrive = Redrive()
        choice = {"cause": cause, "limit": limit, "rate": rate, "trial": trial}
        self._thread = Thread(target=self._run, args=(self._redrive,), kwargs=choice)
        self._thread.start()

    def close(self) -> None:
        """End the redrive, if one is running. If SQS moves the messages, it continues."""
        self._closed = True
        if self._thread.ident:
            self._thread.join()

    def _run(self, run: Redrive, **choice: Any) -> None:  # noqa: ANN401 - the arguments of `redrive`
        def follow(step: Step) -> None:
            run.moved, run.total = step.moved, step.total
            if self._closed:
                raise UserError("the page's server has ended.")

        with self._reading_dead_letters:
            try:
                redrive(self.pipeline, Console(file=run.output, soft_wrap=True), **choice, on_step=follow)
            except (UserError, ClientError, BotoCoreError, Boto3Error) as error:
                run.error = explain(error, self.pipeline.stack) or str(error)
            finally:  # a file that was not moved is found in the dead-letter queue again
                for file in self._files.copy().values():
                    if file.state == "dead":
                        file.state, file.text = "waiting", ""
                self._tracker = UploadTracker(self.pipeline)
                run.running = False

    def _follow(self) -> None:
        at_dead_letters = self._reading_dead_letters.acquire(blocking=False)  # otherwise a redrive is running
        try:
            followed = {"waiting"} if at_dead_letters else {"waiting", "dead"}
            waiting = [file.uploaded for file in self._files.copy().values() if file.state in followed]
            for arrival in self._tracker.look(waiting, at_dead_letters=at_dead_letters) if waiting else []:
                file = self._files.get(arrival.upload.key)
                if file is None or file.uploaded is not arrival.upload:  # a newer upload has replaced it
                    continue
                file.document = arrival.document
                if arrival.document is None:
                    file.state, file.text = "dead", arrival.error
                else:
                    file.state, file.text, file.result = "done", in_brief(arrival.document), arrival.result
        finally:
            if at_dead_letters:
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

    def _shown_redrive(self) -> dict[str, Any] | None:
        if not (run := self._redrive):
            return None
        return {
            "started": run.started,
            "running": run.running,
            "moved": run.moved,
            "total": run.total,
            "text": f"{run.output.getvalue()}{run.error}".strip(),
        }


def _shown_cause(cause: Cause) -> dict[str, Any]:
    return {
        "number": cause.number,
        "error": printable(cause.error),
        "letters": len(cause.letters),
        "oldest": f"{cause.letters[0].sent:%Y-%m-%d %H:%M:%S} UTC",
        "files": [dead_letters.place(letter) for letter in cause.letters[: dead_letters.SAMPLES]],
    }
