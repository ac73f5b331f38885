"""When a frame is sent again, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from stages.patience import Patience

LEAST_S = 5.0


@dataclass
class Frame:
    number: int
    sent_s: float
    attempts: int = 1
    once: bool = True


class Line:
    """A sender that keeps `window` frames under way over a pipeline that answers in order, and looks every half second
    for what is lost. `seconds_of(number)`: a frame's answer comes so long after the one before."""

    def __init__(self, window: int, *, first_s: float, seconds_of: Callable[[int], float]) -> None:
        self.patience = Patience(LEAST_S, most_doublings=3)
        self.away: list[Frame] = []
        self.again: list[int] = []
        self.answered = 0
        self._window, self._first_s, self._seconds_of = window, first_s, seconds_of

    def run(self, until_s: float) -> None:
        now_s, sent, back_s = 0.0, 0, self._first_s
        while now_s < until_s:
            while len(self.away) < self._window:
                self.away.append(Frame(sent, now_s))
                sent += 1
            while back_s <= now_s:
                self.patience.answered(self.away.pop(0), now_s)
                self.answered += 1
                back_s += self._seconds_of(self.answered)
            self.again += [frame.number for frame in look(self.patience, self.away, now_s)]
            now_s += 0.5


def look(patience: Patience, away: list[Frame], now_s: float) -> list[Frame]:
    lost = patience.lost(away, now_s)
    for frame in lost:
        frame.sent_s, frame.once = now_s, False
        frame.attempts += 1
    return lost


def burst(count: int, at_s: float = 0.0) -> list[Frame]:
    return [Frame(number, at_s) for number in range(count)]


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.number for frame in frames]


def looks(patience: Patience, away: list[Frame], until_s: float, since_s: float = 0.0) -> dict[float, list[int]]:
    """What is sent again, by when."""
    found = {}
    for tick in range(int(2 * since_s) + 1, int(2 * until_s) + 1):
        if lost := numbers(look(patience, away, tick / 2)):
            found[tick / 2] = lost
    return found


def test_a_frame_that_is_alone_is_sent_again_after_twice_as_long_each_time_up_to_a_bound() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    assert list(looks(patience, burst(1), 160.0)) == [5.0, 15.0, 35.0, 75.0, 115.0, 155.0]
    assert patience.in_all_s == 75.0


def test_while_nothing_is_back_the_oldest_frame_alone_is_sent_again() -> None:
    sent_again = looks(Patience(LEAST_S, most_doublings=3), burst(64), 70.0)
    assert sent_again == {5.0: [0], 15.0: [0], 35.0: [0]}


@pytest.mark.parametrize("first_s", [1.0, 4.0, 9.0, 31.0])
def test_a_window_that_a_slow_link_carries_for_much_longer_than_the_least_is_not_sent_twice(first_s: float) -> None:
    line = Line(64, first_s=first_s, seconds_of=lambda _: 0.5)
    line.run(300.0)
    assert line.answered > 500
    assert set(line.again) <= {0}
    assert len(line.again) <= 2


def test_one_frame_at_a_time_on_a_slow_link_is_soon_sent_once_only() -> None:
    line = Line(1, first_s=12.0, seconds_of=lambda _: 12.0)
    line.run(600.0)
    assert line.answered >= 40
    assert set(line.again) <= {0, 1}


def test_a_pipeline_that_becomes_slower_by_and_by_is_followed() -> None:
    line = Line(20, first_s=0.5, seconds_of=lambda number: 0.5 * (1 + number // 40))
    line.run(600.0)
    assert line.answered > 250
    assert line.again == []


def test_a_quick_pipeline_keeps_the_least_patience() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    for number in range(100):
        patience.answered(Frame(number, number / 100), number / 100 + 0.01)
    assert patience.seconds == LEAST_S


def test_patience_is_the_mean_and_four_deviations_of_what_was_measured() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    patience.answered(Frame(0, 0.0), 8.0)
    assert patience.seconds == 8.0 + 4 * 4.0
    patience.answered(Frame(1, 8.0), 24.0)
    assert patience.seconds == 8.0 + 8.0 / 8 + 4 * (4.0 + (8.0 - 4.0) / 4)


def test_the_answer_of_a_frame_that_was_sent_twice_measures_nothing_and_leaves_patience_as_long_as_it_is() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    away = burst(1)
    assert numbers(look(patience, away, 5.0)) == [0]
    patience.answered(away[0], 9.0)
    assert patience.seconds == 2 * LEAST_S
    patience.answered(Frame(1, 9.0), 9.5)
    assert patience.seconds == LEAST_S


def test_a_frame_that_a_later_one_overtook_is_sent_again_when_it_is_late() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    away = [Frame(0, 0.0)]
    patience.answered(Frame(1, 0.5), 1.0)
    assert look(patience, away, 4.5) == []
    assert numbers(look(patience, away, 5.0)) == [0]
    patience.answered(Frame(3, 5.5), 6.0)
    assert look(patience, away, 14.5) == []
    assert numbers(look(patience, away, 15.0)) == [0]


def test_all_that_was_lost_without_a_word_is_sent_again_when_the_probe_is_back_and_nothing_follows() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    away = burst(64)
    assert looks(patience, away, 5.0) == {5.0: [0]}
    patience.answered(away.pop(0), 5.5)
    away.append(Frame(64, 5.5))
    assert looks(patience, away, 12.0, since_s=5.5) == {11.0: list(range(1, 64))}


def test_frames_that_follow_a_probe_are_not_sent_again() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    away = burst(64)
    assert looks(patience, away, 9.0) == {5.0: [0]}
    patience.answered(away.pop(0), 9.0)
    patience.answered(away.pop(0), 13.0)
    assert looks(patience, away, 20.0, since_s=13.0) == {}


def test_after_all_was_sent_again_for_another_reason_nothing_is_suspected() -> None:
    patience = Patience(LEAST_S, most_doublings=3)
    away = burst(8)
    looks(patience, away, 35.0)
    patience.restart(35.0)
    for frame in away:
        frame.sent_s = 35.0
    assert patience.seconds == LEAST_S
    assert looks(patience, away, 39.5, since_s=35.0) == {}
