"""The page's command line."""

import re
from typing import Any

import pytest

from operations.pipeline import Pipeline
from orchestrator import targets
from watch import __main__ as command


@pytest.mark.parametrize(("stack", "writable"), [("local", True), ("dev", False)])
def test_only_the_embedded_aws_may_be_changed_from_the_page(
    stack: str, *, writable: bool, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []
    given: dict[str, Any] = {}

    def enter(stack: str, **_: object) -> None:
        entered.append(stack)

    async def serve(live: object, **options: object) -> None:
        given.update(options, live=live)

    monkeypatch.setattr(targets, "enter", enter)
    monkeypatch.setattr(command, "exports", lambda _: {})  # pyrefly: ignore[implicit-any-lambda]
    monkeypatch.setattr(command, "deployed", lambda *_: pipeline)  # pyrefly: ignore[implicit-any-lambda]
    monkeypatch.setattr(command, "serve", serve)
    assert command.main([stack, "--port", "1234"]) == 0
    assert entered == [stack]
    assert (given["writable"], given["port"], given["live"].pipeline) == (writable, 1234, pipeline)


def test_an_unknown_stack_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nowhere"]) == 1
    assert re.fullmatch(r"error: there is no stack 'nowhere', only .*\n", capsys.readouterr().err)
