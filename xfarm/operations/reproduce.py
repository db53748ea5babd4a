"""Reproducing on this machine what the function does with a file, without writing its result."""

from __future__ import annotations

import hashlib
import importlib
import json
import mimetypes
import os
import pdb  # noqa: T100 - for --pdb
import re
import sys
import traceback
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from rich import filesize
from rich.table import Table
from rich.text import Text

from lambda_code.s3_events import ObjectCreated, parse
from xfarm.errors import UserError
from xfarm.operations import dead_letters, logs, reprocess
from xfarm.operations.pipeline import key_of, print_plain, printable
from xfarm.operations.send import find, head, places
from xfarm.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from xfarm.operations.pipeline import Pipeline

MESSAGE_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f-]{0,27})?")
"""The id of a message, or its beginning, as `xfarm logs` shows it."""

NO_LIMIT_MS: Final = 24 * 60 * 60 * 1000
"""The time that an attempt has: a debugger must not run out of it."""

READING: Final = ("Get", "Head", "List")
"""What the names of S3's operations that change nothing begin with."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to process.

    Attributes:
        body: The body of the message.
        file: The local file to read in place of the object, or None.
        note: What the user has to know of it, or "".
    """

    body: str
    file: Path | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the function did with one file.

    Attributes:
        facts: What it logged.
        document: The result, or None if there is none.
    """

    facts: dict[str, Any]
    document: dict[str, Any] | None


class Context:
    """Lambda's context object, in an invocation without an end."""

    aws_request_id = "reproduced"

    def get_remaining_time_in_millis(self) -> int:
        """Return how many milliseconds the invocation has left."""
        return NO_LIMIT_MS


def find_case(pipeline: Pipeline, what: str) -> Case:
    """Return what to process.

    Args:
        pipeline: The pipeline.
        what: The key or the URL of a file, the path of a local file, or the id of a message or its beginning.

    Raises:
        UserError: It is none of these, or what it names does not exist.
    """
    what = key_of(pipeline, what)
    if what.startswith(pipeline.input_prefix):
        return Case(body=_body(pipeline, what))
    if Path(what).is_file():
        ((name, file),) = find([Path(what)]).items()
        return Case(body=_body_of_file(pipeline, pipeline.input_prefix + name, file), file=file)
    if MESSAGE_ID.fullmatch(what):
        return _message(pipeline, what)
    raise UserError(
        f"'{printable(what)}' is not the key of a file, which begins with '{pipeline.input_prefix}', nor a file on "
        f"this machine, nor the id of a message, as 'xfarm logs {pipeline.stack}' shows it."
    )


def _body(pipeline: Pipeline, key: str) -> str:
    """Return S3's event notification for an object as it is now.

    Raises:
        UserError: It does not exist.
    """
    if body := reprocess.message_about(boto3.client("s3"), pipeline, key):
        return body
    raise UserError(f"s3://{pipeline.bucket_name}/{printable(key)} does not exist.")


def _body_of_file(pipeline: Pipeline, key: str, file: Path) -> str:
    """Return the event notification that S3 would send for a local file, in place of that of its present result."""
    stored = stored_result(pipeline, key) or {}
    described = {"key": quote_plus(key, safe="/"), "size": file.stat().st_size}
    described["sequencer"] = stored.get("sequencer", "0")
    if version := stored.get("version_id"):
        described["versionId"] = version
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}
    return json.dumps({"Records": [{**record, "s3": {"bucket": {"name": pipeline.bucket_name}, "object": described}}]})


def _message(pipeline: Pipeline, beginning: str) -> Case:
    """Return a message in the dead-letter queue, or else the file that the log says it was about.

    Raises:
        UserError: There is no such message, or there are several.
    """
    bodies: dict[str, str] = {}
    with dead_letters.Received(pipeline) as received:
        for messages in received.batches():
            bodies |= {each["MessageId"]: each["Body"] for each in messages if each["MessageId"].startswith(beginning)}
    keys: dict[str, Any] = {}
    if not bodies:
        pattern = logs.field_pattern("message_id", beginning)
        for line in logs.lines(pipeline, datetime.fromtimestamp(0, UTC), pattern=pattern):
            if str(line.facts.get("message_id")).startswith(beginning):
                keys[line.facts["message_id"]] = line.facts.get("key")
    if len(bodies | keys) > 1:
        raise UserError(f"the ids of several messages begin with '{beginning}': {', '.join(bodies | keys)}.")
    for body in bodies.values():
        return Case(body=body, note="The message is from the dead-letter queue, where it stays.")
    for key in filter(None, keys.values()):
        return Case(
            body=_body(pipeline, key),
            note="The message is not in the dead-letter queue. The log says which file it was about.",
        )
    raise UserError(
        f"there is no message '{beginning}' in {pipeline.dead_letter_queue_name}, and no line with the key of its file "
        "in the function's log."
    )


