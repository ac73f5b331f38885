from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.planner.instances import hard
from planner.chain import Chain
from planner.cluster import Cluster
from planner.plan import NoPlanError, Objective, Plan, Stage
from planner.solve import price, solve
from tests.unit.planner_reference import (
    INF,
    SubsetProgramme,
    Value,
    all_values,
    by_latency,
    exact_fit,
    full_mesh,
    hidden_path,
    make_chain,
    make_cluster,
    random_case,
    random_chain,
    random_cluster,
    solved,
    steps_of_plan,
    value_of,
)

SEEDS = st.integers(0, 2**32 - 1)


def stages_of(plan: Plan) -> list[tuple[int, int, str]]:
    return [(stage.first_block, stage.end_block, stage.node) for stage in plan.stages]


def standing() -> float:
    """A clock on which no time passes: latency is minimised to the end, however busy the machine is."""
    return 0.0


def value_or_infinite(chain: Chain, cluster: Cluster, objective: Objective = "bottleneck") -> float:
    plan = solved(lambda: solve(chain, cluster, objective=objective, clock=standing))
    return INF if plan is None else plan.value_s


def assert_valid(plan: Plan, chain: Chain, cluster: Cluster) -> None:
    """Against the definitions alone, not against what the planner says of itself."""
    assert [stage.first_block for stage in plan.stages] == [0, *(stage.end_block for stage in plan.stages[:-1])]
    assert plan.stages[-1].end_block == chain.blocks
    assert all(stage.first_block < stage.end_block for stage in plan.stages)
    assert len(set(plan.nodes)) == len(plan.nodes)
    assert set(plan.nodes) <= set(cluster.names)
    for stage in plan.stages:
        limit = cluster.nodes[cluster.names.index(stage.node)].memory_bytes
        assert limit is None or chain.stage_memory_bytes(stage.first_block, stage.end_block) <= limit
    seconds, busy = zip(*steps_of_plan(chain, cluster, plan.stages), strict=True)
    assert [step.seconds for step in plan.steps] == pytest.approx(seconds, rel=1e-12)
    assert [step.busy_s for step in plan.steps] == pytest.approx(busy, rel=1e-12)
    assert plan.bottleneck_s == pytest.approx(max(busy), rel=1e-12)
    assert max(seconds) < INF
    assert plan.latency_s == pytest.approx(sum(seconds), rel=1e-12)
    assert plan.lower_bound_s <= plan.value_s + 1e-9


# Against brute force.


@pytest.mark.parametrize("block", range(20))
def test_tiny_plans_are_those_of_brute_force(block: int) -> None:
    for seed in range(20 * block, 20 * (block + 1)):
        chain, cluster, stages = random_case(seed)
        optimum = min(all_values(chain, cluster, stages), default=None)
        plan = solved(lambda: solve(chain, cluster, stages=stages, clock=standing))  # noqa: B023 - called at once
        assert (None if plan is None else value_of(plan)) == optimum, f"seed {seed}"
        assert plan is None or plan.proven


@pytest.mark.parametrize("block", range(10))
def test_tiny_plans_of_least_latency_are_those_of_brute_force(block: int) -> None:
    for seed in range(20 * block, 20 * (block + 1)):
        chain, cluster, stages = random_case(seed)
        optimum = min(map(by_latency, all_values(chain, cluster, stages)), default=None)
        plan = solved(lambda: solve(chain, cluster, objective="latency", stages=stages, clock=standing))  # noqa: B023 - called at once
        assert (None if plan is None else by_latency(value_of(plan))) == optimum, f"seed {seed}"
        assert plan is None or (plan.proven and plan.lower_bound_s == pytest.approx(plan.latency_s))


@pytest.mark.parametrize("seed", range(24))
def test_medium_plans_are_those_of_a_programme_over_subsets(seed: int) -> None:
    rng = random.Random(seed)
    chain, cluster = random_chain(rng, 12), random_cluster(rng, 8, memory=(8, 25))
    optimum = SubsetProgramme(chain, cluster).best()
    plan = solved(lambda: solve(chain, cluster, clock=standing))
    assert (None if plan is None else value_of(plan)) == optimum
    assert plan is None or plan.proven


