"""The figures that the benchmarks compute from the start and end of processes."""

import pytest

from benchmarks.growth import Interval, most_at_once, total_time


@pytest.mark.parametrize(
    ("times", "nanoseconds", "at_once"),
    [
        ([], 0, 0),
        ([(5, 9)], 4, 1),
        ([(1, 3), (7, 9)], 4, 1),  # separate
        ([(1, 3), (3, 9)], 8, 1),  # one after the other
        ([(1, 5), (3, 9)], 8, 2),  # overlapping
        ([(1, 9), (3, 5), (6, 8)], 8, 2),  # nested
        ([(7, 9), (1, 3), (2, 8)], 8, 2),  # not sorted
        ([(1, 4), (2, 5), (3, 6)], 5, 3),
    ],
)
def test_overlapping_intervals_are_counted_once(times: list[tuple[int, int]], nanoseconds: int, at_once: int) -> None:
    intervals = [Interval(start, end) for start, end in times]
    assert total_time(intervals) == nanoseconds
    assert most_at_once(intervals) == at_once


@pytest.mark.parametrize(
    ("arguments", "is_update"),
    [
        ("--non-interactive up --yes --stack local", True),
        ("--non-interactive destroy --yes --stack local", True),
        ("--non-interactive stack export --stack local", False),
        ("version", False),
    ],
)
def test_updates_are_recognized_by_their_arguments(arguments: str, *, is_update: bool) -> None:
    assert Interval(0, 1, arguments).is_update is is_update
