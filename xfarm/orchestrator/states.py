"""Reads the states of stacks, without a start of the Pulumi CLI if they are in a folder."""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from xfarm.errors import UserError
from xfarm.orchestrator import scratch
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


def states(stack: str) -> dict[str, Json | None]:
    """Return the state of each project's stack of this name, as `pulumi stack export` does; None if there is none.

    Raises:
        UserError: The stacks' state can't be reached.
    """
    projects = order(dependencies())
    with ThreadPoolExecutor() as pool:
        return dict(zip(projects, pool.map(partial(state, stack), projects), strict=True))


def state(stack: str, project: str) -> Json | None:
    """Return the state of one project's stack.

    Raises:
        UserError: The state can't be reached.
    """
    with suppress(LookupError):
        return stored(project, stack)
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


def stored(project: str, stack: str) -> Json | None:
    """Return what `pulumi stack export` would, from a backend that is a folder; None if the stack doesn't exist.

    Raises:
        LookupError: The backend is no folder, or the file is not as expected.
    """
    url = urlsplit(os.environ.get("PULUMI_BACKEND_URL", ""))
    if url.scheme != "file":
        raise LookupError(url.scheme)
    try:
        path = Path(url2pathname(url.path)) / ".pulumi" / "stacks" / project / f"{stack}.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        latest = document.pop("checkpoint")["latest"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LookupError(str(error)) from error
    return {**document, "deployment": latest}


def readable(outputs: Outputs) -> Outputs:
    """Return outputs as `pulumi stack output` shows them."""
    return {name: "[secret]" if ENCRYPTED in json.dumps(value) else value for name, value in outputs.items()}
