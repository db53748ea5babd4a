"""What is deployed is what docs/architecture.svg is drawn from."""

import json

import pytest

from tests.checkout import Checkout
from tests.unit import stack_program


@pytest.mark.parametrize("project", ["storage", "messaging", "compute"])
def test_a_deployed_stack_depends_on_what_the_picture_is_drawn_from(deployed: Checkout, project: str) -> None:
    path = deployed.root / ".local" / "state" / ".pulumi" / "stacks" / project / "local.json"
    state = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]["latest"]["resources"]
    found = {
        resource["urn"].rpartition("::")[2]: sorted(urn.rpartition("::")[2] for urn in resource.get("dependencies", []))
        for resource in state
        if resource["type"].startswith("aws:")
    }
    program = stack_program.run(project, upstream=stack_program.UPSTREAM)
    declared = {
        name: sorted(needed.replace("/dev", "/local") for needed in program.dependencies[name])
        for name in program.types
    }
    assert found == declared
