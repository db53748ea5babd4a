"""The deployment that the tests in this folder share, because it takes about a minute."""

from collections.abc import Iterator

import pytest

from tests.support import stress
from tests.support.checkout import Checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Yield a copy of the project, and stop its emulator at the end."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    yield checkout
    checkout.emulator.stop()


@pytest.fixture(scope="module")
def deployed(checkout: Checkout) -> Checkout:
    """Return the copy with the stack `local` deployed, and a visibility timeout that tests can wait for.

    It is deployed for each module, because the one before may have destroyed it; otherwise, nothing changes.
    """
    checkout.configure("messaging", "local", consumerTimeoutSeconds=2)
    deploy = checkout.run("deploy")
    assert deploy.returncode == 0, deploy.stdout + deploy.stderr
    return checkout


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Yield a copy of its own with the stack `local` deployed, for a module that compares plans with deployments."""
    checkout = Checkout(tmp_path_factory.mktemp("plan"))
    stress.finish(checkout, "deploy")
    yield checkout
    checkout.emulator.stop()
