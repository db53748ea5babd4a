"""Reads the states of stacks, without a start of the Pulumi CLI if they are in a folder or an S3 bucket."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from xfarm.errors import UserError
from xfarm.orchestrator import scratch, stores
from xfarm.orchestrator.graph import dependencies, order
from xfarm.orchestrator.scratch import ENCRYPTED, Json, Outputs
from xfarm.paths import STACKS


def exports(stack: str) -> dict[str, Outputs | None]:
    """Return the outputs of each project's stack of this name; None for a stack that is not deployed.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    return outputs(states(stack))


def outputs(found: Mapping[str, Json | None]) -> dict[str, Outputs | None]:
    """Return the outputs in each project's state; None for a stack that is not deployed."""
    exported = {project: scratch.exported(state) for project, state in found.items()}
    return {project: None if values is None else readable(values) for project, values in exported.items()}


def states(stack: str, projects: Collection[str] | None = None) -> dict[str, Json | None]:
    """Return the state of each project's stack of this name, as `pulumi stack export` does; None if there is none.

    Args:
        stack: The name of the stacks.
        projects: The projects; by default all.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    projects = order(dependencies()) if projects is None else projects
    store = _store()

    def state(project: str) -> Json | None:
        if store:
            with suppress(LookupError):
                return _stored(store, project, stack)
        return _exported(project, stack)

    with ThreadPoolExecutor() as pool:
        return dict(zip(projects, pool.map(state, projects), strict=True))


def _store() -> stores.Store | None:
    """Return the backend, or None if only Pulumi can read it, or can say what is wrong with it."""
    store = stores.store(os.environ.get("PULUMI_BACKEND_URL", ""))
    if not store:
        return None
    try:
        # Pulumi refuses every other version, and the layout from before there were versions (`newDIYBackend` in
        # pulumi/pkg/backend/diy).
        version = store.read(".pulumi/meta.yaml")
        current = version.split() == ["version:", "1"] if version else not store.names(".pulumi/stacks")
    except OSError:
        return None
    return store if current else None


def _stored(store: stores.Store, project: str, stack: str) -> Json | None:
    """Return the state of a project's stack, or None if the stack doesn't exist.

    Args:
        store: The backend.
        project: The project.
        stack: The stack's name.

    Raises:
        LookupError: Only Pulumi can read the state, or it is damaged.
        UserError: AWS refuses.
    """
    path = f".pulumi/stacks/{project}/{stack}.json"
    try:
        # Pulumi reads the newest of these (`stackPath` in pulumi/pkg/backend/diy).
        if any(store.read(f"{path}.{compressed}") is not None for compressed in ("gz", "zst")):
            raise LookupError
        if (text := store.read(path)) is None:
            return None
        document = json.loads(text)
        return {"deployment": document.pop("checkpoint")["latest"], **document}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LookupError from error


def _exported(project: str, stack: str) -> Json | None:
    from pulumi.automation import CommandError, StackNotFoundError  # noqa: PLC0415 - slow to import

    from xfarm.orchestrator.engine import explain  # noqa: PLC0415
    from xfarm.orchestrator.pulumi_cli import PulumiCli  # noqa: PLC0415

    try:
        answer = PulumiCli().run(["stack", "export", "--stack", stack], str(STACKS / project), {})
    except StackNotFoundError:
        return None
    except CommandError as error:
        raise UserError(f"{project}: {explain(error)}.") from error
    return json.loads(answer.stdout)


def managed(resources: Iterable[Json]) -> int:
    """Return how many of the resources are in AWS: Pulumi's own, such as the stack, are not."""
    return sum(not resource["type"].startswith("pulumi:") for resource in resources)


def readable(outputs: Outputs) -> Outputs:
    """Return outputs as `pulumi stack output` shows them."""
    return {name: "[secret]" if ENCRYPTED in json.dumps(value) else value for name, value in outputs.items()}
