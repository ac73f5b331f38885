"""How fast nodes compute, from their heartbeats."""

from __future__ import annotations

from typing import Any

import pytest

from broker.control import Beat, StageRef
from recovery.speeds import SpeedMeter
from tests.unit.builders import beat
from tests.unit.recovery_cases import CHAIN

FLOPS = 10_000_000
"""Of one block."""


def said(frames: int, busy_s: float, **facts: Any) -> Beat:
    stages = facts.pop("stages", (StageRef(first_block=0, end_block=2),))
    return beat("a", active_epoch=facts.pop("active_epoch", 1), frames=frames, busy_s=busy_s, stages=stages, **facts)


def speed(*beats: Beat) -> float | None:
    meter = SpeedMeter(CHAIN)
    for one in beats:
        meter.observe(one)
    return meter.flops_per_s.get("a")


def test_a_node_s_speed_is_what_it_computed_over_the_time_it_was_busy() -> None:
    assert speed(said(100, 1.0), said(150, 2.0)) == pytest.approx(50 * 2 * FLOPS / 1.0)


def test_nodes_that_have_not_been_busy_have_no_speed() -> None:
    assert speed(said(100, 1.0)) is None
    assert speed(said(100, 1.0), said(100, 1.0)) is None
    assert speed(said(100, 1.0), said(101, 1.01)) is None


def test_what_was_done_in_another_epoch_or_by_another_process_does_not_count() -> None:
    assert speed(said(0, 0.0), said(100, 1.0, active_epoch=2)) is None
    assert speed(said(0, 0.0), said(100, 1.0, incarnation="a-2")) is None
    later = (said(100, 1.0, active_epoch=2), said(110, 1.5, active_epoch=2))
    assert speed(said(0, 0.0), *later) == pytest.approx(10 * 2 * FLOPS / 0.5)


def test_a_speed_is_kept_when_the_node_gets_another_stage() -> None:
    before = speed(said(0, 0.0), said(50, 1.0))
    assert speed(said(0, 0.0), said(50, 1.0), said(50, 1.0, active_epoch=2)) == before


@pytest.mark.parametrize("stages", [(), (StageRef(first_block=0, end_block=1), StageRef(first_block=1, end_block=2))])
def test_without_a_single_stage_nobody_can_tell_what_the_time_was_spent_on(stages: tuple[StageRef, ...]) -> None:
    assert speed(said(0, 0.0, stages=stages), said(50, 1.0, stages=stages)) is None


def test_a_stage_beyond_the_model_is_no_measurement() -> None:
    odd = (StageRef(first_block=5, end_block=9),)
    assert speed(said(0, 0.0, stages=odd), said(50, 1.0, stages=odd)) is None


def test_each_node_has_its_own_speed() -> None:
    meter = SpeedMeter(CHAIN)
    stage = (StageRef(first_block=0, end_block=1),)
    for busy_s, frames in ((0.0, 0), (1.0, 10)):
        meter.observe(beat("a", active_epoch=1, stages=stage, frames=frames, busy_s=busy_s))
        meter.observe(beat("b", active_epoch=1, stages=stage, frames=frames, busy_s=busy_s / 2))
    assert meter.flops_per_s == {"a": pytest.approx(10 * FLOPS), "b": pytest.approx(20 * FLOPS)}
