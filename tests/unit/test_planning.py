from __future__ import annotations

from typing import Any

import pytest

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.plan import NoPlanError, Plan, Stage
from tests.unit.planner_reference import full_mesh, make_chain
from understudy.planning import PipelinePlanner

LIMIT = 1000
CHAIN = make_chain((8, 4, 4, 4, 8), memory=(1, 1, 1, 1), flops=(4, 4, 4, 4))


def cluster(*names: str, memory: int | None = None, **links: Any) -> Cluster:
    nodes = tuple(NodeSpec(name=name, memory_bytes=memory, flops_per_s=float(4 + i)) for i, name in enumerate(names))
    return Cluster(nodes=nodes, **links)


def nodes(*names: str, memory: int | None = None) -> tuple[NodeSpec, ...]:
    return tuple(NodeSpec(name=name, memory_bytes=memory) for name in names)


def plan(
    there: tuple[NodeSpec, ...],
    *,
    chain: Chain = CHAIN,
    stages: int | None = None,
    plans_before: int = 0,
    described: Cluster | None = None,
    limit: int = LIMIT,
    given: tuple[Stage, ...] = (),
) -> Plan:
    planner = PipelinePlanner(chain, stages=stages, max_payload_bytes=limit, cluster=described, given=given)
    return planner(there, plans_before)


def sizes(found: Plan) -> list[int]:
    return [stage.end_block - stage.first_block for stage in found.stages]


def test_without_a_cluster_the_least_largest_stage_wins() -> None:
    assert sizes(plan(nodes("a", "b"))) == [2, 2]
    assert sizes(plan(nodes("a", "b", "c", "d"))) == [1, 1, 1, 1]
    uneven = make_chain((1, 1, 1, 1), flops=(9, 1, 1))
    assert sizes(plan(nodes("a", "b"), chain=uneven)) == [1, 2]


def test_a_node_that_was_profiled_as_slow_gets_less_and_one_that_was_not_counts_as_the_average() -> None:
    chain = make_chain((8, 4, 4, 4, 8), flops=(4, 4, 4, 4), block_seconds={"a": (3.0,) * 4, "b": (1.0,) * 4})
    found = plan(nodes("a", "b"), chain=chain)
    assert {stage.node: stage.end_block - stage.first_block for stage in found.stages} == {"a": 1, "b": 3}
    found = plan(nodes("a", "c"), chain=chain)
    assert {step.node: step.seconds for step in found.steps if step.kind == "compute"}["c"] % 2 == 0


def test_the_memory_that_nodes_report_is_respected() -> None:
    there = (NodeSpec(name="a", memory_bytes=1), NodeSpec(name="b", memory_bytes=3))
    found = plan(there)
    assert {stage.node: stage.end_block - stage.first_block for stage in found.stages} == {"a": 1, "b": 3}


def test_the_number_of_stages_that_was_asked_for_is_kept() -> None:
    for stages in (1, 2, 3):
        assert len(plan(nodes("a", "b", "c"), stages=stages).stages) == stages


def test_the_first_plan_insists_on_the_stages_and_later_ones_make_do_with_the_survivors() -> None:
    with pytest.raises(NoPlanError, match="3 stages need 3 nodes, and there are 2"):
        plan(nodes("a", "b"), stages=3)
    assert len(plan(nodes("a", "b"), stages=3, plans_before=1).stages) == 2
    assert len(plan(nodes("a"), stages=3, plans_before=2).stages) == 1
    assert len(plan(nodes("a", "b", "c", "d"), stages=3, plans_before=3).stages) == 3


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(NoPlanError, match="at most 4"):
        plan(nodes(*"abcdef"), stages=5)


def test_a_cluster_is_planned_for_the_nodes_that_are_there_alone() -> None:
    described = cluster("a", "b", "c", bandwidth_bytes_per_s=full_mesh(3, 1e3))
    assert set(plan(nodes("c", "a"), described=described).nodes) <= {"a", "c"}
    assert plan(nodes("b"), described=described).nodes == ("b",)


def test_speeds_and_links_of_the_cluster_decide() -> None:
    apart = cluster("a", "b", "c", bandwidth_bytes_per_s=((0.0, 0.0, 0.0), (0.0, 0.0, 1e3), (0.0, 1e3, 0.0)))
    assert set(plan(nodes("a", "b", "c"), described=apart).nodes) == {"b", "c"}
    assert plan(nodes("a", "b"), described=apart).nodes == ("b",)


