"""What the page shows of a pipeline, and the two things that can be done from it."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import boto3
from rich.console import Console

from operations.redrive import redrive
from operations.send import Lookout, in_brief, places, upload
from operations.status import health
from shared.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from operations.pipeline import Pipeline
    from operations.send import Upload

REMEMBERED: Final = 100
"""The most files that are shown, the latest first."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One of the bucket's two folders.

    Attributes:
        prefix: What its keys begin with.
        objects: How many objects it has, or the first thousand of them.
        more: Whether there are more than those.
    """

    prefix: str
    objects: int
    more: bool


@dataclass
class File:
    """A file that was dropped on the page.

    Attributes:
        uploaded: The upload, by which it is followed.
        state: Whether it has a result, is in the dead-letter queue, or neither so far.
        text: What came of it, in a few words.
        result: The key of the result, or that which it usually has.
        document: The result document.
    """

    uploaded: Upload
    state: str = "waiting"
    text: str = ""
    result: str = ""
    document: dict[str, Any] | None = None


class Live:
    """A pipeline as it is now.

    Several threads may use it: boto3's session makes clients for all of them once it has made its first one, which it
    does in here.

    Args:
        pipeline: The pipeline.
        every: For how long, in seconds, an answer of AWS is good enough: however many pages are open, AWS is asked no
            more often.
    """

    def __init__(self, pipeline: Pipeline, *, every: float) -> None:
        self.pipeline = pipeline
        self._every = every
        self._state: dict[str, Any] = {}
        self._asked = -every
        self._files: dict[str, File] = {}
        self._lookout = Lookout(pipeline)
        self._asking = Lock()
        # A look into the dead-letter queue hides its messages for a second, in which a redrive would not find them.
        self._looking = Lock()

    def state(self) -> dict[str, Any]:
        """Return what there is to be shown, ready for JSON."""
        with self._asking:
            if time.monotonic() >= self._asked + self._every:
                self._follow()
                pipeline = self.pipeline
                self._state = {
                    "at": time.time(),
                    "inputs": asdict(self._folder(pipeline.input_prefix)),
                    "outputs": asdict(self._folder(pipeline.output_prefix)),
                    "health": asdict(health(pipeline)),
                }
                self._asked = time.monotonic()
            return self._state | {"files": [self._shown(file) for file in reversed(self._files.copy().values())]}

    def send(self, name: str, path: Path) -> None:
        """Upload a file as ``name``, and follow it from now on.

        Raises:
            UserError: It has no name, or can't be read.
        """
        if not name:
            raise UserError("a file needs a name.")
        (uploaded,) = upload(self.pipeline, {name: path}, Console(quiet=True))
        self._files.pop(uploaded.key, None)
        self._files[uploaded.key] = File(uploaded, result=places(self.pipeline, uploaded.key)[0])
        for key in list(self._files)[:-REMEMBERED]:
            self._files.pop(key, None)

    def redrive(self) -> str:
        """Put the dead letters back into the main queue, follow those of the page's files again, and say what was done.

        Raises:
            UserError: SQS could not move all of them.
        """
        said = io.StringIO()
        with self._looking:
            try:
                redrive(self.pipeline, Console(file=said, soft_wrap=True))
            finally:  # one that was not moved is found again
                for file in self._files.copy().values():
                    if file.state == "dead":
                        file.state, file.text = "waiting", "put back into the main queue"
                self._lookout = Lookout(self.pipeline)
        return said.getvalue().strip()

    def _follow(self) -> None:
        if not self._looking.acquire(blocking=False):  # a redrive is under way
            return
        try:
            waiting = [file.uploaded for file in self._files.copy().values() if file.state == "waiting"]
            for arrival in self._lookout.look(waiting) if waiting else []:
                file = self._files.get(arrival.upload.key)
                if file is None or file.uploaded is not arrival.upload:  # a newer upload has taken its place
                    continue
                file.document = arrival.document
                if arrival.document is None:
                    file.state, file.text = "dead", arrival.error
                else:
                    file.state, file.text, file.result = "done", in_brief(arrival.document), arrival.result
        finally:
            self._looking.release()

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
