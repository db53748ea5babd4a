"""A resource of a new type needs only its declaration in the stack."""

from collections.abc import Iterator

import pytest

from tests.support.checkout import Checkout

TABLE = """
aws.dynamodb.Table(
    "table",
    name="added",
    billing_mode="PAY_PER_REQUEST",
    hash_key="key",
    attributes=[{"name": "key", "type": "S"}],
    tags=tags(),
)
"""


@pytest.fixture
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("added"))
    yield checkout
    checkout.emulator.stop()


def test_a_resource_is_created_with_its_declaration_and_deleted_without_it(checkout: Checkout) -> None:
    def run(command: str, *arguments: str) -> str:
        done = checkout.run(command, "--only", "storage", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    def tables() -> list[str]:
        return checkout.client("dynamodb").list_tables()["TableNames"]

    program = checkout.root / "stacks" / "storage" / "__main__.py"
    before = program.read_text(encoding="utf-8")
    assert "dynamodb" not in "".join(stack.read_text("utf-8") for stack in program.parents[1].rglob("*.py"))
    program.write_text(before + TABLE, encoding="utf-8")
    run("deploy")
    assert tables() == ["added"]
    for refresh in ((), ("--refresh",)):
        assert "storage no change" in run("preview", *refresh)
    # Now the type is only in the state.
    program.write_text(before, encoding="utf-8")
    run("deploy")
    assert tables() == []
    program.write_text(before + TABLE, encoding="utf-8")
    run("deploy")
    run("destroy")
    assert tables() == []
