"""The detector: who is alive at which time, with the rhythm of each node as it is observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.liveness import DetectorSettings, Pulse, beat, first_beat, is_alive, timeout_s

SETTINGS = DetectorSettings()


def after(gaps: list[float], *, interval_s: float = 0.1) -> Pulse:
    """The pulse of a node whose beats came with these gaps, the first at time 0."""
    pulse, now = first_beat(0.0, interval_s), 0.0
    for gap in gaps:
        now += gap
        pulse = beat(pulse, now, interval_s, SETTINGS)
    return pulse


def test_a_node_is_alive_until_its_timeout_has_passed_and_suspected_after() -> None:
    pulse = first_beat(10.0, 0.1)
    limit = timeout_s(pulse, SETTINGS)
    assert is_alive(pulse, 10.0 + limit - 0.001, SETTINGS)
    assert not is_alive(pulse, 10.0 + limit + 0.001, SETTINGS)


def test_a_regular_node_is_suspected_after_the_minimum() -> None:
    assert timeout_s(after([0.1] * 50), SETTINGS) == pytest.approx(0.5)


def test_the_minimum_counts_in_intervals_of_the_node() -> None:
    assert timeout_s(after([0.4] * 50, interval_s=0.4), SETTINGS) == pytest.approx(2.0)


def test_an_irregular_node_gets_more_time_and_loses_it_when_it_is_regular_again() -> None:
    uneasy = timeout_s(after([0.1, 0.8] * 20), SETTINGS)
    assert uneasy > 1.5
    assert timeout_s(after([0.1, 0.8] * 20 + [0.1] * 80), SETTINGS) == pytest.approx(0.5)


def test_the_mean_and_the_deviation_follow_the_documented_averages() -> None:
    pulse = beat(first_beat(0.0, 0.1), 0.3, 0.1, SETTINGS)
    assert pulse.mean_gap_s == pytest.approx(0.1 + 0.1 * 0.2)
    assert pulse.deviation_s == pytest.approx(0.1 * 0.2)


def test_beats_that_come_early_because_something_changed_do_not_teach_a_faster_rhythm() -> None:
    calm = after([0.1] * 20)
    hasty = after([0.1] * 20 + [0.001] * 50)
    assert timeout_s(hasty, SETTINGS) == timeout_s(calm, SETTINGS)
    assert hasty.last_heard_s == pytest.approx(calm.last_heard_s + 0.05)


def test_the_timeout_never_exceeds_the_maximum() -> None:
    assert timeout_s(after([3.0, 0.1] * 50), SETTINGS) == SETTINGS.maximum_s


@given(st.lists(st.floats(0.0, 100.0), max_size=30), st.floats(0.01, 2.0))
def test_whatever_the_gaps_the_timeout_keeps_its_bounds(gaps: list[float], interval_s: float) -> None:
    limit = timeout_s(after(gaps, interval_s=interval_s), SETTINGS)
    lower = max(SETTINGS.minimum_s, SETTINGS.minimum_intervals * interval_s)
    assert lower <= limit <= max(SETTINGS.maximum_s, lower)


@given(st.lists(st.floats(0.0, 10.0), max_size=30))
def test_a_beat_always_proves_that_the_node_is_alive_now(gaps: list[float]) -> None:
    pulse = after(gaps)
    assert is_alive(pulse, pulse.last_heard_s, SETTINGS)
