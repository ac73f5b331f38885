"""Memory of a stage: what is measured fits what the planner reckons with."""

from __future__ import annotations

import pytest

from bench.memory import LIGHT, measure
from stages.memory import own_bytes, trim


@pytest.mark.parametrize(("name", "first", "end"), [("resnet50", 0, 18), ("resnet50", 12, 18), ("inception_v2", 9, 14)])
def test_a_stage_takes_what_the_planner_reckons_with(name: str, first: int, end: int) -> None:
    """Generous by a fifth: more than that, and a node with just enough memory would run out of it."""
    result = measure(LIGHT / f"light_{name}.onnx", first, end)
    assert 0.5 * result.predicted_bytes < result.running_bytes < 1.2 * result.predicted_bytes


def test_memory_that_was_freed_is_given_back() -> None:
    held = [bytes(60_000) for _ in range(2000)]  # small enough for the heap that the C library keeps
    pin = bytes(100)
    full = own_bytes()
    del held
    trim()
    assert own_bytes() < full - 50_000_000
    assert pin
