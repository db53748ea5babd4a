"""The architecture picture shows what the programs declare."""

import re

from tests.support import stack_program
from tests.support.stack_program import Program
from tools import picture


def test_the_picture_in_the_repository_is_current() -> None:
    committed = picture.PICTURE.read_text(encoding="utf-8")
    assert committed == picture.draw(), "the stacks have changed: regenerate docs/architecture.svg with nox -s picture"


def test_the_picture_has_the_name_of_every_resource() -> None:
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture.draw())
    for project in ("storage", "messaging", "compute"):
        for name in stack_program.run(project, upstream=stack_program.UPSTREAM).resources:
            assert [text for text in texts if text.split(",")[0] == name]


def test_indirect_dependencies_are_left_out_and_similar_resources_are_one_box() -> None:
    policy = "aws:sqs/queuePolicy:QueuePolicy"
    program = Program(
        resources={"queue": {"name": "Q"}, "one": {}, "other": {}, "last": {}},
        types={"queue": "aws:sqs/queue:Queue", "one": policy, "other": policy, "last": "aws:sns/topic:Topic"},
        dependencies={"one": ["queue"], "other": ["queue"], "last": ["one", "other", "queue"]},
    )
    boxes, edges = picture.contents(program)
    assert boxes["one"].lines == ("one", "other", "sqs.QueuePolicy")
    assert boxes.keys() == {"queue", "one", "last"}
    assert edges == {("queue", "one"), ("one", "last")}