def test_nodes_that_the_cluster_does_not_name_are_left_out() -> None:
    assert plan(nodes("a", "stranger"), described=cluster("a", "b")).nodes == ("a",)
    with pytest.raises(NoPlanError, match=r"none of the nodes that are there \(stranger\) is in the cluster file"):
        plan(nodes("stranger"), described=cluster("a", "b"))


def test_strangers_do_not_count_as_survivors_for_the_stages() -> None:
    found = plan(nodes("a", "x", "y"), stages=3, plans_before=1, described=cluster("a", "b", "c"))
    assert found.nodes == ("a",)


@pytest.mark.parametrize(("described", "reported"), [(2, None), (None, 2), (2, 9), (9, 2)])
def test_the_smaller_of_the_described_and_the_reported_memory_counts(
    described: int | None, reported: int | None
) -> None:
    found = plan(nodes("a", "b", memory=reported), described=cluster("a", "b", memory=described))
    assert sizes(found) == [2, 2]
    with pytest.raises(NoPlanError, match="2 bytes are missing"):
        plan(nodes("a", memory=reported), described=cluster("a", "b", memory=described))


@pytest.mark.parametrize("described", [None, cluster("a", "b", max_payload_bytes=10**9)])
def test_a_cut_above_the_brokers_limit_is_avoided(described: Cluster | None) -> None:
    chain = make_chain((8, 2000, 4, 2000, 8), memory=(1, 1, 1, 1), flops=(4, 4, 4, 4))
    assert sizes(plan(nodes("a", "b"), chain=chain, stages=2, described=described)) == [2, 2]
    with pytest.raises(NoPlanError, match=f"larger than the broker's limit of {LIMIT} bytes"):
        plan(nodes("a", "b", "c"), chain=chain, stages=3)


def test_an_activation_of_exactly_the_limit_is_sent() -> None:
    chain = make_chain((8, LIMIT, 8), flops=(4, 4))
    assert sizes(plan(nodes("a", "b"), chain=chain)) == [1, 1]
    assert sizes(plan(nodes("a", "b"), chain=chain, limit=LIMIT - 1)) == [2]


def test_an_output_above_the_limit_stays_on_the_only_node() -> None:
    chain = make_chain((8, 4, 2000), flops=(4, 4))
    assert len(plan(nodes("a", "b"), chain=chain).stages) == 1
    assert len(plan(nodes("a", "b"), chain=chain, stages=1).stages) == 1
    assert len(plan(nodes("a"), chain=chain, stages=2, plans_before=1).stages) == 1
    with pytest.raises(NoPlanError, match="the output of 'tiny' has 2000 bytes, the broker takes 1000"):
        plan(nodes("a", "b"), chain=chain, stages=2)


def test_an_input_above_the_limit_does_not_keep_stages_together() -> None:
    assert sizes(plan(nodes("a", "b"), chain=make_chain((2000, 4, 8), flops=(4, 4)))) == [1, 1]


def test_survivors_that_cannot_hold_a_stage_do_not_keep_the_others_from_answering() -> None:
    there = (*nodes("a", "b", memory=2), NodeSpec(name="tiny", memory_bytes=0))
    assert len(plan(there, stages=3, plans_before=1).stages) == 2


GIVEN = (Stage(first_block=0, end_block=3, node="b"), Stage(first_block=3, end_block=4, node="a"))


def test_a_given_plan_is_served_while_its_nodes_are_there_however_bad_it_is() -> None:
    assert plan(nodes("a", "b", "c"), given=GIVEN).stages == GIVEN
    assert plan(nodes("a", "b"), given=GIVEN, plans_before=3).stages == GIVEN
    assert plan(nodes("a", "c"), given=GIVEN, plans_before=1).nodes == ("a", "c")


def test_the_first_plan_insists_on_the_given_one() -> None:
    with pytest.raises(NoPlanError, match="node 'b' of a given stage is not there"):
        plan(nodes("a", "c"), given=GIVEN)
    with pytest.raises(NoPlanError, match="blocks 0 to 2 need 3 bytes, and node 'b' has 2"):
        plan(nodes("a", "b", memory=2), given=GIVEN)
    chain = make_chain((8, 4, 4, 4, 2000), memory=(1, 1, 1, 1), flops=(4, 4, 4, 4))
    with pytest.raises(NoPlanError, match="the output of 'tiny' has 2000 bytes"):
        plan(nodes("a", "b"), chain=chain, given=GIVEN)
