from __future__ import annotations

import math
from typing import Any

import pytest

from planner.chain import Chain, ChainError
from tests.unit.planner_reference import make_chain

LISTS: dict[str, tuple[Any, ...]] = {
    "cut_bytes": (8, 4, 2),
    "block_memory_bytes": (1, 2),
    "block_peak_bytes": (3, 4),
    "block_flops": (5, 6),
}


def chain_with(**changes: Any) -> Chain:
    return Chain(**{"name": "net", **LISTS, **changes})


def test_a_stage_needs_the_sum_of_memory_and_the_largest_peak() -> None:
    chain = make_chain((0, 0, 0, 0), memory=(1, 10, 100), peak=(7, 3, 5))
    assert chain.blocks == 3
    assert chain.stage_memory_bytes(0, 3) == 111 + 7
    assert chain.stage_memory_bytes(1, 3) == 110 + 5
    assert chain.stage_memory_bytes(1, 2) == 10 + 3


def test_measured_seconds_take_precedence_over_speed_and_speed_over_nothing() -> None:
    chain = make_chain((0, 0, 0), flops=(10, 20), block_seconds={"measured": (0.5, 0.25)})
    assert chain.seconds_on("measured", 1.0) == (0.5, 0.25)
    assert chain.seconds_on("measured", None) == (0.5, 0.25)
    assert chain.seconds_on("other", 10.0) == (1.0, 2.0)
    assert chain.seconds_on("other", None) == (0.0, 0.0)


def test_a_chain_without_a_block_is_refused() -> None:
    with pytest.raises(ChainError, match="chain 'net' has no block"):
        chain_with(cut_bytes=(1,), block_memory_bytes=(), block_peak_bytes=(), block_flops=())


def test_a_published_frame_is_as_large_as_the_first_cut_where_nothing_else_is_said() -> None:
    assert (chain_with().published_bytes, chain_with(frame_bytes=3).published_bytes) == (8, 3)
    with pytest.raises(ChainError, match=r"frame_bytes\[0\] is -1"):
        chain_with(frame_bytes=-1)


@pytest.mark.parametrize("name", ["cut_bytes", "block_peak_bytes", "block_flops"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_list_of_the_wrong_length_is_named_with_both_lengths(name: str, change: int) -> None:
    right = LISTS[name]
    wrong = right[:-1] if change < 0 else (*right, 1)
    with pytest.raises(ChainError, match=rf"chain 'net': {name} has {len(wrong)} entries, {len(right)} are needed"):
        chain_with(**{name: wrong})


def test_measured_seconds_of_the_wrong_length_name_their_node() -> None:
    with pytest.raises(ChainError, match=r"block_seconds\['pi'\] has 1 entries, 2 are needed"):
        chain_with(block_seconds={"pi": (0.5,)})


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, True, "4", None])
@pytest.mark.parametrize("name", sorted(LISTS))
def test_an_impossible_number_is_named_with_its_place(name: str, value: Any) -> None:
    with pytest.raises(ChainError, match=rf"chain 'net': {name}\[1\] is {value!r}: a finite number >= 0 is needed"):
        chain_with(**{name: (LISTS[name][0], value, *LISTS[name][2:])})


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_impossible_measured_seconds_are_named_with_their_node_and_place(value: float) -> None:
    with pytest.raises(ChainError, match=r"block_seconds\['pi'\]\[0\]"):
        chain_with(block_seconds={"pi": (value, 1.0)})


def test_a_number_beyond_floating_point_is_refused_as_a_chain_error() -> None:
    with pytest.raises(ChainError, match=r"block_flops\[0\]"):
        chain_with(block_flops=(10**400, 1))
