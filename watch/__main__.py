"""The command line of the page: ``python -m watch [STACK] [--port N]``."""

import argparse
import asyncio
import sys

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from operations.pipeline import deployed, explain
from orchestrator import targets
from orchestrator.engine import exports
from shared.errors import UserError
from watch.live import Live
from watch.server import serve

PORT = 8347

LOCAL_S, ACCOUNT_S = 1, 5
"""How often the page is brought up to date, in seconds: AWS charges for each question."""


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C and return the exit code: 0 unless it could not be shown."""
    parser = argparse.ArgumentParser(prog="watch", description="show a deployed pipeline at work, in the browser")
    parser.add_argument("stack", nargs="?", default=targets.LOCAL, help="which stack (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help="where to serve (default: %(default)s)")
    options = parser.parse_args(arguments)
    local = options.stack == targets.LOCAL
    try:
        targets.enter(options.stack, say=_say)
        live = Live(
            deployed(options.stack, exports(options.stack)),
            every=LOCAL_S if local else ACCOUNT_S,
        )
        live.state()  # what would be an error of every page is better told here
        asyncio.run(serve(live, port=options.port, writable=local, ready=_ready))
    except UserError as error:
        return _complain(str(error))
    except (ClientError, BotoCoreError, Boto3Error) as error:
        return _complain(explain(error))
    except KeyboardInterrupt:
        return 0
    return 0


def _ready(url: str) -> None:
    print(f"{url} shows it; Ctrl-C ends.", flush=True)


def _complain(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
