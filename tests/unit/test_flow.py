"""How many frames travel at once: bounded by memory, enough for every stage to work, and never all in one lump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control import FlowSettings
from stages.flow import BATCH_BYTES, IN_FLIGHT_BYTES, MAX_WINDOW, choose_flow
from tests.unit.builders import pipeline_spec, tensor

SMALL = pipeline_spec(tensor("x", None, 4), tensor("m", None, 4), tensor("y", None, 4))


def test_small_frames_fill_the_largest_window() -> None:
    flow = choose_flow(FlowSettings(), SMALL, (0, 1))
    assert flow.window == MAX_WINDOW
    assert flow.batch == 64


def test_what_the_user_chose_is_kept() -> None:
    flow = choose_flow(FlowSettings(window=5, max_batch=3), SMALL, (0,))
    assert (flow.window, flow.batch) == (5, 2)
    assert choose_flow(FlowSettings(window=1), SMALL, (0, 1)).window == 1


def test_frames_that_cannot_be_stacked_travel_alone() -> None:
    fixed = pipeline_spec(tensor("x", 1, 4), tensor("y", 1, 4), dynamic_batch=False)
    assert choose_flow(FlowSettings(), fixed, (0,)).batch == 1


@given(st.lists(st.integers(1, 50_000_000), min_size=2, max_size=6), st.integers(1, 1024))
def test_large_frames_narrow_the_window_and_the_batch_within_their_bounds(sizes: list[int], max_batch: int) -> None:
    spec = pipeline_spec(*(tensor(f"t{index}", None, size, dtype="uint8") for index, size in enumerate(sizes)))
    cuts = tuple(range(len(sizes) - 1))
    flow = choose_flow(FlowSettings(max_batch=max_batch), spec, cuts)
    largest = max(sizes[:-1])
    assert min(2 * len(cuts), MAX_WINDOW) <= flow.window <= MAX_WINDOW
    assert flow.window * largest <= IN_FLIGHT_BYTES or flow.window == 2 * len(cuts)
    assert 1 <= flow.batch <= max_batch
    assert flow.batch == 1 or (flow.batch * largest <= BATCH_BYTES and 2 * len(cuts) * flow.batch <= flow.window)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_every_stage_can_work_on_a_batch_of_its_own(stages: int) -> None:
    spec = pipeline_spec(*(tensor(f"t{index}", None, 4) for index in range(4)))
    flow = choose_flow(FlowSettings(), spec, tuple(range(stages)))
    assert flow.window >= stages * flow.batch
