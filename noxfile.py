"""What can be done here: `nox -l` lists it, `nox -s NAME -- ARGUMENTS` does it."""

import sys

import nox

nox.needs_version = ">=2026.4"
# Pulumi runs the stacks' programs with the Python that runs nox: one environment serves both.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]


def run(session: nox.Session, module: str, *arguments: str) -> None:
    """Run a package of this project; Ctrl-C is its own business, as it knows where it is safe to stop."""
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
        run(session, "local", "hints")


@nox.session
def deploy(session: nox.Session) -> None:
    """Create or update the stacks, each after those it needs: [STACK] [--yes]."""
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
def outputs(session: nox.Session) -> None:
    """Show what the stacks export: [STACK] [--json]."""
    run(session, "orchestrator", "outputs", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Check everything: format, lint, types, unit tests, then deployments on the embedded AWS."""
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("pyrefly", "check")
    session.run("pytest", *session.posargs)