def stored_result(pipeline: Pipeline, key: str) -> dict[str, Any] | None:
    """Return the result of a file in the bucket, or None if it has none."""
    s3 = boto3.client("s3")
    for place in places(pipeline, key):
        if head(s3, pipeline.bucket_name, place):
            with closing(s3.get_object(Bucket=pipeline.bucket_name, Key=place)["Body"]) as body:
                document = json.load(body)
            if document.get("key") == key:
                return document
    return None


def run(case: Case, environment: dict[str, str], *, debug: bool = False) -> list[Attempt]:
    """Process a message with the handler of this checkout, and return what it did with each file in the message.

    Nothing is written to S3: results are returned instead, and objects that `process` itself writes are discarded.

    Args:
        case: What to process.
        environment: The function's environment variables.
        debug: Whether to start pdb where an error is raised.

    Raises:
        UserError: The code can't be imported.
    """
    os.environ.update(environment)
    sys.path.insert(0, str(ROOT / "lambda_code"))
    sys.modules.pop("lambda_function", None)  # that of an earlier call has its clients and replacements
    documents: dict[str, dict[str, Any]] = {}
    logged: list[dict[str, Any]] = []
    with _writing_nothing():
        try:
            function: Any = importlib.import_module("lambda_function")
        except Exception as error:  # whatever the user's code raises
            traceback.print_exc()
            raise UserError("the function's code can't be imported, so Lambda could not run it either.") from error

        def store(_key: str, document: bytes, created: Any, _source: object) -> str:  # noqa: ANN401 - of the function
            documents[created.key] = json.loads(document)
            return "processed"

        def log(_level: str, outcome: str, **facts: object) -> None:
            logged.append({"outcome": outcome, **facts})

        function._store, function._log = store, log  # noqa: SLF001 - all else is the real function
        if debug:
            function._handle_object = _debugged(function._handle_object)  # noqa: SLF001
        if case.file:
            function.S3.meta.events.register("before-call.s3.GetObject", _reading(case))
        message = {"messageId": "reproduced", "body": case.body, "attributes": {"ApproximateReceiveCount": "1"}}
        function.handler({"Records": [message]}, Context())
    return [Attempt(facts=facts, document=documents.get(facts.get("key", ""))) for facts in logged]


@contextmanager
def _writing_nothing() -> Iterator[None]:
    """Let clients that are created in the meantime write nothing to S3."""

    def answer(model: Any, **_: object) -> tuple[AWSResponse, dict[str, Any]] | None:  # noqa: ANN401 - botocore's
        if model.name.startswith(READING):
            return None
        if model.name == "PutObject":
            return _answer({"ETag": '"not written"'})
        raise PermissionError(f"xfarm reproduce writes nothing to S3, so {model.name} is refused")

    previous = boto3.DEFAULT_SESSION
    session: Any = boto3.Session()
    boto3.DEFAULT_SESSION = session
    session.events.register("before-call.s3", answer)
    try:
        yield
    finally:
        boto3.DEFAULT_SESSION = previous


def _answer(parsed: dict[str, Any]) -> tuple[AWSResponse, dict[str, Any]]:
    """Return a response of S3, as botocore takes it from a handler of `before-call` instead of sending a request."""
    return AWSResponse("", 200, HTTPHeaders(), None), parsed


def _reading(case: Case) -> Callable[..., tuple[AWSResponse, dict[str, Any]]]:
    """Return a handler that answers GetObject with the local file."""
    file = case.file or Path()
    version = json.loads(case.body)["Records"][0]["s3"]["object"].get("versionId")

    def answer(**_: object) -> tuple[AWSResponse, dict[str, Any]]:
        content, size = file.open("rb"), file.stat().st_size
        etag = hashlib.file_digest(content, "md5").hexdigest()  # as S3 does if it is uploaded in one part
        content.seek(0)
        described = {"ETag": f'"{etag}"', "ContentLength": size, "ContentType": mimetypes.guess_type(file)[0] or ""}
        return _answer({"Body": StreamingBody(content, size), "VersionId": version, **described})

    return answer


def _debugged(work: Callable[..., str]) -> Callable[..., str]:
    """Return a function that starts pdb where `work` raises an error."""

    def debugged(*arguments: object) -> str:
        try:
            return work(*arguments)
        except Exception as error:
            print(printable(f"{type(error).__name__}: {error}"))
            pdb.post_mortem(error.__traceback__)
            raise

    return debugged


