"""What recoveries take is learnt from those that were."""

from __future__ import annotations

import pytest

from recovery.estimates import Timings
from recovery.experience import GAIN, LEAST_S, LOADS, Experience


def test_before_anything_was_seen_the_defaults_are_estimated() -> None:
    assert Experience().timings == Timings()
    assert Experience(Timings(plan_s=3.0)).timings.plan_s == 3.0


def test_the_first_observation_replaces_the_guess_and_later_ones_count_by_the_gain() -> None:
    experience = Experience()
    experience.planned(2.0)
    assert experience.timings.plan_s == 2.0
    experience.planned(1.0)
    assert experience.timings.plan_s == pytest.approx(2.0 - GAIN)
    for _ in range(50):
        experience.planned(1.0)
    assert experience.timings.plan_s == pytest.approx(1.0, rel=1e-3)


def test_what_loading_takes_is_known_after_one_load_and_what_a_byte_takes_after_two() -> None:
    experience = Experience()
    experience.loaded(1.5, 100_000_000)
    assert load_s(experience, 100_000_000) == pytest.approx(1.5, rel=1e-3)
    experience.loaded(2.5, 200_000_000)
    assert experience.timings.load_fixed_s == pytest.approx(0.5)
    assert experience.timings.load_bytes_per_s == pytest.approx(100e6)
    assert load_s(experience, 300_000_000) == pytest.approx(3.5, rel=1e-3)


def test_one_load_that_was_slow_counts_little_and_old_ones_are_forgotten() -> None:
    experience = Experience()
    for seconds in (1.0, 1.0, 1.0, 9.0):
        experience.loaded(seconds, 100_000_000)
    assert load_s(experience, 100_000_000) == pytest.approx(1.0, rel=0.3)
    for _ in range(LOADS):
        experience.loaded(0.2, 100_000_000)
    assert load_s(experience, 100_000_000) == pytest.approx(0.2, rel=1e-2)


def load_s(experience: Experience, load_bytes: int) -> float:
    timings = experience.timings
    return timings.heal_s(load_bytes, planned=True) - timings.detect_s - timings.switch_s


def test_of_a_bridge_what_is_not_the_frames_own_latency_is_the_switch() -> None:
    experience = Experience()
    experience.bridged(0.030, 0.020)
    assert experience.timings.switch_s == pytest.approx(0.010)


def test_of_messages_the_least_counts() -> None:
    experience = Experience()
    for latency_s in (0.040, 0.016, 0.090):
        experience.answered(latency_s, 0.010, 3)
    assert experience.timings.message_s == pytest.approx(0.002)


def test_a_single_node_has_no_messages_and_that_is_no_division_by_zero() -> None:
    experience = Experience()
    experience.answered(0.012, 0.010, 0)
    assert experience.timings.message_s == pytest.approx(0.002)


def test_what_is_faster_than_estimated_stays_above_nothing() -> None:
    experience = Experience()
    experience.planned(-1.0)
    experience.loaded(0.0, 10**9)
    experience.bridged(0.001, 0.020)
    experience.answered(0.001, 0.010, 2)
    timings = experience.timings
    assert {timings.plan_s, timings.load_fixed_s, timings.switch_s, timings.message_s} == {LEAST_S}


def test_one_step_teaches_nothing_about_the_others() -> None:
    experience = Experience()
    experience.planned(2.0)
    assert experience.timings == Timings(plan_s=2.0)
