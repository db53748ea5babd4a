"""What can be done here: `nox -l` lists it, `nox -s NAME -- ARGUMENTS` does it."""

import sys

import nox

nox.needs_version = ">=2026.4"
# Pulumi runs the stacks' programs with the Python that runs nox: one environment serves both.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]


def run(session: nox.Session, module: str, *arguments: str) -> None:
    """Run a Python module; Ctrl-C is its own business, as it knows where it is safe to stop."""
    session.run(sys.executable, "-m", module, *arguments, interrupt_timeout=None, external=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Deploy the stacks on an embedded AWS and send files through them (-- --destroy takes them away again)."""
    run(session, "orchestrator", "deploy", "local")
    run(session, "operations", "send", "local", "examples")
    if "--destroy" in session.posargs:
        run(session, "orchestrator", "destroy", "local")
        run(session, "local", "stop")
    else:
        session.log("It is left running: `nox -l` lists what you can do; `nox -s send -- FILE` sends a file of yours,")
        session.log("`nox -s deploy` applies what you change, and `nox -s demo -- --destroy` takes everything away.")


@nox.session
def bootstrap(session: nox.Session) -> None:
    """Prepare, once, the bucket in which an AWS account keeps the stacks' state: STACK."""
    run(session, "orchestrator", "bootstrap", *session.posargs)


@nox.session
def deploy(session: nox.Session) -> None:
    """Create or update the stacks, each after those it needs: [STACK] [--only PROJECT] [--yes]."""
    run(session, "orchestrator", "deploy", *session.posargs)


@nox.session
def preview(session: nox.Session) -> None:
    """Show what deploy would do: [STACK] [--refresh]."""
    run(session, "orchestrator", "preview", *session.posargs)


@nox.session
def destroy(session: nox.Session) -> None:
    """Delete the stacks and all that is in them, each before those it needs: [STACK] [--yes]."""
    run(session, "orchestrator", "destroy", *session.posargs)


@nox.session
def drift(session: nox.Session) -> None:
    """Show what was changed by hand, exit code 1 where anything was: [STACK]."""
    run(session, "orchestrator", "drift", *session.posargs)


@nox.session
def outputs(session: nox.Session) -> None:
    """Show what the stacks export: [STACK] [--json]."""
    run(session, "orchestrator", "outputs", *session.posargs)


@nox.session
def send(session: nox.Session) -> None:
    """Upload files or folders and follow each to its result: [STACK] FILE..."""
    run(session, "operations", "send", *session.posargs)


@nox.session
def status(session: nox.Session) -> None:
    """Show what is deployed, what waits and what is dead: [STACK] [--json]."""
    run(session, "operations", "status", *session.posargs)


@nox.session
def watch(session: nox.Session) -> None:
    """Show it all on a page of this machine, where files can be dropped: [STACK] [--port PORT]."""
    run(session, "watch", *session.posargs)


@nox.session(name="dead-letters")
def dead_letters(session: nox.Session) -> None:
    """Show what could not be processed, and why: [STACK] [--json]."""
    run(session, "operations", "dead-letters", *session.posargs)


@nox.session
def redrive(session: nox.Session) -> None:
    """Put the dead letters back into the main queue: [STACK]."""
    run(session, "operations", "redrive", *session.posargs)


@nox.session
def picture(session: nox.Session) -> None:
    """Draw docs/architecture.svg anew, after a change of what the stacks declare."""
    run(session, "docs.picture", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure deployments beside a peer's, files and growth: [deployment] [pipeline] [contents] [files] [growth]."""
    run(session, "benchmarks", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Kill deployments at random points, and see that the same command again ends them well: [SEEDS]."""
    run(session, "tests.stress", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Check everything: format, lint, types, unit tests, then deployments on the embedded AWS: [PYTEST ARGUMENTS]."""
    run(session, "ruff", "format", "--check", ".")
    run(session, "ruff", "check", ".")
    run(session, "pyrefly", "check")
    if session.posargs:
        run(session, "pytest", *session.posargs)
    else:
        run(session, "pytest", "tests/unit")
        run(session, "pytest", "tests", "--ignore", "tests/unit")
