"""The project's commands: `nox -l` lists them, `nox -s NAME -- ARGUMENTS` runs one."""

import sys
from importlib.util import find_spec

import nox

if find_spec("xfarm") is None:
    sys.exit("error: this is the nox of another environment: run .venv/bin/nox, as the README says.")

from xfarm.cli import xfarm

nox.needs_version = ">=2026.4"
# Pulumi runs the stacks' programs with the Python that runs nox: one environment serves both.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]


def run(session: nox.Session, module: str, *arguments: str) -> None:
    """Run a Python module, and leave Ctrl-C to it: it knows when it is safe to stop."""
    session.run(sys.executable, "-m", module, *arguments, interrupt_timeout=None, external=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Deploy the stacks on an AWS emulator and send files through them (-- --destroy only removes them again)."""
    if "--destroy" in session.posargs:
        run(session, "xfarm", "destroy", "local")
        run(session, "xfarm", "emulator", "stop")
    else:
        run(session, "xfarm", "deploy", "local")
        run(session, "xfarm", "send", "local", "examples")
        session.log("It keeps running: `xfarm --help` lists what you can do; `xfarm send FILE` sends a file of yours,")
        session.log("`xfarm deploy` applies what you change, and `nox -s demo -- --destroy` removes everything.")


def command(name: str, text: str) -> None:
    """Make `nox -s NAME -- ARGUMENTS` do what `xfarm NAME ARGUMENTS` does."""

    def session(session: nox.Session) -> None:
        with session.chdir(session.invoked_from):  # nox changes it, and file names may be relative
            run(session, "xfarm", name, *session.posargs)

    session.__doc__ = text
    nox.session(name=name)(session)


for each in xfarm.commands.values():
    command(each.name or "", each.get_short_help_str(limit=100))


@nox.session
def picture(session: nox.Session) -> None:
    """Regenerate docs/architecture.svg, after a change of what the stacks declare."""
    run(session, "tools.picture", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure: [deployment] [pipeline] [files] [contents] [growth] [audit], all by default; or [large]."""
    run(session, "benchmarks", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Run property tests at length, and kill deployments at random points, which must then complete: [SEEDS]."""
    run(session, "pytest", "tests/unit", "-m", "hypothesis", "--hypothesis-profile", "stress")
    for path in ("test_interrupted.py", "pipeline/test_killed.py", "pipeline/test_keys.py"):
        run(session, "pytest", "-s", f"tests/emulator/{path}", "--hypothesis-profile", "stress")
    run(session, "tests.support.planned")
    run(session, "tests.support.stress", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Check everything: format, lint, types, then the tests of all three tiers: [PYTEST ARGUMENTS]."""
    run(session, "ruff", "format", "--check", ".")
    run(session, "ruff", "check", ".")
    run(session, "pyrefly", "check")
    if session.posargs:
        run(session, "pytest", *session.posargs)
    else:
        run(session, "pytest", "tests/unit", "-n", "2")
        # Mostly waiting: for the provider, for queues. Each file has an emulator and a port of its own. In this order,
        # the files that take longest do not come last.
        options = ("-n", "6", "--dist", "loadfile", "--no-loadscope-reorder")
        run(session, "pytest", "tests/deployment", "tests/emulator", *options)
