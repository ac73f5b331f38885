"""The ways of answering over what is loaded, and what they are estimated to bring."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from planner.part import SEVERITY
from recovery.estimates import Accuracy, Estimates, Timings
from recovery.options import LIMIT, Option, Placed, Repartition, evaluate, options, repartition, stages_of
from tests.unit.planner_reference import make_chain, make_cluster
from tests.unit.recovery_cases import (
    CHAIN,
    ESTIMATES,
    EXIT,
    NODES,
    PLAN,
    SKIP,
    SPEED,
    STAGES,
    STAND_IN,
    STANDBY,
    cases,
    every_option,
    part,
    spot,
)

A, B, C = STAGES


def found(*placed: Placed, alive: str = "abc", head: str | None = "a", **others: Any) -> list[Option]:
    return options(placed, 6, alive, ESTIMATES, head=head, **others)


def only(*placed: Placed, **others: Any) -> Option:
    (option,) = found(*placed, **others)
    return option


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_the_healthy_pipeline_is_a_path() -> None:
    option = only(*STAGES)
    assert option.hops == STAGES
    assert (option.technique, option.accuracy, option.low, option.high) == ("none", 0.9, 0.88, 0.92)
    assert option.nodes == NODES


def test_without_a_spare_a_lost_node_leaves_no_path() -> None:
    assert found(*STAGES, alive="ac") == []


@pytest.mark.parametrize("spare", [STANDBY, STAND_IN, SKIP])
def test_a_spare_for_the_lost_stage_bridges_it(spare: Placed) -> None:
    option = only(*STAGES, spare, alive="ac")
    assert option.hops == (A, spare, C)
    assert option.technique == spare.part.technique


def test_an_exit_ends_the_answer_early() -> None:
    option = only(*STAGES, EXIT, alive="ac")
    assert option.hops == (A, EXIT)
    assert (option.technique, option.accuracy) == ("exit", 0.7)


def test_a_standby_of_the_whole_model_answers_alone() -> None:
    whole = spot("d", "standby", 0, 6)
    assert only(*STAGES, whole, alive="d", head="d").hops == (whole,)


def test_an_option_is_named_after_the_most_severe_of_its_parts() -> None:
    first = spot("b", "skip", 0, 2, 0.8)
    last = spot("b", "standby", 4, 6)
    assert only(B, first, last, alive="b", head="b").technique == "skip"


def test_two_lost_stages_are_bridged_by_two_parts() -> None:
    spares = (spot("a", "stand-in", 2, 4, 0.8), spot("a", "stand-in", 4, 6, 0.6))
    option = only(*STAGES, *spares, alive="a")
    assert option.hops == (A, *spares)
    assert option.accuracy == pytest.approx(0.9 * (0.8 / 0.9) * (0.6 / 0.9))


def test_parts_that_do_not_meet_at_a_cut_make_no_path() -> None:
    assert found(*STAGES, spot("a", "stand-in", 3, 4, 0.8), alive="ac") == []


def test_a_technique_that_is_not_allowed_is_on_no_path() -> None:
    listed = found(*STAGES, STANDBY, SKIP, EXIT, alive="ac", techniques={"skip"})
    assert [option.technique for option in listed] == ["skip"]


def test_what_is_beaten_by_the_same_technique_is_left_out_and_other_techniques_stay() -> None:
    worse = spot("a", "stand-in", 2, 4, 0.8, flops=6_000_000, variant="worse")
    quicker = spot("a", "stand-in", 2, 4, 0.8, flops=1_000_000, variant="quicker")
    listed = found(*STAGES, STANDBY, STAND_IN, worse, quicker, SKIP, EXIT, alive="ac")
    assert [hop.part.variant for option in listed for hop in option.hops if hop.part.technique == "stand-in"] == [
        "",
        "quicker",
    ]
    assert [option.technique for option in listed] == ["standby", "stand-in", "stand-in", "skip", "exit"]


def test_when_the_head_is_lost_it_is_on_the_first_hop() -> None:
    first = (spot("b", "standby", 0, 2), spot("c", "standby", 0, 2))
    assert {(option.head, option.hops[0].node) for option in found(*STAGES, *first, alive="bc", head=None)} == {
        ("b", "b"),
        ("c", "c"),
    }


# ---- estimates -------------------------------------------------------------------------------------------------------


def test_the_interval_of_one_part_is_its_own_and_of_two_in_quadrature() -> None:
    one = spot("a", "stand-in", 2, 4, 0.8, low=0.76, high=0.84)
    other = spot("a", "stand-in", 4, 6, 0.6, low=0.57, high=0.63)
    alone = only(*STAGES, one, alive="ac")
    assert (alone.low, alone.high) == (pytest.approx(0.76), pytest.approx(0.84))
    both = only(*STAGES, one, other, alive="a")
    assert both.accuracy is not None
    width = math.hypot(0.05, 0.05)
    assert both.low == pytest.approx(both.accuracy * (1 - width))
    assert both.high == pytest.approx(both.accuracy * (1 + width))


def test_an_accuracy_that_is_not_measured_is_assumed_for_comparing_and_not_given_out() -> None:
    order = [
        spot("a", "standby", 2, 4),
        spot("a", "standby", 2, 4, variant="int8"),
        spot("a", "stand-in", 2, 4, flops=2),
        spot("a", "stand-in", 2, 6, flops=2),
        spot("a", "skip", 2, 4),
        spot("a", "exit", 4, 6, flops=2),
        spot("a", "exit", 2, 6, flops=2),
    ]
    standby, *others = [evaluate((A, place), "a", ESTIMATES) for place in order]
    assert standby.accuracy == 0.9
    assert [option.accuracy for option in others] == [None] * 6
    expected = [option.expected for option in (standby, *others)]
    assert expected == sorted(expected, reverse=True)
    assert len(set(expected)) == len(expected)


def test_of_two_stand_ins_that_are_not_measured_the_one_that_computes_more_is_taken_for_better() -> None:
    small, large = (part("stand-in", 2, 4, flops=flops) for flops in (1_000_000, 9_000_000))
    assert ESTIMATES.factor(large) > ESTIMATES.factor(small)


def test_where_the_healthy_accuracy_is_not_known_no_accuracy_is() -> None:
    estimates = replace(ESTIMATES, healthy=None)
    assert evaluate(STAGES, "a", estimates).accuracy is None
    assert evaluate((A, EXIT), "a", estimates).expected == 0.7


def test_latency_is_computing_and_a_message_for_every_change_of_node_there_and_back() -> None:
    assert only(*STAGES).latency_s == pytest.approx(0.06 + 3 * 0.0003)
    assert only(*STAGES, EXIT, alive="ac").latency_s == pytest.approx(0.021)


def test_measured_seconds_of_a_part_take_precedence() -> None:
    estimates = replace(ESTIMATES, part_seconds={EXIT.part.name: {"a": 0.5}})
    assert evaluate((A, EXIT), "a", estimates).latency_s == pytest.approx(0.52)


def test_a_node_with_measured_blocks_has_a_speed_for_other_parts() -> None:
    chain = replace(CHAIN, block_seconds={"a": (0.1,) * 6})
    estimates = Estimates(chain=chain)
    assert estimates.part_s(A.part, "a") == pytest.approx(0.2)
    assert estimates.part_s(EXIT.part, "a") == pytest.approx(0.01)
    assert estimates.part_s(EXIT.part, "b") == 0.0


def test_transfers_cross_a_mesh_in_one_and_a_star_in_two_links() -> None:
    chain = make_chain((1000, 3000, 0))
    links = {"bandwidth_bytes_per_s": ((0, 500.0), (0.0, 0))}
    mesh = Estimates(chain=chain, cluster=make_cluster((None, None), **links, message_overhead_s=0.5))
    assert mesh.transfer_s(0, "n0", "n1") == 2.5
    assert mesh.transfer_s(0, "n1", "n0") == math.inf
    assert mesh.transfer_s(0, "n0", "n0") == 0.0
    assert mesh.transfer_s(0, "n0", "stranger") == Timings().message_s
    ends = {"up_bytes_per_s": (500.0, 1.0), "down_bytes_per_s": (1.0, 250.0)}
    cluster = make_cluster((None, None), topology="star", **ends, message_overhead_s=0.5, max_payload_bytes=1000)
    star = Estimates(chain=chain, cluster=cluster)
    assert star.transfer_s(0, "n0", "n1") == 2 + 4 + 0.5
    assert star.transfer_s(1, "n0", "n1") == 6 + 12 + 3 * 0.5
    whole = Estimates(chain=chain, cluster=replace(cluster, chunked=False))
    assert whole.transfer_s(1, "n0", "n1") == math.inf


def test_where_there_is_no_link_there_is_no_path() -> None:
    links = {"bandwidth_bytes_per_s": ((0, 1e6, 0), (1e6, 0, 0), (1e6, 1e6, 0))}
    cluster = make_cluster((None,) * 3, **links)
    estimates = Estimates(chain=make_chain((10, 10, 10)), cluster=cluster)
    first, second, other = spot("n0", "none", 0, 1), spot("n2", "none", 1, 2), spot("n1", "standby", 1, 2)
    listed = options((first, second, other), 2, cluster.names, estimates, head="n0")
    assert [option.hops for option in listed] == [(first, other)]


def test_downtime_is_detection_the_switch_and_a_frame_and_for_a_new_plan_also_planning_and_loading() -> None:
    bridged = only(*STAGES, EXIT, alive="ac")
    assert bridged.downtime_s == pytest.approx(0.005 + 0.003 + 0.021)
    healed = repartition(Repartition(load_bytes=20_000_000, latency_s=0.06), "a", ESTIMATES)
    assert healed.downtime_s == pytest.approx(0.005 + 0.05 + 0.15 + 0.1 + 0.003 + 0.06)
    assert (healed.hops, healed.technique, healed.accuracy) == ((), "repartition", 0.9)


@pytest.mark.parametrize("change", [{"detect_s": -1.0}, {"load_bytes_per_s": 0.0}, {"plan_s": math.nan}])
def test_impossible_timings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Timings(**change)


# ---- properties ------------------------------------------------------------------------------------------------------


@given(cases())
def test_every_option_is_a_path_over_nodes_that_are_alive_with_what_evaluate_says_of_it(case: Any) -> None:
    estimates, placed, nodes = case
    alive = frozenset(nodes[1:])
    for option in options(placed, estimates.chain.blocks, alive, estimates, head="b"):
        cuts = [0]
        for hop in option.hops:
            assert hop in placed
            assert hop.node in alive
            assert hop.part.first_block == cuts[-1]
            cuts.append(hop.part.end_block)
        assert cuts[-1] == estimates.chain.blocks
        again = evaluate(option.hops, option.head, estimates)
        assert option == replace(again, latency_s=option.latency_s)
        assert option.latency_s == pytest.approx(again.latency_s)


@given(cases())
def test_no_path_is_better_than_all_that_are_kept_of_its_technique(case: Any) -> None:
    estimates, placed, nodes = case
    kept = options(placed, estimates.chain.blocks, nodes, estimates, head="a")
    assert len(kept) <= LIMIT
    for path in every_option(placed, frozenset(nodes), "a", estimates):
        assert any(
            option.technique == path.technique
            and option.expected >= path.expected - 1e-12
            and option.latency_s <= path.latency_s + 1e-12
            for option in kept
        )


@given(cases())
def test_the_order_of_what_is_placed_does_not_matter(case: Any) -> None:
    estimates, placed, nodes = case
    blocks = estimates.chain.blocks
    one = options(placed, blocks, nodes, estimates, head=None)
    assert one == options(placed[::-1], blocks, nodes[::-1], estimates, head=None)


def test_hundreds_of_parts_leave_a_bounded_list_with_the_most_accurate_and_the_quickest() -> None:
    chain = make_chain((10,) * 21, memory=(10,) * 20, peak=(1,) * 20, flops=(1_000_000,) * 20)
    stages = [spot(f"n{cut}", "none", cut, cut + 1) for cut in range(20)]
    spares = [
        spot(
            f"n{(cut + 1) % 20}",
            "stand-in",
            cut,
            cut + 1,
            0.9 - 0.001 * rank * (cut + 3),
            flops=900_000 - rank * 50_000,
            variant=f"{rank}",
        )
        for cut in range(20)
        for rank in range(15)
    ]
    estimates = Estimates(chain=chain, healthy=Accuracy(value=0.9), speeds={f"n{index}": SPEED for index in range(20)})
    listed = options((*stages, *spares), 20, [f"n{index}" for index in range(20)], estimates, head="n0")
    assert len(listed) <= LIMIT
    assert {option.technique for option in listed} == {"none", "stand-in"}
    assert listed == sorted(listed, key=lambda option: (SEVERITY.index(option.technique), -option.expected))
    healthy = evaluate(stages, "n0", estimates)
    assert listed[0].hops == tuple(stages)
    assert min(option.latency_s for option in listed) < 0.3 * healthy.latency_s + 0.02


def test_stages_of_a_plan_carry_what_their_blocks_need() -> None:
    assert [(place.node, place.part.memory_bytes, place.part.flops) for place in stages_of(PLAN, CHAIN)] == [
        (node, 2_000_000, 20_000_000) for node in NODES
    ]
