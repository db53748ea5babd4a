"""`pulumi-language-python` for machines that cannot download the official one: it runs a project's `__main__.py`.

Usage, by the engine: python -m local.toolchain.language_host [ENGINE_ADDRESS ...]
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pulumi import RunError
from pulumi.automation import _server
from pulumi.runtime.proto import language_pb2, language_pb2_grpc

from local.toolchain import service
from shared.errors import UserError

if TYPE_CHECKING:
    import grpc


class LanguageHost(_server.LanguageServer):
    """The SDK's own server for inline programs, with the program taken from the project's folder."""

    def __init__(self) -> None:
        super().__init__(lambda: None)

    def Run(self, request: language_pb2.RunRequest, context: grpc.ServicerContext) -> language_pb2.RunResponse:  # noqa: N802
        """Run the program once, in its folder, with that folder first on the module path as for any script."""
        folder = Path(request.info.program_directory)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        if request.args:
            pass
        self.program = lambda: _run(folder / "__main__.py")
        return super().Run(request, context)


def _run(program: Path) -> None:
    try:
        runpy.run_path(str(program), run_name="__main__")
    except (RunError, UserError) as error:
        raise RunError(str(error)) from error


def main() -> None:
    """Serve the engine until it says that it's done."""
    service.end_at_once_when_told()
    host = LanguageHost()
    service.serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server))


if __name__ == "__main__":
    main()