def reproduce(pipeline: Pipeline, what: str, console: Console, *, debug: bool = False) -> None:
    """Process a file on this machine as the function would, and compare the result with the one in the bucket.

    Args:
        pipeline: The pipeline.
        what: The key or the URL of a file, the path of a local file, or the id of a message or its beginning.
        console: Shows what happens.
        debug: Whether to start pdb where an error is raised.

    Raises:
        UserError: There is nothing to process, or the attempt fails.
    """
    case = find_case(pipeline, what)
    function = boto3.client("lambda").get_function_configuration(FunctionName=pipeline.function_name)
    settings = function.get("Environment", {})
    if "Error" in settings:
        raise UserError(f"you may not read the function's environment variables: {settings['Error'].get('Message')}")
    differences = [f"the memory ({function['MemorySize']} MB there)", f"the time limit ({function['Timeout']} s there)"]
    if (python := f"python{sys.version_info.major}.{sys.version_info.minor}") != function.get("Runtime"):
        differences.append(f"the version of Python ({python} here, {function.get('Runtime')} there)")
    print_plain(
        console, f"This runs the code of this checkout with the environment variables of {pipeline.function_name}."
    )
    print_plain(console, f"Not as in Lambda: the role (your permissions here), {', '.join(differences)}.")
    if case.note:
        print_plain(console, case.note)
    for record in parse(case.body):
        if isinstance(record, ObjectCreated):
            where = case.file or f"s3://{record.bucket}/{record.key}"
            print_plain(console, f"Processing {where} ({filesize.decimal(record.size)}).")
    problems = [
        problem
        for attempt in run(case, settings.get("Variables", {}), debug=debug)
        for problem in (_show(pipeline, attempt, console), _overtime(attempt, function["Timeout"]))
        if problem
    ]
    if problems:
        raise UserError(" ".join(problems))


def _show(pipeline: Pipeline, attempt: Attempt, console: Console) -> str:
    """Show what an attempt did, and return the sentence that says why it has no result, or ""."""
    facts, key = attempt.facts, attempt.facts.get("key")
    match facts["outcome"]:
        case "processed" if attempt.document is not None:
            _compare(attempt.document, stored_result(pipeline, str(key)), console)
        case "failed":
            for line in facts["traceback"].rstrip().split("\n"):
                print_plain(console, line)
            error = f"{printable(facts['error_type'])}: {printable(facts['error'])}"
            return f"the attempt failed with {error}{_logged(pipeline, facts)}."
        case "gone":
            return f"s3://{facts['bucket']}/{printable(str(key))} does not exist any more."
        case "folder":
            print_plain(console, "It is a folder created in S3's console, which has no result.")
        case outcome:
            print_plain(console, f"The function has no work to do ({outcome}).")
    return ""


def _overtime(attempt: Attempt, timeout_s: int) -> str:
    """Return the sentence that says that an attempt took longer than it may in Lambda, or ""."""
    taken_s = attempt.facts.get("duration_ms", 0) / 1000  # S3's test message takes none
    if taken_s < timeout_s:
        return ""
    return (
        f"it took {taken_s:.3g} s here, and Lambda ends an attempt before {timeout_s} s: raise "
        "messaging:consumerTimeoutSeconds or compute:memorySize."
    )


def _compare(document: dict[str, Any], stored: dict[str, Any] | None, console: Console) -> None:
    """Show a result beside the stored one."""
    table = Table("", "here", "stored")
    different = [name for name in document | (stored or {}) if document.get(name) != (stored or {}).get(name)]
    for name in document | (stored or {}):
        cells = [name, *(_cell(each[name]) if name in each else "" for each in (document, stored or {}))]
        table.add_row(*map(Text, cells), style="bold" if stored and name in different else "")
    console.print(table)
    if stored is None:
        print_plain(console, "There is no stored result. Nothing was written.")
    elif different:
        print_plain(console, f"Different from the stored result: {', '.join(different)}. Nothing was written.")
    else:
        print_plain(console, "Equal to the stored result. Nothing was written.")


def _cell(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _logged(pipeline: Pipeline, facts: dict[str, Any]) -> str:
    """Return, to be appended, what the function has logged about the same upload; "" if there is none."""
    key = facts.get("key")
    uploaded = head(boto3.client("s3"), pipeline.bucket_name, key) if key else None
    if not uploaded:
        return ""
    last = ""
    with suppress(ClientError):  # there is no log; what is to be shown is the failure
        for line in logs.lines(pipeline, uploaded["LastModified"], pattern=logs.field_pattern("key", str(key))):
            if line.failed and line.facts.get("key") == key:
                last = str(line.facts.get("error"))
    if not last:
        return ". The function has logged no error of this file since its upload"
    if last == facts["error"]:
        return ". The function has logged the same error"
    return f". The last error that the function has logged is another one: {printable(last)}"
