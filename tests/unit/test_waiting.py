"""What a command says while it waits."""

from threading import Event

import pytest
from pulumi.automation import EngineEvent
from rich.console import Console

from tests.support.waiting import eventually
from xfarm import waiting
from xfarm.orchestrator.display import Display
from xfarm.waiting import announced


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SILENCE_S", 0.001)


def test_each_change_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    texts, read = iter(["", "for a", "for a", "", "for b"]), Event()

    def text() -> str:
        if (now := next(texts, None)) is None:
            read.set()
        return "for b" if now is None else now

    with announced(text):
        read.wait()
    assert capsys.readouterr().err == "for a\nfor b\n"


def test_nothing_is_printed_where_a_progress_bar_is(capsys: pytest.CaptureFixture[str]) -> None:
    def text() -> str:
        pytest.fail("this should not be called")

    with announced(text, unless=True):
        pass
    assert capsys.readouterr().err == ""


def test_a_deployment_without_a_terminal_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    step = {
        "op": "create",
        "urn": "urn:pulumi:dev::messaging::aws:sqs/queue:Queue::main-queue",
        "type": "aws:sqs/queue:Queue",
        "provider": "",
    }
    display = Display(Console(), "deploy")
    with display:
        display.start("messaging")
        display.event(
            "messaging", EngineEvent.from_json({"sequence": 1, "timestamp": 1, "resourcePreEvent": {"metadata": step}})
        )
        said: list[str] = []
        eventually(lambda: said.append(capsys.readouterr().err) or any(said))
    assert "".join(said) == "waiting for messaging main-queue\n"
