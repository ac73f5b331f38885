from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.paths import OutOfStatesError, find_path
from planner.problem import Problem, make_problem
from planner.search import Search, bottleneck, busy, candidates, durations
from planner.walk import Memory, Visit, quickest_walk, walk_exists
from tests.unit.planner_reference import all_values, full_mesh, hidden_path, make_chain, make_cluster, random_case

SEEDS = range(120)


def least_walk(problem: Problem, remembered: list[int], stages: int | None = None) -> float:
    memory = Memory.of(problem, remembered, stages)
    return next((float(v) for v in candidates(problem) if walk_exists(problem, memory, float(v))), math.inf)


def two_that_take_turns() -> Problem:
    """Blocks that each fill a node, which only two nodes can hold: walks go to and fro."""
    chain = make_chain((0, 0, 0, 0), memory=(3, 3, 3))
    return make_problem(chain, make_cluster([3, 4], bandwidth_bytes_per_s=full_mesh(2, 1.0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_walk_bound_never_exceeds_the_optimum_whatever_is_remembered(seed: int) -> None:
    chain, cluster, stages = random_case(seed)
    problem = make_problem(chain, cluster)
    optimum = min((value.bottleneck_s for value in all_values(chain, cluster, stages)), default=math.inf)
    some = [node for node in range(problem.classes) if random.Random(seed).random() < 0.5]
    bounds = [least_walk(problem, remembered, stages) for remembered in ([], some, list(range(problem.classes)))]
    assert bounds == sorted(bounds)
    assert bounds[-1] == optimum


@pytest.mark.parametrize("seed", SEEDS)
def test_the_quickest_walk_bounds_latency_and_meets_it_where_all_are_remembered(seed: int) -> None:
    chain, cluster, stages = random_case(seed)
    problem = make_problem(chain, cluster)
    optimum = min((value.latency_s for value in all_values(chain, cluster, stages)), default=math.inf)
    some = [node for node in range(problem.classes) if random.Random(seed).random() < 0.5]
    latencies = []
    for remembered in ([], some, list(range(problem.classes))):
        walk = quickest_walk(problem, Memory.of(problem, remembered, stages), math.inf)
        latencies.append(math.inf if walk is None else sum(durations(problem, walk[0])))
    assert latencies == sorted(latencies)
    assert latencies[-1] == optimum


@pytest.mark.parametrize("seed", SEEDS)
def test_a_quickest_walk_is_a_walk_within_the_limit_and_of_the_latency_that_it_states(seed: int) -> None:
    chain, cluster, stages = random_case(seed)
    problem = make_problem(chain, cluster)
    memory = Memory.of(problem, [0], stages)
    for limit_s in candidates(problem).tolist():
        walk = quickest_walk(problem, memory, limit_s)
        assert (walk is not None) == walk_exists(problem, memory, limit_s)
        if walk is None:
            continue
        visits, latency_s = walk
        assert [visit.start for visit in visits] == [0, *(visit.end for visit in visits[:-1])]
        assert visits[-1].end == chain.blocks
        assert all(visit.start < visit.end for visit in visits)
        assert stages in (None, len(visits))
        assert sum(visit.node == 0 for visit in visits) <= len(problem.members[0])
        assert bottleneck(problem, visits) <= limit_s
        assert sum(durations(problem, visits)) == pytest.approx(latency_s, abs=1e-9)


def test_a_walk_may_take_turns_until_a_node_is_remembered() -> None:
    problem = two_that_take_turns()
    assert walk_exists(problem, Memory.of(problem, [], None), 0.0)
    assert walk_exists(problem, Memory.of(problem, [1], None), 0.0)
    assert not walk_exists(problem, Memory.of(problem, [0, 1], None), 0.0)


def test_a_class_may_be_visited_as_often_as_it_has_members() -> None:
    for members, enough in ((2, False), (3, True)):
        problem = make_problem(make_chain((0, 0, 0, 0), memory=(3, 3, 3)), make_cluster([3] * members))
        assert problem.classes == 1
        assert walk_exists(problem, Memory.of(problem, [0], None), 0.0) is enough


def test_a_fixed_number_of_stages_is_kept_exactly() -> None:
    problem = make_problem(make_chain((0, 0, 0, 0)), make_cluster([None] * 5))
    for stages in (1, 2, 3):
        walk = quickest_walk(problem, Memory.of(problem, [0], stages), 0.0)
        assert walk is not None
        assert len(walk[0]) == stages
    assert not walk_exists(problem, Memory.of(problem, [0], 4), 0.0)


def test_memory_numbers_count_visits_in_mixed_radix() -> None:
    problem = make_problem(make_chain((0, 0, 0)), make_cluster([1, 1, 2, 3, 3, 3]))
    memory = Memory.of(problem, [2, 0], 2)
    assert (memory.size, memory.stage_stride) == (4 * 3 * 3, 4 * 3)
    number = memory.after(memory.after(0, 2), 0)
    assert number == 1 + 4 + 2 * 12
    assert memory.allowed[2][:4].tolist() == [True, True, True, False]
    assert not memory.allowed[:, 24:].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_diving_finds_simple_paths_within_the_limit_wherever_there_are_some(seed: int) -> None:
    chain, cluster, stages = random_case(seed)
    problem = make_problem(chain, cluster)
    optimum = min((value.bottleneck_s for value in all_values(chain, cluster, stages)), default=math.inf)
    for limit_s in candidates(problem).tolist():
        visits = find_path(problem, limit_s, stages)
        assert (visits is not None) == (optimum <= limit_s)
        if visits is not None:
            assert bottleneck(problem, visits) <= limit_s
            assert stages in (None, len(visits))
            counts = np.bincount([visit.node for visit in visits], minlength=problem.classes)
            assert (counts <= [len(group) for group in problem.members]).all()


def test_diving_gives_up_after_a_bounded_number_of_states() -> None:
    chain, cluster, _ = hidden_path(seed=6, count=18)
    with pytest.raises(OutOfStatesError):
        find_path(make_problem(chain, cluster), 1.0, None)


def test_steps_are_source_stages_transfers_and_sink_in_order() -> None:
    chain = make_chain((8, 4, 2), flops=(3, 5))
    cluster = make_cluster(
        [None, 9],
        [1.0, 1.0],
        bandwidth_bytes_per_s=full_mesh(2, 2.0),
        source_bytes_per_s=(1.0, 1.0),
        sink_bytes_per_s=(1.0, 1.0),
    )
    visits = [Visit(0, 0, 1), Visit(1, 1, 2)]
    mesh = make_problem(chain, cluster)
    assert durations(mesh, visits) == busy(mesh, visits) == [8.0, 3.0, 2.0, 5.0, 2.0]
    links: dict[str, Any] = {"topology": "star", "up_bytes_per_s": (4.0, 4.0), "down_bytes_per_s": (2.0, 2.0)}
    star = make_problem(chain, replace(cluster, bandwidth_bytes_per_s=None, **links))
    assert durations(star, visits) == [8.0, 3.0, 1.0 + 2.0, 5.0, 2.0]
    assert busy(star, visits) == [8.0, 3.0, 2.0, 5.0, 2.0]
    assert bottleneck(star, visits) == 8.0


def test_the_search_remembers_nodes_until_a_walk_is_a_path() -> None:
    chain, cluster, order = hidden_path(seed=1, count=8)
    problem = make_problem(chain, cluster)
    assert walk_exists(problem, Memory.of(problem, [], None), 1.0)
    search = Search(problem, stages=None, deadline_s=math.inf)
    found = search.least_bottleneck()
    assert found is not None
    assert sorted(problem.members[visit.node][0] for visit in found.visits) == list(range(len(order)))
    assert search._remembered
