"""Which parts are loaded where beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster import NodeSpec
from planner.part import SEVERITY, Part
from planner.plan import Plan, Stage
from recovery.contingency import choose_for, ways
from recovery.estimates import Estimates
from recovery.objectives import Objectives
from recovery.options import Placed
from recovery.spares import place_spares
from tests.unit.planner_reference import make_chain
from tests.unit.recovery_cases import CHAIN, ESTIMATES, HEALTHY, NODES, PLAN, make_setup, part, specs, standbys

STAGE_BYTES = 2_000_000
STANDBYS = standbys(PLAN, CHAIN)
SMALL = [part("stand-in", first, first + 2, 0.8, memory_bytes=10_000) for first in (0, 2, 4)]
EXITS = [part("exit", first, 6, 0.5 + first / 20, memory_bytes=20_000) for first in (2, 4)]


def place(
    catalogue: Sequence[Part],
    *,
    room: int | None = None,
    names: Sequence[str] = NODES,
    objectives: Objectives | None = None,
    **others: Any,
) -> list[Placed]:
    """`room`: bytes that are left on each node besides a stage."""
    nodes = specs(*names, memory=None if room is None else STAGE_BYTES + room)
    return place_spares(PLAN, catalogue, nodes, ESTIMATES, objectives or Objectives(), **others)


def hosts(placed: Sequence[Placed], *wanted: Part) -> list[str]:
    return [spot.node for spot in placed if spot.part in wanted]


def test_with_memory_for_all_every_bridge_is_on_two_nodes_and_never_on_its_own() -> None:
    placed = place([*STANDBYS, *SMALL, *EXITS])
    for stage, name in enumerate(NODES):
        others = [other for other in NODES if other != name]
        assert hosts(placed, STANDBYS[stage]) == others
        assert hosts(placed, SMALL[stage]) == others
    assert len(set(placed)) == len(placed)


def test_any_one_or_two_lost_nodes_then_have_a_bridge() -> None:
    setup = make_setup(*place([*STANDBYS, *SMALL, *EXITS]))
    for size in (1, 2):
        for failed in combinations(NODES, size):
            choice = choose_for(setup, frozenset(failed))
            assert choice is not None
            assert choice.option.technique == "standby"


def test_a_first_copy_is_on_a_neighbour_where_fewer_bytes_are_sent() -> None:
    names = ("a", "b", "c", "x")
    one = STANDBYS[1]
    for sizes, host in (((9, 9, 5, 9, 7, 9, 9), "c"), ((9, 9, 7, 9, 5, 9, 9), "a")):
        estimates = Estimates(chain=make_chain(sizes, memory=(1_000_000,) * 6, peak=(0,) * 6), healthy=HEALTHY)
        nodes = specs(*names, memory=2 * STAGE_BYTES)
        placed = place_spares(PLAN, [one], nodes, estimates, Objectives())
        assert host in hosts(placed, one)
        assert "x" not in hosts(placed, one)


def test_an_exit_is_on_the_node_before_its_stage() -> None:
    assert hosts(place([EXITS[0]], room=20_000), EXITS[0])[0] == "a"
    assert "b" in hosts(place([EXITS[1]]), EXITS[1])


def test_without_memory_nothing_but_what_needs_none_is_placed() -> None:
    skip = part("skip", 2, 4, 0.5)
    assert {spot.part for spot in place([*STANDBYS, *SMALL, *EXITS, skip], room=0)} == {skip}


def test_a_quantised_standby_comes_where_full_precision_does_not_fit() -> None:
    int8 = [part("standby", first, first + 2, 0.89, variant="int8", memory_bytes=500_000) for first in (0, 2, 4)]
    placed = place([*STANDBYS, *int8], room=600_000)
    assert {spot.part for spot in placed} == set(int8)
    placed = place([*STANDBYS, *int8], room=STAGE_BYTES)
    assert {spot.part for spot in placed} >= set(STANDBYS)


def test_every_stage_has_a_standby_before_one_has_a_better() -> None:
    int8 = [part("standby", first, first + 2, 0.89, variant="int8", memory_bytes=900_000) for first in (0, 2, 4)]
    nodes = (*specs(*NODES, memory=STAGE_BYTES), NodeSpec(name="d", memory_bytes=2_700_000))
    placed = place_spares(PLAN, [*STANDBYS, *int8], nodes, ESTIMATES, Objectives())
    assert {spot.part for spot in placed} == set(int8)


def test_small_bridges_do_not_keep_out_a_standby() -> None:
    placed = place([*STANDBYS, *SMALL, *EXITS], room=STAGE_BYTES)
    assert {spot.part for spot in placed} >= set(STANDBYS)


def test_a_node_without_a_stage_has_all_its_memory_for_spares() -> None:
    nodes = (*specs(*NODES, memory=STAGE_BYTES), NodeSpec(name="d", memory_bytes=3 * STAGE_BYTES))
    placed = place_spares(PLAN, STANDBYS, nodes, ESTIMATES, Objectives())
    assert {(spot.node, spot.part) for spot in placed} == {("d", standby) for standby in STANDBYS}


def test_the_most_that_a_node_may_spend_on_spares_is_kept() -> None:
    placed = place([*STANDBYS, *SMALL], spare_memory_bytes=25_000)
    assert {spot.part for spot in placed} == set(SMALL)


def test_a_technique_that_is_not_allowed_is_not_placed() -> None:
    placed = place([*STANDBYS, *SMALL, *EXITS], objectives=Objectives(techniques=frozenset({"exit"})))
    assert {spot.part for spot in placed} == set(EXITS)


def test_what_would_miss_the_least_accuracy_is_not_placed() -> None:
    placed = place([*STANDBYS, *SMALL, *EXITS], objectives=Objectives(min_accuracy=0.75))
    assert {spot.part for spot in placed} == {*STANDBYS, *SMALL}


def test_parts_between_other_cuts_than_the_stages_are_not_placed() -> None:
    assert place([part("stand-in", 1, 3, 0.8), part("exit", 3, 6, 0.8), part("standby", 0, 3)]) == []


def test_where_no_part_spans_a_stage_several_in_a_row_on_one_node_do() -> None:
    row = [part("stand-in", 2, 3, 0.85, memory_bytes=10_000), part("stand-in", 3, 4, 0.8, memory_bytes=10_000)]
    worse = part("stand-in", 2, 3, 0.5, variant="worse")
    placed = place([*row, worse], room=20_000)
    assert {spot.part for spot in placed} == set(row)
    assert hosts(placed, row[0]) == hosts(placed, row[1]) == ["a", "c"]


def test_the_most_accurate_of_a_technique_comes_first() -> None:
    large = part("stand-in", 2, 4, 0.88, variant="large", memory_bytes=50_000)
    assert {spot.part for spot in place([*SMALL, large], room=50_000)} >= {large, SMALL[0], SMALL[2]}
    assert {spot.part for spot in place([SMALL[1], large], room=40_000)} == {SMALL[1]}


@st.composite
def catalogues(draw: st.DrawFn) -> list[Part]:
    parts = []
    for index in range(draw(st.integers(0, 20))):
        technique = draw(st.sampled_from(SEVERITY[1:]))
        first = draw(st.integers(0, 5))
        end = 6 if technique == "exit" else draw(st.integers(first + 1, 6))
        sizes = {"memory_bytes": draw(st.integers(0, 100)), "peak_bytes": draw(st.integers(0, 20))}
        accuracy = draw(st.none() | st.sampled_from([0.3, 0.6, 0.9]))
        parts.append(part(technique, first, end, accuracy, variant=str(index), **sizes))
    return parts


@given(catalogues(), st.lists(st.integers(0, 300), min_size=4, max_size=4), st.none() | st.integers(0, 200))
def test_no_node_ever_holds_more_than_its_memory(catalogue: list[Part], rooms: list[int], most: int | None) -> None:
    stage_bytes = {"a": STAGE_BYTES, "b": STAGE_BYTES, "c": STAGE_BYTES, "d": 0}
    nodes = tuple(
        NodeSpec(name=name, memory_bytes=need + room)
        for (name, need), room in zip(stage_bytes.items(), rooms, strict=True)
    )
    placed = place_spares(PLAN, catalogue, nodes, ESTIMATES, Objectives(), spare_memory_bytes=most)
    assert placed == place_spares(PLAN, catalogue[::-1], nodes, ESTIMATES, Objectives(), spare_memory_bytes=most)
    assert {spot.part for spot in placed} <= set(catalogue)
    for node, room in zip(nodes, rooms, strict=True):
        held = [spot.part for spot in placed if spot.node == node.name]
        used = sum(one.memory_bytes for one in held) + max((one.peak_bytes for one in held), default=0)
        assert used <= (room if most is None else min(room, most))


@given(catalogues())
def test_with_memory_for_all_every_stage_with_a_part_in_the_catalogue_has_a_bridge(catalogue: list[Part]) -> None:
    setup = make_setup(*place(catalogue))
    for stage in PLAN.stages:
        ends = {stage.end_block, 6 if stage.first_block else None}
        if any(one.first_block == stage.first_block and one.end_block in ends for one in catalogue):
            assert any(option.hops for option in ways(setup, frozenset({stage.node})))


@pytest.mark.parametrize("room", [200, 100_000])
def test_twenty_nodes_and_a_hundred_parts_take_no_time_to_speak_of(room: int) -> None:
    count = 20
    chain = make_chain((10,) * (count + 1), memory=(100,) * count, peak=(1,) * count, flops=(10,) * count)
    names = [f"n{index}" for index in range(count)]
    plan = Plan(stages=tuple(Stage(first_block=i, end_block=i + 1, node=name) for i, name in enumerate(names)))
    catalogue = [
        *standbys(plan, chain),
        *(part("stand-in", cut, cut + 1, 0.8, variant=size, memory_bytes=10) for cut in range(count) for size in "sml"),
        *(part("exit", cut, count, 0.04 * cut, memory_bytes=5) for cut in range(1, count)),
    ]
    nodes = specs(*names, memory=101 + room)
    began = time.process_time()
    placed = place_spares(plan, catalogue, nodes, Estimates(chain=chain, healthy=HEALTHY), Objectives())
    assert time.process_time() - began < 0.5
    assert {spot.part for spot in placed} >= set(standbys(plan, chain))
