"""A deployment does what its plan shows, on small stacks; `nox -s stress` makes many more changes."""

import pytest

from tests.support.planned import KINDS, check, small


def test_a_deployment_does_what_its_plan_shows(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Test each kind of change, mostly in the stack that all others need."""
    with small(tmp_path_factory.mktemp("planned"), seed=7) as (checkout, stacks, counts):
        for kind in KINDS:
            name, options = stacks.change(kind, "beta" if kind == "destroyed" else "alpha")
            check(checkout, counts, name, *options)
        print(counts)
        assert counts.mismatches == []
        assert counts.changes == len(KINDS) + 1
        assert counts.steps > len(KINDS)
