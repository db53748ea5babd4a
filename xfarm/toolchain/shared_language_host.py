"""One language host for all engines of a checkout, which attach to it instead of each starting its own.

Most of a small program's time is the import of Pulumi's SDK. This host imports it once, with the given services of AWS,
and forks for each program.

Usage: python -m xfarm.toolchain.shared_language_host [SERVICE ...] USERS OWNER
It prints its port, and ends when the file USERS has not been locked for some minutes, or OWNER is no longer locked.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pulumi.automation._server import LanguageServer
from pulumi.runtime.proto import language_pb2, language_pb2_grpc
from typing_extensions import override

from xfarm.file_locks import wait_until_free
from xfarm.toolchain import service
from xfarm.toolchain.sharing import Engines

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import grpc

_forks: Final = multiprocessing.get_context("forkserver")


class SharedLanguageHost(LanguageServer):
    """A language host that runs each program in a process of its own."""

    def __init__(self, engines: Engines) -> None:
        super().__init__(lambda: None)
        self._engines = engines

    @override
    def Handshake(
        self, request: language_pb2.LanguageHandshakeRequest, context: grpc.ServicerContext
    ) -> language_pb2.LanguageHandshakeResponse:
        """Attach an engine."""
        self._engines.attach(context.peer(), request.engine_address)
        return language_pb2.LanguageHandshakeResponse()

    @override
    def Run(self, request: language_pb2.RunRequest, context: grpc.ServicerContext) -> language_pb2.RunResponse:
        """Run a program, and pass on what it prints to its engine."""
        output, output_end = _forks.Pipe(duplex=False)
        answer, answer_end = _forks.Pipe(duplex=False)
        engine = self._engines.address(context.peer())
        program = _forks.Process(target=_run, args=(request.SerializeToString(), engine, output_end, answer_end))
        program.start()
        output_end.close()
        answer_end.close()
        if not context.add_callback(program.kill):  # the call has ended already
            program.kill()
        with open(output.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
            for line in lines:
                self._engines.log(context.peer(), line.rstrip("\n"))
        program.join()
        try:
            return language_pb2.RunResponse.FromString(answer.recv_bytes())
        except EOFError:
            if context.is_active():  # otherwise the engine failed, and ended this call and so the program
                message = f"The program's process ended with exit code {program.exitcode}."
                self._engines.log(context.peer(), message, error=True)
            return language_pb2.RunResponse(bail=True)


def _run(request: bytes, engine: str, output: Connection, answer: Connection) -> None:
    """Run a program in this process, which was forked for it."""
    from xfarm.toolchain.language_host import LanguageHost  # noqa: PLC0415 - imported already, before the fork

    for descriptor in (sys.__stdout__, sys.__stderr__):
        os.dup2(output.fileno(), descriptor.fileno() if descriptor else 1)
    output.close()
    response = LanguageHost(engine).run(language_pb2.RunRequest.FromString(request))
    sys.stdout.flush()
    answer.send_bytes(response.SerializeToString())


def _kill_programs() -> None:
    for program in multiprocessing.active_children():
        program.kill()


def main() -> None:
    """Serve all engines that attach, until asked to exit."""
    *services, users, owner = sys.argv[1:]
    os.environ[service.SERVICES] = " ".join(services)
    os.chdir("/")  # each fork asks for the working directory, and that of the command may be deleted
    _forks.set_forkserver_preload(["xfarm.toolchain.preloaded"])
    forkserver.ensure_running()
    engines = Engines()
    service.exit_on_request(
        _kill_programs, lambda: engines.wait_until_unused(Path(users)), lambda: wait_until_free(Path(owner))
    )
    host = SharedLanguageHost(engines)
    service.serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server))


if __name__ == "__main__":
    main()
