"""An AWS that throttles, fails and is slow; and deployments of a part of the stacks."""

import json
import threading
import time
from collections import Counter
from http import HTTPStatus

from tests.support import stress
from tests.support.checkout import COMMAND_TIMEOUT_S, Checkout
from tests.support.faulty_aws import FaultyAws, Habit, Request

pytest_plugins = ("tests.support.small_stacks",)


def outcomes(printed: str) -> dict[str, tuple[str, dict[str, int]]]:
    """Return what a command that answers in JSON says of each project: the outcome, and the changes."""
    return {report["project"]: (report["outcome"], report["changes"]) for report in json.loads(printed)}


def test_what_is_throttled_or_fails_now_and_then_is_asked_again(small: Checkout, faulty: FaultyAws) -> None:
    asked: Counter[str] = Counter()

    def refuse(action: str) -> tuple[int, str] | None:
        asked[action] += 1
        return {1: (400, "Throttling"), 2: (500, "InternalFailure")}.get(asked[action])

    def slowly(_action: str) -> None:
        time.sleep(0.1)

    faulty.refuse, faulty.delay = refuse, slowly
    assert "failed" not in stress.finish(small, "deploy")
    assert asked["CreateRole"] == 3


def test_what_aws_goes_on_refusing_is_told_and_done_by_the_next_run(small: Checkout, faulty: FaultyAws) -> None:
    others = {"PutRolePolicy", "AttachRolePolicy", "CreateLogGroup", "POST /2015-03-31/functions"}
    all_begun = threading.Event()

    def refuse(action: str) -> tuple[int, str] | None:
        others.discard(action)
        if not others:
            all_begun.set()
        if action != "PutMetricAlarm":
            return None
        # After a failure, the engine begins no other step.
        assert all_begun.wait(COMMAND_TIMEOUT_S)
        return (500, "InternalFailure")

    faulty.refuse = refuse
    failed = small.run("deploy", "--json")
    assert failed.returncode == 1
    assert "alpha alarm" in failed.stderr
    assert "InternalFailure" in failed.stderr
    assert "alpha failed: see the errors above." in failed.stderr
    assert outcomes(failed.stdout) == {"alpha": ("failed", {"create": 7}), "beta": ("left out", {})}

    faulty.reset()
    finished = stress.finish(small, "deploy", "--json")
    assert outcomes(finished) == {"alpha": ("done", {"create": 1, "same": 7}), "beta": ("done", {"create": 1})}


class LostCreation(Habit):
    """Create a log group, and lose the response; the provider's next attempt finds the group."""

    def after(self, request: Request, status: int) -> bool:
        created = request.action == "CreateLogGroup" and status == HTTPStatus.OK
        self.occurrences += created
        return created and self.occurrences == 1


def test_a_creation_whose_response_was_lost_is_reported_as_planned(small: Checkout, faulty: FaultyAws) -> None:
    faulty.habits = [LostCreation(small.client)]
    done = stress.finish(small, "deploy", "--json")
    assert outcomes(done) == {"alpha": ("done", {"create": 8}), "beta": ("done", {"create": 1})}
    assert faulty.habits[0].occurrences == 2


def refusal(checkout: Checkout, *arguments: str, code: int = 1) -> str:
    """Return the one sentence with which a command is refused."""
    done = checkout.run(*arguments)
    assert done.returncode == code
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return sentence.removeprefix("error: ")


def test_only_the_part_that_is_named_is_touched_and_none_that_would_leave_a_gap(small: Checkout) -> None:
    wanted = "'beta' can't be deployed because it needs 'alpha', which is not deployed: deploy 'alpha' first."
    assert refusal(small, "deploy", "--only", "beta") == wanted
    assert refusal(small, "deploy", "--from", "beta") == wanted
    wanted = "there is no project 'gamma': choose one of alpha, beta."
    assert refusal(small, "deploy", "--only", "gamma", code=2) == wanted
    assert not stress.left(small)

    assert outcomes(stress.finish(small, "deploy", "--only", "alpha", "--json")) == {"alpha": ("done", {"create": 8})}
    assert outcomes(stress.finish(small, "deploy", "--from", "beta", "--json")) == {"beta": ("done", {"create": 1})}

    there = stress.contents(small)
    wanted = "'alpha' can't be destroyed because 'beta' needs it and is still deployed: destroy 'beta' first."
    assert refusal(small, "destroy", "--only", "alpha") == wanted
    assert stress.contents(small) == there

    assert outcomes(stress.finish(small, "destroy", "--only", "beta", "--json")) == {"beta": ("done", {"delete": 1})}
    assert outcomes(stress.finish(small, "destroy", "--from", "alpha", "--json")) == {
        "beta": ("done", {}),
        "alpha": ("done", {"delete": 8}),
    }
