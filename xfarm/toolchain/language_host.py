"""`pulumi-language-python` for machines that can't download the official one: it runs a project's `__main__.py`.

The engine starts two for each run of a program.

Usage, by the engine: python -m xfarm.toolchain.language_host [OPTION ...] ENGINE_ADDRESS
"""

from __future__ import annotations

import asyncio
import os
import runpy
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
import pulumi
from pulumi.automation._server import LanguageServer
from pulumi.runtime import reset_options, run_in_stack, set_all_config
from pulumi.runtime.proto import language_pb2, language_pb2_grpc
from typing_extensions import override

from xfarm.errors import UserError
from xfarm.toolchain import service

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context
    from types import TracebackType

_T = TypeVar("_T")

_MACHINERY: Final = (
    *(str(Path(module.__file__ or "").parent) for module in (asyncio, pulumi)),
    "<frozen runpy>",
    __file__,
)
"""The file names, or their first parts, of the code between the engine and the program."""

_ORIGIN: Final = "first traceback"
"""The attribute that carries an error's first traceback from task to task."""


class LanguageHost(LanguageServer):
    """The SDK's server for inline programs, changed to run the program in a folder."""

    def __init__(self, engine_address: str) -> None:
        super().__init__(lambda: None)
        self._engine_address = engine_address

    @override
    def Run(self, request: language_pb2.RunRequest, context: grpc.ServicerContext) -> language_pb2.RunResponse:
        """Run the program for the engine."""
        return self.run(request)

    def run(self, request: language_pb2.RunRequest) -> language_pb2.RunResponse:
        """Run the program in its folder, which is first on the module path as for any script.

        Unlike the SDK's own method, it reports an error once, and without the frames of this module.
        """
        folder = request.info.program_directory
        os.chdir(folder)
        sys.path.insert(0, folder)
        reset_options(
            project=request.project,
            stack=request.stack,
            organization=request.organization,
            parallel=request.parallel,
            preview=request.dryRun,
            monitor_address=request.monitor_address,
            engine_address=self._engine_address,
        )
        set_all_config(dict(request.config), list(request.configSecretKeys))
        try:
            with asyncio.Runner() as runner:
                loop = runner.get_loop()
                # As many as in the SDK's method: each resource that is being registered takes one.
                loop.set_default_executor(ThreadPoolExecutor(max(request.parallel, 1) * 4))
                loop.set_task_factory(_create_task)
                runner.run(run_in_stack(lambda: _run(Path(folder) / "__main__.py")))
        except (pulumi.RunError, UserError) as error:
            pulumi.log.error(str(error))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:  # the code when the engine has given up
                pulumi.log.error(f"RPC error: {error.details()}")
        except BaseException as error:  # noqa: BLE001 - the program may raise anything
            pulumi.log.error(f"Program failed with an unhandled exception:\n{program_traceback(error)}")
        else:
            return language_pb2.RunResponse()
        return language_pb2.RunResponse(bail=True)


def _run(program: Path) -> None:
    if not program.exists():
        raise pulumi.RunError(f"{program} is missing, the project's program: restore it.")
    sys.argv = [str(program)]
    runpy.run_path(str(program), run_name="__main__")


def _create_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, _T],
    *,
    name: str | None = None,
    context: Context | None = None,
) -> asyncio.Task[_T]:
    """Return a task that stores the first traceback of an error in it.

    When several tasks wait for one result, asyncio raises the error with its full traceback only in the first.
    """

    async def with_origin() -> _T:
        try:
            return await coroutine
        except Exception as error:
            vars(error).setdefault(_ORIGIN, error.__traceback__)
            raise

    return asyncio.Task(with_origin(), loop=loop, name=name, context=context)


def program_traceback(error: BaseException) -> str:
    """Return the traceback of `error` from where it enters the program, or all of it if it never does.

    A syntax error names its place itself.
    """
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error))
    start: TracebackType | None = vars(error).get(_ORIGIN, error.__traceback__)
    entry = start
    while entry and entry.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        entry = entry.tb_next
    return "".join(traceback.format_exception(type(error), error, entry or start))


def main() -> None:
    """Serve the engine until it asks to exit."""
    service.exit_on_request()
    host = LanguageHost(sys.argv[-1])
    service.serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server))


if __name__ == "__main__":
    main()
