from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from planner.problem import make_problem
from tests.unit.planner_reference import (
    compute_s,
    edge_s,
    full_mesh,
    make_chain,
    make_cluster,
    random_case,
    transfer,
)


def classes(cluster: Any, **chain: Any) -> list[tuple[int, ...]]:
    return list(make_problem(make_chain((4, 4, 4), **chain), cluster).members)


@pytest.mark.parametrize("seed", range(60))
def test_every_time_is_the_one_that_the_definitions_give(seed: int) -> None:
    chain, cluster, _ = random_case(seed)
    problem = make_problem(chain, cluster)
    blocks = range(chain.blocks + 1)
    for index, group in enumerate(problem.members):
        for node, (first, end) in itertools.product(group, itertools.combinations(blocks, 2)):
            assert problem.stage_s[index, first, end] == compute_s(chain, cluster, node, first, end)
        for node in group:
            assert problem.source_s[index] == edge_s(cluster, cluster.source_bytes_per_s, node, chain.published_bytes)
            assert problem.sink_s[index] == edge_s(cluster, cluster.sink_bytes_per_s, node, chain.cut_bytes[-1])
    for (one, senders), (other, receivers) in itertools.product(enumerate(problem.members), repeat=2):
        for sender, receiver, cut in itertools.product(senders, receivers, range(1, chain.blocks)):
            if sender != receiver:
                between = problem.transfer_s[cut, one, other], problem.link_s[cut, one, other]
                assert between == transfer(chain, cluster, cut, sender, receiver)


@pytest.mark.parametrize("seed", range(60))
def test_every_node_is_in_exactly_one_class(seed: int) -> None:
    chain, cluster, _ = random_case(seed)
    members = make_problem(chain, cluster).members
    assert sorted(itertools.chain(*members)) == list(range(len(cluster.nodes)))


def test_a_stage_takes_no_blocks_and_never_runs_backwards() -> None:
    problem = make_problem(make_chain((1, 1, 1)), make_cluster([None]))
    assert [[math.isinf(problem.stage_s[0, i, j]) for j in range(3)] for i in range(3)] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_nothing_crosses_a_missing_link_not_even_zero_bytes() -> None:
    links = ((0.0, 0.0), (4.0, 0.0))
    cluster = make_cluster([1, 1], bandwidth_bytes_per_s=links, source_bytes_per_s=(0.0, 4.0))
    problem = make_problem(make_chain((0, 0, 0)), cluster)
    assert problem.transfer_s[1].tolist() == [[math.inf, math.inf], [0.0, math.inf]]
    assert problem.source_s.tolist() == [math.inf, 0.0]


def test_a_link_of_infinite_bandwidth_takes_no_time() -> None:
    problem = make_problem(make_chain((9, 9, 9)), make_cluster([1, 2], bandwidth_bytes_per_s=full_mesh(2, math.inf)))
    assert problem.transfer_s[1, 0, 1] == 0.0


def test_equal_nodes_are_one_class_whether_mesh_star_or_unlinked() -> None:
    assert classes(make_cluster([5] * 4)) == [(0, 1, 2, 3)]
    assert classes(make_cluster([5] * 4, bandwidth_bytes_per_s=full_mesh(4, 2.0))) == [(0, 1, 2, 3)]
    star = make_cluster([5, 5, 5], topology="star", up_bytes_per_s=(1.0, 2.0, 1.0), down_bytes_per_s=(1.0, 1.0, 1.0))
    assert classes(star) == [(0, 2), (1,)]


@pytest.mark.parametrize(
    "difference",
    [
        {"memory": [5, 6]},
        {"speed": [1.0, 2.0]},
        {"bandwidth_bytes_per_s": ((0.0, 1.0), (2.0, 0.0))},
        {"source_bytes_per_s": (1.0, 2.0)},
        {"sink_bytes_per_s": (1.0, 2.0)},
    ],
)
def test_one_difference_keeps_two_nodes_apart(difference: dict[str, Any]) -> None:
    assert classes(make_cluster(**{"memory": [5, 5], **difference}), flops=(1, 1)) == [(0,), (1,)]


def test_measured_seconds_on_one_of_two_nodes_keep_them_apart() -> None:
    cluster = make_cluster([5, 5], [1.0, 1.0])
    assert classes(cluster, flops=(1, 1), block_seconds={"n1": (1.0, 1.0)}) == [(0, 1)]
    assert classes(cluster, flops=(1, 1), block_seconds={"n1": (1.0, 2.0)}) == [(0,), (1,)]


def test_pairs_that_are_equal_within_but_not_across_are_two_classes() -> None:
    near, far = 8.0, 1.0
    links = tuple(tuple(near if (i < 2) == (j < 2) else far for j in range(4)) for i in range(4))
    problem = make_problem(make_chain((8, 8, 8)), make_cluster([5] * 4, bandwidth_bytes_per_s=links))
    assert problem.members == ((0, 1), (2, 3))
    assert problem.transfer_s[1].tolist() == [[1.0, 8.0], [8.0, 1.0]]


def test_uplink_and_downlink_of_a_star_are_busy_at_the_same_time_and_a_frame_takes_both() -> None:
    star = make_cluster([5, 6], topology="star", up_bytes_per_s=(2.0, 8.0), down_bytes_per_s=(1.0, 4.0))
    problem = make_problem(make_chain((8, 8, 8)), star)
    assert (problem.transfer_s[1, 0, 1], problem.link_s[1, 0, 1]) == (4.0 + 2.0, 4.0)
    assert (problem.transfer_s[1, 1, 0], problem.link_s[1, 1, 0]) == (1.0 + 8.0, 8.0)


def test_nodes_of_a_star_whose_slowest_links_differ_are_kept_apart_though_the_sums_are_the_same() -> None:
    sums_alone: dict[str, Any] = {"up_bytes_per_s": (1 / 8, 1 / 4), "down_bytes_per_s": (1 / 4, math.inf)}
    assert classes(make_cluster([5, 5], topology="star", **sums_alone)) == [(0,), (1,)]
    all_the_same: dict[str, Any] = {"up_bytes_per_s": (1.0, 0.5), "down_bytes_per_s": (1.0, 0.5)}
    assert classes(make_cluster([5, 5], topology="star", **all_the_same)) == [(0, 1)]


def test_a_class_of_one_cannot_send_to_itself() -> None:
    assert math.isinf(make_problem(make_chain((1, 1, 1)), make_cluster([5, 6])).transfer_s[1, 0, 0])


def test_two_links_that_together_are_too_slow_for_floating_point_are_none() -> None:
    star = make_cluster([5, 6], topology="star", up_bytes_per_s=(1e-308, 1.0), down_bytes_per_s=(1.0, 1e-308))
    problem = make_problem(make_chain((1, 1, 1)), star)
    assert (problem.transfer_s[1, 0, 1], problem.link_s[1, 0, 1]) == (math.inf, math.inf)


def test_a_chain_too_slow_for_floating_point_warns_of_nothing() -> None:
    problem = make_problem(make_chain((1, 1, 1), flops=(10**300, 1)), make_cluster([None], [1e-300]))
    assert math.isinf(problem.stage_s[0, 0, 1])
