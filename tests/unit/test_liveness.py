"""The detector: who is alive at which time, with the rhythm of each node as it is observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.liveness import (
    PULSE_DETECTOR,
    DetectorSettings,
    OwnClock,
    Pulse,
    beat,
    deadline_s,
    first_beat,
    gone,
    is_alive,
    timeout_s,
)

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
    uneasy = timeout_s(after([0.1, 0.4] * 20), SETTINGS)
    assert uneasy > 1.0
    assert timeout_s(after([0.1, 0.4] * 20 + [0.1] * 80), SETTINGS) == pytest.approx(0.5)


def test_one_large_gap_is_remembered_for_seconds_and_then_forgotten() -> None:
    assert timeout_s(after([0.1] * 50 + [0.45]), SETTINGS) == pytest.approx(1.5 * 0.45)
    assert timeout_s(after([0.1] * 50 + [0.45] + [0.1] * 10), SETTINGS) > 1.3 * 0.45
    assert timeout_s(after([0.1] * 50 + [0.45] + [0.1] * 200), SETTINGS) == pytest.approx(0.5)


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
    slower_and_slower = after([0.1 * 1.4**number for number in range(12)])
    assert 1.5 * slower_and_slower.peak_gap_s > SETTINGS.maximum_s
    assert timeout_s(slower_and_slower, SETTINGS) == SETTINGS.maximum_s


# ---- suspected, and heard again ------------------------------------------------------------------------------------


def test_after_a_false_suspicion_the_next_takes_longer() -> None:
    calm = after([0.1] * 50)
    late = timeout_s(calm, SETTINGS) + 0.1
    assert not is_alive(calm, calm.last_heard_s + late, SETTINGS)
    back = beat(calm, calm.last_heard_s + late, 0.1, SETTINGS)
    assert is_alive(back, back.last_heard_s, SETTINGS)
    assert timeout_s(back, SETTINGS) == pytest.approx(1.5 * timeout_s(calm, SETTINGS))


def test_an_outage_teaches_nothing() -> None:
    calm = after([0.1] * 50)
    back = beat(calm, calm.last_heard_s + 60, 0.1, SETTINGS)
    assert is_alive(back, back.last_heard_s, SETTINGS)
    assert timeout_s(back, SETTINGS) == timeout_s(calm, SETTINGS)


def test_a_node_that_pulses_less_often_while_idle_gets_the_time_for_it() -> None:
    pulse, now = after([0.02] * 100, interval_s=0.02), 2.0
    pulse = beat(pulse, now + 0.02, 0.1, PULSE_DETECTOR)
    assert timeout_s(pulse, PULSE_DETECTOR) == pytest.approx(0.4)
    pulse = beat(pulse, now + 0.12, 0.02, PULSE_DETECTOR)
    assert timeout_s(pulse, PULSE_DETECTOR) == pytest.approx(0.08)


def test_a_node_whose_connections_are_closed_is_suspected_at_once_until_it_is_heard_again() -> None:
    pulse = gone(after([0.02] * 10, interval_s=0.02), 0.21)
    assert not is_alive(pulse, 0.21, PULSE_DETECTOR)
    assert deadline_s(pulse, PULSE_DETECTOR) < 0
    back = beat(pulse, 0.26, 0.02, PULSE_DETECTOR)
    assert is_alive(back, 0.26, PULSE_DETECTOR)
    assert timeout_s(back, PULSE_DETECTOR) == pytest.approx(0.08)


def test_what_was_sent_before_the_connections_closed_and_read_after_is_no_sign_of_life() -> None:
    pulse = gone(after([0.02] * 10, interval_s=0.02), 0.21)
    assert not is_alive(beat(pulse, 0.215, 0.02, PULSE_DETECTOR), 0.215, PULSE_DETECTOR)


# ---- the detector's own pauses -------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def own_clock(clock: Clock) -> OwnClock:
    return OwnClock(clock, tick_s=0.01, slack_s=0.01)


def test_while_it_ticks_on_time_the_own_clock_is_the_real_one() -> None:
    clock = Clock()
    own = own_clock(clock)
    for _ in range(100):
        clock.now += 0.012
        assert own.tick()
        assert own() == pytest.approx(clock.now)


def test_a_pause_of_the_detector_is_silence_of_nobody_and_nobody_is_judged_right_after_it() -> None:
    clock = Clock()
    own = own_clock(clock)
    pulse = first_beat(own(), 0.02)
    clock.now += 0.5
    assert not own.tick()
    assert is_alive(pulse, own(), PULSE_DETECTOR)
    for _ in range(7):
        clock.now += 0.01
        assert own.tick()
    assert not is_alive(pulse, own(), PULSE_DETECTOR)


def test_messages_that_were_handled_in_between_do_not_hide_a_late_tick() -> None:
    clock = Clock()
    own = own_clock(clock)
    for _ in range(5):
        clock.now += 0.01
        own()
    assert not own.tick()


def test_while_nothing_can_be_heard_no_time_passes() -> None:
    clock = Clock()
    own = own_clock(clock)
    began = own()
    for _ in range(100):
        clock.now += 0.01
        own.pause()
        assert own() == began
    clock.now += 0.01
    assert not own.tick()
    clock.now += 0.01
    assert own.tick()
    assert own() == pytest.approx(began + 0.01)


@given(st.lists(st.tuples(st.floats(-0.01, 5.0), st.booleans()), max_size=50))
def test_the_own_clock_never_goes_back_and_never_faster_than_the_real_one(steps: list[tuple[float, bool]]) -> None:
    clock = Clock()
    own = own_clock(clock)
    started = before = own()
    for step, ticks in steps:
        clock.now += step
        if ticks:
            own.tick()
        now = own()
        assert before <= now <= before + max(step, 0.0) + 0.01 + 1e-9
        before = now
    assert before - started <= sum(max(0.0, step) for step, _ in steps) + 1e-6


@given(st.lists(st.floats(0.0, 100.0), max_size=30), st.floats(0.01, 2.0))
def test_whatever_the_gaps_the_timeout_keeps_its_bounds(gaps: list[float], interval_s: float) -> None:
    limit = timeout_s(after(gaps, interval_s=interval_s), SETTINGS)
    lower = max(SETTINGS.minimum_s, SETTINGS.minimum_intervals * interval_s)
    assert lower <= limit <= max(SETTINGS.maximum_s, lower)


@given(st.lists(st.floats(0.0, 10.0), max_size=30))
def test_a_beat_always_proves_that_the_node_is_alive_now(gaps: list[float]) -> None:
    pulse = after(gaps)
    assert is_alive(pulse, pulse.last_heard_s, SETTINGS)


@given(st.lists(st.floats(0.0, 1.0), max_size=40), st.sampled_from([0.02, 0.05, 0.1]))
def test_nobody_is_suspected_before_the_minimum(gaps: list[float], interval_s: float) -> None:
    pulse, now = first_beat(0.0, interval_s), 0.0
    for gap in gaps:
        now += gap
        pulse = beat(pulse, now, interval_s, PULSE_DETECTOR)
        assert is_alive(pulse, now + 0.999 * max(0.08, 4 * interval_s), PULSE_DETECTOR)


@given(st.lists(st.floats(0.0, 0.05), max_size=200), st.lists(st.integers(0, 200), max_size=3))
def test_a_steady_sender_whose_pulses_are_late_by_less_than_the_slack_is_never_suspected(
    lateness: list[float], lost: list[int]
) -> None:
    # Sent every 20 ms, each late by up to 50 ms, now and then one lost while the others are on time.
    pulse, last = first_beat(0.0, 0.02), 0.0
    for number, late in enumerate(lateness, start=1):
        if number in lost and late < 0.01:
            continue
        arrived = max(last, number * 0.02 + late)
        if not any(number - back in lost for back in (1, 2)):
            assert is_alive(pulse, arrived, PULSE_DETECTOR)
        pulse, last = beat(pulse, arrived, 0.02, PULSE_DETECTOR), arrived
