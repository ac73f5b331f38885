"""How many frames are in flight, on pipelines that are reckoned out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from stages.pace import QUEUE_S, Pace


class Line:
    """A pipeline that is full all the time: a step that takes `slowest_s(now)` for each frame, and others that take
    `rest_s` together."""

    def __init__(self, pace: Pace, slowest_s: Callable[[float], float], rest_s: float) -> None:
        self.pace = pace
        self._slowest_s, self._rest_s = slowest_s, rest_s
        self._away: deque[tuple[float, float]] = deque()
        self.waited: list[tuple[float, float]] = []
        self.answered = 0

    def run(self, until_s: float) -> None:
        now_s = free_s = 0.0
        while now_s < until_s:
            while len(self._away) < self.pace.frames:
                free_s = max(free_s, now_s) + self._slowest_s(now_s)
                self._away.append((now_s, free_s + self._rest_s))
            sent_s, now_s = self._away.popleft()
            self.pace.answered(sent_s=sent_s, now_s=now_s)
            self.waited.append((now_s, now_s - sent_s - self._slowest_s(sent_s) - self._rest_s))
            self.answered += 1


@pytest.mark.parametrize(("slowest_s", "rest_s", "first"), [(1.5, 7.0, 8), (0.5, 2.0, 5), (0.2, 0.2, 2), (1.5, 0.0, 2)])
def test_a_slow_step_is_always_busy_and_little_waits_before_it(slowest_s: float, rest_s: float, first: int) -> None:
    line = Line(Pace(first=first, most=80), lambda _: slowest_s, rest_s)
    line.run(600.0)
    assert line.answered >= 0.97 * 600 / slowest_s
    assert max(waited for _, waited in line.waited) <= 2 * (QUEUE_S + slowest_s + rest_s)
    assert max(waited for now_s, waited in line.waited if now_s > 100) <= QUEUE_S + 3 * slowest_s


def test_a_quick_pipeline_takes_all_that_may_be_in_flight_within_a_few_round_trips() -> None:
    line = Line(Pace(first=5, most=256), lambda _: 1e-4, 5e-3)
    line.run(0.2)
    assert line.pace.frames == 256


def test_after_a_pause_there_is_soon_as_much_in_flight_as_before() -> None:
    line = Line(Pace(first=5, most=64), lambda now_s: 5.0 if 1.0 < now_s < 1.1 else 1e-2, 1e-2)
    line.run(400.0)
    assert line.pace.frames == 64


def test_a_step_that_becomes_slow_has_no_more_than_the_first_number_of_frames_before_it_or_little_to_wait() -> None:
    line = Line(Pace(first=4, most=64), lambda now_s: 0.01 if now_s < 20 else 1.0, 0.05)
    line.run(300.0)
    assert line.pace.frames == 4


def test_there_are_never_more_than_most() -> None:
    assert Pace(first=9, most=4).frames == 4
