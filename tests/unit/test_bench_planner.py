"""The planner's benchmark: the methods give valid plans. Nothing here measures time."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from bench.planner import instances, report
from bench.planner.__main__ import parse
from bench.planner.cost import Costs, Part
from bench.planner.greedy import greedy_best, greedy_first
from bench.planner.measure import METHODS, Record, call, compare_with_naive, parts_of, replan, run
from bench.planner.naive import naive
from bench.planner.random_plan import random_plan
from bench.planner.seifer import partition, place, seifer
from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.solve import solve

CHAIN = Chain(
    name="hand-made",
    cut_bytes=(100, 80, 10, 60, 20, 5),
    block_memory_bytes=(4, 4, 4, 4, 4),
    block_peak_bytes=(0, 0, 0, 0, 0),
    block_flops=(0, 0, 0, 0, 0),
)


def cluster(rates: list[list[float]], *memories: int) -> Cluster:
    return Cluster(
        nodes=tuple(NodeSpec(name=f"n{index}", memory_bytes=memory) for index, memory in enumerate(memories)),
        bandwidth_bytes_per_s=tuple(tuple(row) for row in rates),
    )


FOUR = cluster([[0, 1, 9, 2], [1, 0, 3, 4], [9, 3, 0, 5], [2, 4, 5, 0]], 8, 8, 8, 8)


def some(seed: int, *, nodes: int = 6, star: bool = False) -> instances.Instance:
    chain = instances.synthetic_chain(7, 50 * instances.MB, seed)
    return instances.heterogeneous(chain, nodes, seed, star=star)


# ---- instances -----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_instance_and_another_seed_another() -> None:
    assert some(1) == some(1)
    assert some(1).cluster != some(2).cluster
    assert instances.hard("hub", 8, 10, 3) == instances.hard("hub", 8, 10, 3)


def test_the_published_bandwidth_is_that_of_the_distance_in_both_directions() -> None:
    rates = instances.wifi(np.array([[0.0, 0.0], [30.0, 40.0]]))
    assert rates[0][1] == rates[1][0] == pytest.approx(np.log2(1 + 283_230 / 2500) * 125_000)


def test_all_nine_light_models_become_chains() -> None:
    chains = instances.light_chains()
    assert len(chains) == 9
    assert all(chain.blocks > 1 for chain in chains)


@pytest.mark.parametrize("kind", instances.HARD)
def test_a_hard_instance_has_a_plan(kind: str) -> None:
    instance = instances.hard(kind, 6, 12, 0)
    assert solve(instance.chain, instance.cluster).proven


# ---- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("star", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_the_cost_of_a_plan_is_what_the_planner_says(seed: int, star: bool) -> None:
    instance = some(seed, star=star)
    plan = solve(instance.chain, instance.cluster)
    parts = parts_of(plan, instance)
    assert Costs(instance.chain, instance.cluster).bottleneck_s(parts) == pytest.approx(plan.bottleneck_s)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((Part(0, 2, 0), Part(2, 4, 1)), "do not cover"),
        ((Part(0, 2, 0), Part(3, 5, 1)), "do not cover"),
        ((Part(0, 2, 0), Part(2, 5, 0)), "twice"),
        ((Part(0, 0, 0), Part(0, 5, 1)), "empty"),
    ],
)
def test_what_is_no_plan_has_no_cost(parts: tuple[Part, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Costs(CHAIN, FOUR).bottleneck_s(parts)


def test_a_stage_that_does_not_fit_costs_infinitely_much() -> None:
    assert Costs(CHAIN, FOUR).bottleneck_s((Part(0, 3, 0), Part(3, 5, 1))) == inf


def test_chunks_of_a_large_message_pay_the_overhead_each() -> None:
    limited = replace(FOUR, max_payload_bytes=30, message_overhead_s=1.0)
    assert Costs(CHAIN, limited).transfer_s(3, 0, 2) == pytest.approx(60 / 9 + 2)
    assert Costs(CHAIN, replace(limited, chunked=False)).transfer_s(3, 0, 2) == inf


# ---- methods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("star", [False, True])
@pytest.mark.parametrize("method", [*METHODS, "naive"])
def test_every_method_gives_a_valid_plan_that_is_not_better_than_the_optimum(method: str, star: bool) -> None:
    found = 0
    for seed in range(12):
        instance = some(seed, star=star)
        costs = Costs(instance.chain, instance.cluster)
        parts = call(method, costs, seed)
        if parts is None:
            continue
        found += 1
        value = costs.bottleneck_s(parts)
        assert value < inf
        assert value >= solve(instance.chain, instance.cluster).bottleneck_s * (1 - 1e-9)
    assert found > 0 or method == "seifer"  # the smallest memory of these clusters holds no block as a rule


@pytest.mark.parametrize("seed", range(15))
def test_the_naive_method_finds_the_optimum(seed: int) -> None:
    instance = some(seed)
    costs = Costs(instance.chain, instance.cluster)
    parts = naive(costs)
    assert parts is not None
    assert costs.bottleneck_s(parts) == pytest.approx(solve(instance.chain, instance.cluster).bottleneck_s)


def test_no_method_finds_a_plan_where_a_block_fits_no_node() -> None:
    small = replace(FOUR, nodes=tuple(replace(node, memory_bytes=3) for node in FOUR.nodes))
    for method in (*METHODS, "naive"):
        assert call(method, Costs(CHAIN, small), 0) is None, method


def test_the_best_of_many_random_plans_is_not_worse_than_the_first() -> None:
    costs = Costs(CHAIN, FOUR)
    first, best = (random_plan(costs, np.random.default_rng(5), plans=plans) for plans in (1, 100))
    assert first is not None
    assert best is not None
    assert costs.bottleneck_s(best) <= costs.bottleneck_s(first)


def test_greedy_takes_the_longest_stage_and_then_the_fastest_link() -> None:
    assert greedy_first(Costs(CHAIN, FOUR)) == (Part(0, 2, 0), Part(2, 4, 2), Part(4, 5, 3))


def test_greedy_passes_over_a_node_that_has_no_room() -> None:
    cramped = replace(FOUR, nodes=(*FOUR.nodes[:2], replace(FOUR.nodes[2], memory_bytes=1), FOUR.nodes[3]))
    plan = greedy_best(Costs(CHAIN, cramped))
    assert plan is not None
    assert 2 not in [part.node for part in plan]


# ---- SEIFER --------------------------------------------------------------------------------------------------------


def test_seifer_partitions_for_the_smallest_largest_transfer_whatever_the_links() -> None:
    # At most two blocks a part: cuts 1 and 3 send 80 and 60, 2 and 3 send 10 and 60, 2 and 4 send 10 and 20.
    assert partition(Costs(CHAIN, FOUR)) == [0, 2, 4, 5]


def test_seifer_counts_every_node_as_the_smallest() -> None:
    unequal = replace(FOUR, nodes=(replace(FOUR.nodes[0], memory_bytes=4), *FOUR.nodes[1:]))
    assert partition(Costs(CHAIN, unequal)) is None  # five parts, four nodes


def test_seifer_gives_the_largest_transfers_the_fastest_path_and_the_others_what_is_left() -> None:
    # Transfers 10, then 20. The larger one is alone in the highest class and takes the link 0-2 of 9 bytes/s; the
    # other one has to end at whichever of the two comes first.
    nodes = place(Costs(CHAIN, FOUR), [0, 2, 4, 5], classes=2)
    assert nodes is not None
    assert set(nodes[1:]) == {0, 2}
    plan = seifer(Costs(CHAIN, FOUR))
    assert plan is not None
    assert [(part.start, part.end) for part in plan] == [(0, 2), (2, 4), (4, 5)]


def test_seifer_finds_the_path_whose_slowest_link_is_the_fastest() -> None:
    # One class: a path of three nodes; 0-2-3 has 5 as its slowest link, all others less.
    nodes = place(Costs(CHAIN, FOUR), [0, 2, 4, 5], classes=1)
    assert nodes in ([0, 2, 3], [3, 2, 0])


def test_seifer_needs_no_link_where_one_node_is_enough() -> None:
    large = replace(FOUR, nodes=tuple(replace(node, memory_bytes=99) for node in FOUR.nodes))
    assert seifer(Costs(CHAIN, large)) == (Part(0, 5, 0),)


# ---- records and report --------------------------------------------------------------------------------------------


def test_a_model_that_fits_one_node_is_left_out_of_the_published_ratios() -> None:
    chain = instances.synthetic_chain(5, 10 * instances.MB, 0)
    record = run(instances.published(chain, 5, 64 * instances.MB, 0, memory="64 MB"), limit_s=10.0)
    assert record.outcome == "one node"
    assert report.planned([record]) == []


def test_a_run_has_every_method_and_no_fault() -> None:
    chain = instances.synthetic_chain(8, 60 * instances.MB, 0)
    record = run(instances.published(chain, 6, 25 * instances.MB, 0, memory="25 MB"), limit_s=10.0)
    assert set(record.values) == set(METHODS)
    assert record.faults == []
    ratios = [record.ratio(method) for method in METHODS]
    assert all(ratio is None or ratio >= 1 - 1e-9 for ratio in ratios)


def test_the_naive_method_and_the_planner_agree_in_the_benchmark_too() -> None:
    record = compare_with_naive(some(4))
    assert record.faults == []
    assert record.naive_s is not None


def test_a_new_plan_is_made_for_a_lost_node_and_for_a_slower_link() -> None:
    chain = instances.synthetic_chain(12, 100 * instances.MB, 0)
    assert {change.change for change in replan(chain, 0)} <= {"a node is lost", "a link is slower"}


def record(*values: float) -> Record:
    """With an optimum of 1, and values in the order of the methods."""
    made = Record(family="published", nodes=50, memory="64 MB", chain="x", blocks=5, seed=0, bottleneck_s=1.0)
    made.values = dict(zip(METHODS, values, strict=True))
    return made


def test_what_is_reproduced_is_computed_from_the_records() -> None:
    good = record(21.0, 3.0, 2.1, 2.1, 1.05)
    found = report.figures([good, good])
    assert found["random / seifer"] == pytest.approx(20.0)
    assert found["seifer gap, mean"] == pytest.approx(0.05)
    text = "\n".join(report.verdicts([good]))
    assert "10x, reproduced and reproduced" in text
    assert "confirmed" in text
    bad = record(4.0, 3.0, 2.0, 1.0, 2.0)
    text = "\n".join(report.verdicts([bad]))
    assert "10x, not reproduced and not reproduced" in text
    assert "100% more than greedy's from every node" in text
    assert "it is more" in text


def test_an_optimum_that_is_not_proven_gives_no_ratio() -> None:
    unproven = record(4.0, 3.0, 2.0, 2.0, 2.0)
    unproven.proven = False
    assert unproven.ratio("seifer") is None


def test_nothing_measured_is_said_and_not_an_error() -> None:
    assert "nothing to compare" in "\n".join(report.verdicts([]))
    assert report.quality([], "empty").row_count == 1


def test_a_negative_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--seed", "-1"])
    assert "at least 0" in capsys.readouterr().err