@pytest.mark.parametrize("seed", range(40))
def test_the_two_references_agree(seed: int) -> None:
    chain, cluster, _ = random_case(seed)
    assert SubsetProgramme(chain, cluster).best() == min(all_values(chain, cluster), default=None)


@pytest.mark.parametrize("seed", range(12))
def test_paths_that_visit_every_node_once_are_found_and_proven(seed: int) -> None:
    chain, cluster, order = hidden_path(seed, count=9)
    plan = solve(chain, cluster, clock=standing)
    assert_valid(plan, chain, cluster)
    assert (plan.bottleneck_s, plan.proven, sorted(plan.nodes)) == (1.0, True, sorted(order))


@pytest.mark.parametrize("seed", range(12))
def test_a_split_without_a_byte_to_spare_is_found(seed: int) -> None:
    chain, cluster = exact_fit(seed, count=10)
    plan = solve(chain, cluster, clock=standing)
    assert_valid(plan, chain, cluster)
    assert (len(plan.stages), plan.proven) == (10, True)


@pytest.mark.parametrize("seed", range(12))
def test_equal_nodes_with_just_enough_memory_are_each_used_once(seed: int) -> None:
    rng = random.Random(seed)
    chain = make_chain([rng.randrange(1, 9) for _ in range(9)], memory=[rng.randrange(2, 6) for _ in range(8)])
    nodes = range(7)
    shelves = make_cluster(
        [7] * 7, bandwidth_bytes_per_s=tuple(tuple(4.0 - (i // 4 != j // 4) for j in nodes) for i in nodes)
    )
    optimum = SubsetProgramme(chain, shelves).best()
    plan = solved(lambda: solve(chain, shelves, clock=standing))
    assert (plan is None) == (optimum is None)
    if plan is not None and optimum is not None:
        assert value_of(plan) == pytest.approx(optimum)
        assert len(set(plan.nodes)) == len(plan.nodes)
        assert plan.proven


# Closed forms.


@pytest.mark.parametrize(("blocks", "nodes"), [(1, 1), (6, 3), (7, 3), (4, 4), (3, 5)])
def test_equal_blocks_on_equal_nodes_are_shared_out_evenly(blocks: int, nodes: int) -> None:
    chain = make_chain([0] * (blocks + 1), flops=[8] * blocks)
    plan = solve(chain, make_cluster([None] * nodes, [2.0] * nodes), clock=standing)
    used = min(blocks, nodes)
    assert plan.bottleneck_s == math.ceil(blocks / used) * 4.0
    assert plan.latency_s == blocks * 4.0
    assert len(plan.stages) == math.ceil(blocks / math.ceil(blocks / used))
    assert plan.proven


def test_one_node_computes_everything_one_block_after_the_other() -> None:
    chain = make_chain((8, 100, 4), flops=(6, 10))
    cluster = make_cluster([None], [2.0], source_bytes_per_s=(4.0,), sink_bytes_per_s=(1.0,))
    plan = solve(chain, cluster, clock=standing)
    assert stages_of(plan) == [(0, 2, "n0")]
    assert [step.seconds for step in plan.steps] == [2.0, 8.0, 4.0]
    assert (plan.bottleneck_s, plan.latency_s, plan.gap) == (8.0, 14.0, 0.0)


def test_a_frame_that_is_published_is_as_large_as_is_said() -> None:
    cluster = make_cluster([None], [2.0], source_bytes_per_s=(4.0,))
    plan = solve(make_chain((8, 4), flops=(2,), frame_bytes=2), cluster)
    assert [(step.size_bytes, step.seconds) for step in plan.steps] == [(2, 0.5), (0, 1.0), (4, 0.0)]


def test_one_block_goes_to_the_node_where_its_slowest_step_is_quickest() -> None:
    cluster = make_cluster([9, 9, 1], [1.0, 2.0, 100.0], source_bytes_per_s=(8.0, 1.0, 8.0))
    plan = solve(make_chain((8, 8), memory=(5,), flops=(6,)), cluster)
    assert (stages_of(plan), plan.bottleneck_s) == ([(0, 1, "n0")], 6.0)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_chain_on_a_line_of_links_follows_the_line(count: int) -> None:
    line = tuple(tuple(2.0 if j == i + 1 else 0.0 for j in range(count)) for i in range(count))
    cluster = make_cluster([1] * count, [4.0] * count, bandwidth_bytes_per_s=line)
    plan = solve(make_chain(range(count + 1), memory=[1] * count, flops=[4] * count), cluster, clock=standing)
    assert stages_of(plan) == [(index, index + 1, f"n{index}") for index in range(count)]
    assert plan.bottleneck_s == max(1.0, (count - 1) / 2)
    assert plan.latency_s == count + sum(range(1, count)) / 2


def test_a_star_takes_the_uplink_and_then_the_downlink_and_its_rate_is_that_of_the_slower_one() -> None:
    cluster = make_cluster([1, 1], topology="star", up_bytes_per_s=(4.0, 0.0), down_bytes_per_s=(0.0, 8.0))
    plan = solve(make_chain((0, 16, 0), memory=(1, 1)), cluster)
    assert (plan.nodes, plan.bottleneck_s, plan.latency_s) == (("n0", "n1"), 16 / 4, 16 / 4 + 16 / 8)


def test_an_activation_above_the_payload_limit_pays_for_its_chunks_or_is_not_sent() -> None:
    chain = make_chain((0, 16, 0), memory=(1, 1))
    cluster = make_cluster([1, 1], message_overhead_s=0.5, max_payload_bytes=5)
    assert solve(chain, cluster).bottleneck_s == 4 * 0.5
    with pytest.raises(NoPlanError, match="larger than the broker's limit of 5 bytes"):
        solve(chain, replace(cluster, chunked=False))


def test_the_farthest_reachable_prefix_does_not_win_where_links_are_unequal() -> None:
    """n0 holds two blocks, but only behind the first is its link to a node that holds the rest quick enough."""
    chain = make_chain((0, 1, 100, 0), memory=(1, 1, 1))
    plan = solve(chain, make_cluster([2, 2], bandwidth_bytes_per_s=full_mesh(2, 1.0)))
    assert [(stage.first_block, stage.end_block) for stage in plan.stages] == [(0, 1), (1, 3)]
    assert plan.bottleneck_s == 1.0


def test_of_equal_bottlenecks_the_least_latency_wins_and_of_those_the_fewest_nodes() -> None:
    chain = make_chain((0, 2, 1, 0), flops=(2, 2, 4))
    plan = solve(chain, make_cluster([None] * 3, [1.0] * 3, bandwidth_bytes_per_s=full_mesh(3, 1.0)))
    assert stages_of(plan) == [(0, 2, "n0"), (2, 3, "n1")]
    assert (plan.bottleneck_s, plan.latency_s) == (4.0, 9.0)


def test_the_objectives_differ_where_a_quick_rate_costs_a_long_way() -> None:
    chain = make_chain((0, 3, 0), flops=(4, 4))
    cluster = make_cluster([None] * 2, [1.0] * 2, bandwidth_bytes_per_s=full_mesh(2, 1.0))
    rate, latency = solve(chain, cluster), solve(chain, cluster, objective="latency")
    assert value_of(rate) == Value(4.0, 11.0, 2)
    assert value_of(latency) == Value(8.0, 8.0, 1)
    assert (latency.value_s, latency.gap, latency.proven) == (8.0, 0.0, True)


def test_a_free_plan_has_no_gap() -> None:
    plan = solve(make_chain((1, 1)), make_cluster([None]))
    assert (plan.bottleneck_s, plan.latency_s, plan.gap, plan.proven) == (0.0, 0.0, 0.0, True)


# Ties that floating point decides.


def test_of_free_plans_the_one_with_fewer_nodes_wins() -> None:
    chain = make_chain((0, 0, 0), memory=(5, 5))
    assert stages_of(solve(chain, make_cluster([5, 10]))) == [(0, 2, "n1")]


def test_the_plan_with_fewer_nodes_wins_where_only_transfers_take_time() -> None:
    cluster = make_cluster([5, 10], source_bytes_per_s=(8.0, 8.0))
    assert stages_of(solve(make_chain((8, 0, 8), memory=(5, 5)), cluster)) == [(0, 2, "n1")]


def test_rounding_of_a_bottleneck_does_not_cost_latency() -> None:
    chain = make_chain((0, 1, 100, 0), flops=(1, 1, 1))
    plan = solve(chain, make_cluster([None] * 2, [10.0] * 2, bandwidth_bytes_per_s=full_mesh(2, 1000.0)))
    assert value_of(plan) == pytest.approx((0.2, 0.301, 2))


def test_a_very_slow_node_does_not_change_the_least_latency() -> None:
    chain = make_chain((0, 0, 0), memory=(5, 5), flops=(10**12, 10**12))
    quick = make_cluster([10, 5, 5], [1e9, 2e9, 2e9])
    slow = make_cluster([10, 5, 5, 10], [1e9, 2e9, 2e9, 1e-3])
    assert solve(chain, slow, objective="latency").latency_s == solve(chain, quick, objective="latency").latency_s


# Invariants.


@given(seed=SEEDS)
def test_a_plan_is_valid_and_its_steps_are_what_the_definitions_give(seed: int) -> None:
    chain, cluster, stages = random_case(seed, max_blocks=9, max_nodes=6)
    for objective in ("bottleneck", "latency"):
        plan = solved(lambda: solve(chain, cluster, objective=objective, stages=stages, clock=standing))  # noqa: B023 - called at once
        if plan is not None:
            assert_valid(plan, chain, cluster)
            assert stages in (None, len(plan.stages))
            assert plan.objective == objective


@given(seed=SEEDS)
def test_the_same_input_gives_the_same_plan(seed: int) -> None:
    chain, cluster, stages = random_case(seed, max_blocks=9, max_nodes=6)
    one, other = (solved(lambda: solve(chain, cluster, stages=stages, clock=standing)) for _ in range(2))
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert replace(one, solve_s=0.0) == replace(other, solve_s=0.0)


@given(seed=SEEDS, data=st.data())
def test_without_a_node_it_is_never_better(seed: int, data: st.DataObject) -> None:
    chain, cluster, _ = random_case(seed, max_blocks=8, max_nodes=5)
    kept = [name for name in cluster.names if name != data.draw(st.sampled_from(cluster.names))]
    for objective in ("bottleneck", "latency"):
        if kept:
            fewer = value_or_infinite(chain, cluster.subset(kept), objective)
            assert value_or_infinite(chain, cluster, objective) <= fewer


@given(seed=SEEDS, more=st.integers(1, 20), data=st.data())
def test_more_memory_never_makes_it_worse(seed: int, more: int, data: st.DataObject) -> None:
    chain, cluster, _ = random_case(seed, max_blocks=8, max_nodes=5)
    chosen = data.draw(st.sampled_from(cluster.names))
    nodes = tuple(
        replace(node, memory_bytes=node.memory_bytes + more)
        if node.name == chosen and node.memory_bytes is not None
        else node
        for node in cluster.nodes
    )
    for objective in ("bottleneck", "latency"):
        grown = value_or_infinite(chain, replace(cluster, nodes=nodes), objective)
        assert grown <= value_or_infinite(chain, cluster, objective)


def with_links(cluster: Cluster, change: Any) -> Cluster:
    """Every row of bandwidths through `change(row)`."""

    def row(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(change(values))

    mesh = cluster.bandwidth_bytes_per_s
    return replace(
        cluster,
        bandwidth_bytes_per_s=None if mesh is None else tuple(row(values) or () for values in mesh),
        up_bytes_per_s=row(cluster.up_bytes_per_s),
        down_bytes_per_s=row(cluster.down_bytes_per_s),
        source_bytes_per_s=row(cluster.source_bytes_per_s),
        sink_bytes_per_s=row(cluster.sink_bytes_per_s),
    )


@given(seed=SEEDS, randomness=st.randoms(use_true_random=False))
def test_more_bandwidth_never_makes_it_worse(seed: int, randomness: random.Random) -> None:
    chain, cluster, _ = random_case(seed, max_blocks=8, max_nodes=5)
    wider = with_links(cluster, lambda row: [value + randomness.choice((0.0, 1.0, 4.0)) for value in row])
    for objective in ("bottleneck", "latency"):
        before = value_or_infinite(chain, cluster, objective)
        assert value_or_infinite(chain, wider, objective) <= before + 1e-9


@given(seed=SEEDS, randomness=st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_changes_no_value(seed: int, randomness: random.Random) -> None:
    chain, cluster, stages = random_case(seed, max_blocks=8, max_nodes=5)
    names = list(cluster.names)
    randomness.shuffle(names)
    one, other = (
        solved(lambda: solve(chain, some, stages=stages, clock=standing))  # noqa: B023 - called at once
        for some in (cluster, cluster.subset(names))
    )
    assert (None if one is None else value_of(one)) == (None if other is None else value_of(other))


@given(seed=SEEDS, randomness=st.randoms(use_true_random=False))
def test_the_names_of_the_nodes_change_nothing_but_names(seed: int, randomness: random.Random) -> None:
    chain, cluster, stages = random_case(seed, max_blocks=8, max_nodes=5)
    names = list(cluster.names)
    randomness.shuffle(names)
    renamed = replace(
        cluster, nodes=tuple(replace(node, name=name) for node, name in zip(cluster.nodes, names, strict=True))
    )
    to = dict(zip(cluster.names, names, strict=True))
    measured = {to[name]: seconds for name, seconds in chain.block_seconds.items()}
    one = solved(lambda: solve(chain, cluster, stages=stages, clock=standing))
    other = solved(lambda: solve(replace(chain, block_seconds=measured), renamed, stages=stages, clock=standing))
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert [to[name] for name in one.nodes] == list(other.nodes)
        assert value_of(one) == value_of(other)


@given(seed=SEEDS, factor=st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_machines_and_links_so_many_times_faster_take_so_many_times_less(seed: int, factor: float) -> None:
    chain, cluster, _ = random_case(seed, max_blocks=8, max_nodes=5)
    chain = replace(chain, block_seconds={}, codecs=())  # whose seconds are those of another machine
    nodes = tuple(
        replace(node, flops_per_s=None if node.flops_per_s is None else node.flops_per_s * factor)
        for node in cluster.nodes
    )
    faster = replace(
        with_links(cluster, lambda row: [value * factor for value in row]),
        nodes=nodes,
        message_overhead_s=cluster.message_overhead_s / factor,
    )
    for objective in ("bottleneck", "latency"):
        one, other = (
            solved(lambda: solve(chain, some, objective=objective, clock=standing))  # noqa: B023 - called at once
            for some in (cluster, faster)
        )
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (other.bottleneck_s * factor, other.latency_s * factor) == (one.bottleneck_s, one.latency_s)


@given(seed=SEEDS)
def test_no_forced_number_of_stages_is_better_than_the_planners_choice(seed: int) -> None:
    chain, cluster, _ = random_case(seed, max_blocks=7, max_nodes=4)
    values = [
        solved(lambda: solve(chain, cluster, stages=count, clock=standing))  # noqa: B023 - called at once
        for count in range(1, min(chain.blocks, len(cluster.nodes)) + 1)
    ]
    least = min((plan.bottleneck_s for plan in values if plan is not None), default=INF)
    assert value_or_infinite(chain, cluster) == least


# Time.


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.looks = itertools.count()

    def __call__(self) -> float:
        return float(next(self.looks))


@pytest.mark.parametrize("objective", ["bottleneck", "latency"])
@pytest.mark.parametrize("seed", range(30))
def test_without_time_a_valid_plan_and_a_true_bound_come_back(seed: int, objective: Objective) -> None:
    rng = random.Random(seed)
    chain, cluster = random_chain(rng, 10), random_cluster(rng, 7, memory=(7, 16))
    best = solved(lambda: solve(chain, cluster, objective=objective, clock=standing))
    plan = solved(lambda: solve(chain, cluster, objective=objective, time_limit_s=0.0, clock=Clock()))
    assert (plan is None) == (best is None)
    if plan is not None and best is not None:
        assert_valid(plan, chain, cluster)
        assert plan.lower_bound_s <= best.value_s + 1e-9
        assert best.value_s <= plan.value_s
        assert plan.proven == (plan.gap <= 1e-9)
        assert not plan.proven or plan.value_s == pytest.approx(best.value_s)


def test_a_gap_that_time_left_open_is_reported_as_such() -> None:
    """Memory so tight that nearly all nodes are needed: quick to find a plan for, slow to prove one."""
    hard_case = hard("tight", 20, 60, 0)
    plan = solve(hard_case.chain, hard_case.cluster, time_limit_s=0.0, clock=Clock())
    best = solve(hard_case.chain, hard_case.cluster, clock=lambda: 0.0)
    assert_valid(plan, hard_case.chain, hard_case.cluster)
    assert (best.proven, best.gap) == (True, 0.0)
    assert plan.lower_bound_s < best.bottleneck_s <= plan.bottleneck_s
    assert not plan.proven
    assert plan.gap == pytest.approx(1 - plan.lower_bound_s / plan.bottleneck_s)


def test_a_clock_that_stands_still_never_runs_out_and_solving_takes_no_time() -> None:
    hard_case = hard("ring", 20, 60, 0)
    plan = solve(hard_case.chain, hard_case.cluster, time_limit_s=0.0, clock=lambda: 5.0)
    assert (plan.proven, plan.solve_s) == (True, 0.0)


def test_the_time_that_solving_took_is_read_from_the_clock() -> None:
    ticks = itertools.chain([10.0], itertools.repeat(12.5))
    assert solve(make_chain((1, 1)), make_cluster([None]), clock=lambda: next(ticks)).solve_s == 2.5


def test_a_search_that_gives_up_does_not_claim_that_there_is_no_plan() -> None:
    chain, cluster, order = hidden_path(seed=6, count=18)
    assert solve(chain, cluster, time_limit_s=60.0).proven
    try:
        plan = solve(chain, cluster, time_limit_s=0.0)
    except NoPlanError as error:
        assert "no path of links" not in str(error)
    else:
        assert sorted(plan.nodes) == sorted(order)


def test_a_search_that_gives_up_does_not_blame_links_that_nobody_counts() -> None:
    chain, cluster = exact_fit(seed=0, count=10)
    try:
        plan = solve(chain, cluster, time_limit_s=0.0)
    except NoPlanError as error:
        assert "link" not in str(error)
    else:
        assert_valid(plan, chain, cluster)


# A plan that is given.


@given(SEEDS)
def test_a_given_plan_costs_what_the_planner_says_of_it(seed: int) -> None:
    chain, cluster, stages = random_case(seed)
    plan = solved(lambda: solve(chain, cluster, stages=stages, clock=standing))
    if plan is not None:
        given_plan = price(chain, cluster, plan.stages)
        assert (given_plan.stages, given_plan.steps) == (plan.stages, plan.steps)
        assert (given_plan.bottleneck_s, given_plan.latency_s) == (plan.bottleneck_s, plan.latency_s)
        assert given_plan.lower_bound_s == 0


def test_a_given_plan_runs_on_the_very_nodes_that_it_names_though_others_are_equal() -> None:
    chain, cluster = make_chain((1, 1, 1)), make_cluster((None,) * 4)
    stages = (Stage(first_block=0, end_block=1, node="n3"), Stage(first_block=1, end_block=2, node="n1"))
    assert price(chain, cluster, stages).stages == stages


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (((0, 1, "n0"),), "do not cover blocks 0 to 1"),
        (((0, 1, "n0"), (1, 1, "n1"), (1, 2, "n2")), "empty"),
        (((1, 2, "n0"), (0, 1, "n1")), "in order"),
        (((0, 1, "n0"), (1, 2, "n0")), "node 'n0' has two of the given stages"),
        (((0, 1, "n0"), (1, 2, "w")), "node 'w' of a given stage is not there"),
        (((0, 2, "n0"),), "blocks 0 to 1 need 6 bytes, and node 'n0' has 4"),
        (((0, 1, "n0"), (1, 2, "n1")), "the 7 bytes of cut 1 cannot go from n0 to n1"),
    ],
)
def test_a_given_plan_that_is_none_is_refused(stages: tuple[tuple[int, int, str], ...], said: str) -> None:
    chain = make_chain((1, 7, 1), memory=(3, 3))
    cluster = make_cluster((4, 4, 4), bandwidth_bytes_per_s=((0, 0, 1), (1, 0, 1), (1, 1, 0)))
    given_stages = [Stage(first_block=first, end_block=end, node=node) for first, end, node in stages]
    with pytest.raises(NoPlanError, match=said):
        price(chain, cluster, given_stages)
