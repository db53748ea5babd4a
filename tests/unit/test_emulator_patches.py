"""Fixes are applied to functions that exist."""

from types import SimpleNamespace

import pytest

from xfarm.emulator.patches import patch


def test_a_function_is_replaced() -> None:
    service = SimpleNamespace(answer=lambda: "ministack's")

    @patch(service, "answer")
    def answer() -> str:
        return "AWS's"

    assert service.answer() == answer() == "AWS's"


def test_a_fix_of_a_function_that_this_version_does_not_have_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'renamed'"):
        patch(SimpleNamespace(), "renamed")(print)
