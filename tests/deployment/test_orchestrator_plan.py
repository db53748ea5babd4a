"""A deployment does what the preview before it has shown, on small stacks: `nox -s stress` tries many more changes."""

import pytest

from tests.support.planned import KINDS, check, small


def test_a_deployment_does_what_was_shown_of_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All kinds of changes, each to the stack that the others need, and some further down."""
    with small(tmp_path_factory.mktemp("planned"), seed=7) as (checkout, stacks, counts):
        for kind in KINDS:
            name, options = stacks.change(kind, "beta" if kind == "destroyed" else "alpha")
            check(checkout, counts, name, *options)
        print(counts)
        assert counts.mismatches == []
        assert counts.changes == len(KINDS) + 1
        assert counts.steps > len(KINDS)
