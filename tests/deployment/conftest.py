"""The deployments that tests of this folder share, as each takes about a minute."""

from collections.abc import Iterator

import pytest

from tests.support.checkout import Checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A copy of the project whose emulator is stopped in the end."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    yield checkout
    checkout.emulator.stop()


@pytest.fixture(scope="module")
def deployed(checkout: Checkout) -> Checkout:
    """The copy, with its stacks deployed as `local`, and a visibility timeout that tests can wait for.

    For each module anew, as the one before may have destroyed it; where it did not, there is nothing to change.
    """
    checkout.configure("messaging", "local", consumerTimeoutSeconds=2)
    deploy = checkout.run("deploy")
    assert deploy.returncode == 0, deploy.stdout + deploy.stderr
    return checkout
