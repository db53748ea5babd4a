"""What the benchmarks make of the times at which processes began and ended."""

import pytest

from benchmarks.growth import Interval, covered, most_at_once


@pytest.mark.parametrize(
    ("times", "nanoseconds", "at_once"),
    [
        ([], 0, 0),
        ([(5, 9)], 4, 1),
        ([(1, 3), (7, 9)], 4, 1),  # apart
        ([(1, 3), (3, 9)], 8, 1),  # one after the other
        ([(1, 5), (3, 9)], 8, 2),  # overlapping
        ([(1, 9), (3, 5), (6, 8)], 8, 2),  # within another
        ([(7, 9), (1, 3), (2, 8)], 8, 2),  # in no order
        ([(1, 4), (2, 5), (3, 6)], 5, 3),
    ],
)
def test_intervals_are_counted_once_where_they_overlap(
    times: list[tuple[int, int]], nanoseconds: int, at_once: int
) -> None:
    intervals = [Interval(begun, ended) for begun, ended in times]
    assert covered(intervals) == nanoseconds
    assert most_at_once(intervals) == at_once


@pytest.mark.parametrize(
    ("arguments", "updates"),
    [
        ("--non-interactive up --yes --stack local", True),
        ("--non-interactive destroy --yes --stack local", True),
        ("--non-interactive stack export --stack local", False),
        ("version", False),
    ],
)
def test_updates_are_told_from_questions(arguments: str, *, updates: bool) -> None:
    assert Interval(0, 1, arguments).updates is updates
