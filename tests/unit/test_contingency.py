"""What is prepared for failures before they happen."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given

from planner.cluster import NodeSpec
from planner.plan import Plan, Stage
from recovery.contingency import Setup, choose_for, estimated_healing, foreseen_healing, prepare, ranked, ways
from recovery.objectives import Objectives
from recovery.options import Repartition
from tests.unit.planner_reference import make_chain
from tests.unit.recovery_cases import (
    ESTIMATES,
    EXIT,
    SKIP,
    STAGES,
    STAND_IN,
    STANDBY,
    cases,
    make_setup,
    specs,
    spot,
    wishes,
)

A, B, C = STAGES


def lost(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_for_a_lost_node_the_best_bridge_is_in_the_table() -> None:
    contingency = prepare(make_setup(STANDBY, STAND_IN, SKIP, EXIT))
    choice = contingency.table.get(lost("b"))
    assert choice is not None
    assert choice.option.hops == (A, STANDBY, C)
    assert choice.option.technique == "standby"


def test_for_two_lost_nodes_what_the_third_holds_is_in_the_table() -> None:
    choice = prepare(make_setup(STANDBY, STAND_IN, SKIP, EXIT)).table.get(lost("b", "c"))
    assert choice is not None
    assert choice.option.hops == (A, EXIT)


def test_without_a_bridge_frames_wait_for_the_new_plan() -> None:
    choice = prepare(make_setup()).answer(lost("b"))
    assert choice is not None
    assert choice.option.technique == "repartition"
    assert choice.option.hops == ()


def test_all_options_for_a_failure_are_listed_with_their_scores_the_best_first() -> None:
    setup = make_setup(STANDBY, STAND_IN, SKIP, EXIT)
    assert {option.technique for option in ways(setup, lost("b"))} == {
        "standby",
        "stand-in",
        "skip",
        "exit",
        "repartition",
    }
    listed = ranked(setup, lost("b"))
    assert listed[0] == choose_for(setup, lost("b"))
    assert [choice.score for choice in listed] == sorted(choice.score for choice in listed)


def test_a_node_that_holds_only_spares_or_nothing_changes_nothing() -> None:
    whole = spot("d", "standby", 0, 6)
    contingency = prepare(make_setup(STANDBY, whole, nodes=specs("a", "b", "c", "d", "e")))
    assert contingency.answer(lost("d")) is None
    assert contingency.answer(lost("d", "e")) is None
    assert contingency.answer(lost("a", "d")) is not None
    assert {tuple(sorted(failed)) for failed in contingency.table} >= {("a",), ("b",), ("c",), ("a", "d"), ("b", "e")}


def test_a_lost_head_moves_to_its_standby_else_to_the_first_hop() -> None:
    first = spot("b", "standby", 0, 2)
    choice = prepare(make_setup(first)).answer(lost("a"))
    assert choice is not None
    assert (choice.option.head, choice.option.hops) == ("b", (first, B, C))
    choice = prepare(make_setup(first, standby_head="c")).answer(lost("a"))
    assert choice is not None
    assert choice.option.head == "c"


def test_a_head_apart_from_the_stages_is_replaced_and_the_stages_go_on() -> None:
    setup = make_setup(head="d", standby_head="b", nodes=specs("a", "b", "c", "d"))
    choice = prepare(setup).answer(lost("d"))
    assert choice is not None
    assert (choice.option.technique, choice.option.head, choice.option.hops) == ("none", "b", STAGES)


def test_objectives_that_forbid_degraded_answers_wait_for_the_heal() -> None:
    objectives = Objectives(min_accuracy=0.89)
    choice = prepare(make_setup(STAND_IN, EXIT, objectives=objectives)).answer(lost("b"))
    assert choice is not None
    assert (choice.option.technique, choice.violated) == ("repartition", ())


def test_when_all_are_lost_nothing_can_be_done() -> None:
    contingency = prepare(make_setup(STANDBY))
    assert contingency.answer(lost("a", "b", "c")) is None


def test_what_was_not_foreseen_is_decided_on_the_spot() -> None:
    contingency = prepare(make_setup(EXIT, nodes=specs("a", "b", "c", "d")))
    failed = lost("b", "c", "d")
    assert failed not in contingency.table
    choice = contingency.answer(failed)
    assert choice is not None
    assert choice.option.hops == (A, EXIT)


def test_pairs_are_foreseen_in_small_clusters_only() -> None:
    many = specs(*"abcdefgh")
    assert max(map(len, prepare(make_setup(STANDBY, nodes=many)).table)) == 2
    assert max(map(len, prepare(make_setup(STANDBY, nodes=(*many, NodeSpec(name="i")))).table)) == 1


def test_a_new_plan_loads_what_was_lost_or_an_even_share_and_needs_the_memory() -> None:
    setup = make_setup()
    assert estimated_healing(setup, lost("b")) == Repartition(
        load_bytes=3_000_000, latency_s=pytest.approx(0.06 + 3 * 0.0003)
    )
    small = make_setup(nodes=specs("a", "b", "c", memory=2_500_000))
    assert estimated_healing(small, lost("b")) is None
    assert prepare(small).table == {}


def test_a_new_plan_that_is_made_already_is_known_for_what_it_is() -> None:
    plan = Plan(stages=(Stage(node="c", first_block=0, end_block=1), Stage(node="a", first_block=1, end_block=6)))
    setup = make_setup(plans={lost("b"): plan})
    assert foreseen_healing(setup, plan, "a") == Repartition(
        load_bytes=5_000_000, latency_s=pytest.approx(0.06 + 2 * 0.0003), planned=True
    )
    (planned,), (unplanned,) = ways(setup, lost("b")), ways(make_setup(), lost("b"))
    timings = ESTIMATES.timings
    assert unplanned.pause_s - planned.pause_s == pytest.approx(timings.plan_s - 2e6 / timings.load_bytes_per_s)
    assert ways(setup, lost("c")) == ways(make_setup(), lost("c"))


@given(cases(), wishes())
def test_every_entry_is_what_choosing_afresh_says_and_uses_no_lost_node(case: Any, objectives: Objectives) -> None:
    estimates, placed, nodes = case
    blocks = estimates.chain.blocks
    setup = Setup(
        route=placed[:blocks],
        spares=placed[blocks:],
        nodes=specs(*nodes),
        head=placed[0].node,
        estimates=estimates,
        objectives=objectives,
    )
    contingency = prepare(setup)
    for failed in [lost(*names) for size in (1, 2) for names in combinations(nodes, size)]:
        choice = contingency.table.get(failed)
        assert choice == choose_for(setup, failed)
        assert (choice is None) == setup.needed.isdisjoint(failed)
        if choice is not None:
            assert failed.isdisjoint(choice.option.nodes)
            assert choice.option.head not in failed


def test_a_table_for_twenty_nodes_is_looked_up_at_once() -> None:
    count = 20
    chain = make_chain((10,) * (count + 1), memory=(10,) * count, peak=(1,) * count, flops=(10,) * count)
    names = [f"n{index}" for index in range(count)]
    setup = Setup(
        route=tuple(spot(name, "none", cut, cut + 1) for cut, name in enumerate(names)),
        spares=tuple(
            spot(names[(cut + 1) % count], technique, cut, cut + 1, 0.8)  # type: ignore[arg-type]
            for cut in range(count)
            for technique in ("standby", "stand-in", "skip")
        ),
        nodes=specs(*names),
        head="n0",
        estimates=replace(ESTIMATES, chain=chain),
        objectives=Objectives(),
    )
    contingency = prepare(setup)
    assert len(contingency.table) == count
    began = time.process_time()
    for name in names:
        assert contingency.answer(lost(name)) is not None
    assert (time.process_time() - began) / count < 0.01
