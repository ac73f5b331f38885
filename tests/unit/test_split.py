"""The split: equal to brute force on small cases, within every limit, and clear about why there is none."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.chain import Chain
from planner.cluster import NodeSpec
from planner.plan import NoPlanError, Plan
from planner.split import split


def chain(
    flops: Sequence[int],
    *,
    memory: Sequence[int] | None = None,
    peak: Sequence[int] | None = None,
    cuts: Sequence[int] | None = None,
) -> Chain:
    count = len(flops)
    return Chain(
        name="net",
        cut_bytes=tuple(cuts or [1] * (count + 1)),
        block_memory_bytes=tuple(memory or [1] * count),
        block_peak_bytes=tuple(peak or [0] * count),
        block_flops=tuple(flops),
    )


def nodes(*memories: int | None) -> list[NodeSpec]:
    return [NodeSpec(name=f"n{index}", memory_bytes=memory) for index, memory in enumerate(memories)]


def orders(given_nodes: list[NodeSpec]) -> list[list[NodeSpec]]:
    """The orders that the planner documents: as given, by descending memory, by ascending memory."""

    def size(node: NodeSpec) -> float:
        return float("inf") if node.memory_bytes is None else node.memory_bytes

    descending = sorted(given_nodes, key=size, reverse=True)
    return [given_nodes, descending, descending[::-1]]


def every_plan(
    model: Chain, order: list[NodeSpec], stages: int | None, max_cut_bytes: int | None
) -> Iterator[tuple[int, int]]:
    """(largest stage, number of stages) of every split and every choice of nodes in this order that is allowed."""
    blocks = model.blocks
    output_stays = max_cut_bytes is not None and model.cut_bytes[-1] > max_cut_bytes
    for count in range(1, min(blocks, len(order)) + 1) if stages is None else [stages]:
        if output_stays and count > 1:
            continue  # the output goes back to the head, which is on the first stage's node
        for inner in itertools.combinations(range(1, blocks), count - 1):
            if max_cut_bytes is not None and any(model.cut_bytes[cut] > max_cut_bytes for cut in inner):
                continue
            runs = list(itertools.pairwise((0, *inner, blocks)))
            for hosts in itertools.combinations(order, count):
                if all(host.holds(model.stage_memory_bytes(*run)) for host, run in zip(hosts, runs, strict=True)):
                    yield max(model.stage_flops(*run) for run in runs), count


def check(plan: Plan, model: Chain, given_nodes: list[NodeSpec]) -> None:
    """Everything that holds for every plan."""
    by_name = {node.name: node for node in given_nodes}
    bounds = [stage.first_block for stage in plan.stages] + [model.blocks]
    assert bounds[0] == 0
    assert [stage.end_block for stage in plan.stages] == bounds[1:]
    assert all(stage.first_block < stage.end_block for stage in plan.stages)
    assert len(set(plan.nodes)) == len(plan.stages)
    for stage in plan.stages:
        assert by_name[stage.node].holds(model.stage_memory_bytes(stage.first_block, stage.end_block))
    assert plan.largest_stage_flops == max(model.stage_flops(s.first_block, s.end_block) for s in plan.stages)
    assert plan.total_flops == sum(model.block_flops)


@pytest.mark.parametrize("seed", range(400))
def test_the_plan_is_the_best_that_brute_force_finds(seed: int) -> None:
    rng = random.Random(seed)
    blocks = rng.randint(1, 6)
    model = chain(
        [rng.randint(0, 9) for _ in range(blocks)],
        memory=[rng.randint(0, 5) for _ in range(blocks)],
        peak=[rng.randint(0, 4) for _ in range(blocks)],
        cuts=[rng.randint(1, 9) for _ in range(blocks + 1)],
    )
    machines = nodes(*(rng.choice([None, *range(3, 18)]) for _ in range(rng.randint(1, 4))))
    stages = rng.choice([None, None, rng.randint(1, min(blocks, len(machines)))])
    limit = rng.choice([None, rng.randint(1, 9)])
    best = min((found for order in orders(machines) for found in every_plan(model, order, stages, limit)), default=None)
    if best is None:
        with pytest.raises(NoPlanError):
            split(model, machines, stages=stages, max_cut_bytes=limit)
        return
    plan = split(model, machines, stages=stages, max_cut_bytes=limit)
    check(plan, model, machines)
    assert (plan.largest_stage_flops, len(plan.stages)) == best


def test_equal_blocks_on_equal_nodes_are_shared_out_evenly() -> None:
    plan = split(chain([1] * 12), nodes(None, None, None, None))
    assert [stage.end_block - stage.first_block for stage in plan.stages] == [3, 3, 3, 3]


def test_fewer_nodes_are_taken_where_more_are_no_faster() -> None:
    plan = split(chain([10, 1, 1]), nodes(None, None, None))
    assert plan.largest_stage_flops == 10
    assert len(plan.stages) == 2
    assert len(split(chain([10]), nodes(None, None, None)).stages) == 1


def test_a_small_node_gets_what_fits_it_wherever_it_stands_in_the_list() -> None:
    model = chain([1, 1], memory=[9, 2])
    assert split(model, nodes(2, 9), stages=2).nodes == ("n1", "n0")
    assert split(model, nodes(9, 2), stages=2).nodes == ("n0", "n1")


def test_the_peak_of_a_stage_is_counted_once_and_its_weights_are_added_up() -> None:
    model = chain([1, 1, 1], memory=[2, 2, 2], peak=[5, 7, 5])
    assert len(split(model, nodes(13)).stages) == 1
    with pytest.raises(NoPlanError):
        split(model, nodes(12))


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_a_wish_for_so_many_stages_is_met_exactly(stages: int) -> None:
    plan = split(chain([100, 1, 1, 1]), nodes(None, None, None, None), stages=stages)
    assert len(plan.stages) == stages


def test_a_cut_that_is_too_large_for_the_broker_is_never_between_two_stages() -> None:
    model = chain([4, 4, 4, 4], cuts=[1, 100, 11, 10, 1])
    assert [s.end_block for s in split(model, nodes(None, None), max_cut_bytes=11).stages] == [2, 4]
    assert [s.end_block for s in split(model, nodes(None, None), max_cut_bytes=10).stages] == [3, 4]
    assert [s.end_block for s in split(model, nodes(None, None), max_cut_bytes=9).stages] == [4]


def test_an_output_that_is_too_large_for_the_broker_stays_on_the_head_s_node() -> None:
    plan = split(chain([4, 4], cuts=[1, 1, 100]), nodes(None, None), max_cut_bytes=10)
    assert plan.nodes[0] == plan.nodes[-1]


def test_a_block_that_fits_no_node_is_named_with_the_bytes_that_are_missing() -> None:
    model = chain([1, 1, 1], memory=[5, 50, 5], peak=[0, 10, 0])
    with pytest.raises(NoPlanError, match=r"block 1 of 'net' needs 60 bytes.*\(n1\) offers 42: 18 bytes are missing"):
        split(model, nodes(10, 42))


def test_nodes_that_are_too_small_together_are_told_what_is_needed_and_what_they_offer() -> None:
    with pytest.raises(NoPlanError, match=r"'net' needs 40 bytes in one piece, the 2 node\(s\) offer 30 together"):
        split(chain([1] * 4, memory=[10] * 4), nodes(20, 10))


@pytest.mark.parametrize(
    ("machines", "stages", "says"),
    [
        ([], None, "there is no node"),
        ([None], 0, "at least 1 is needed"),
        ([None], 2, "2 stages need 2 nodes, and there are 1"),
        ([None] * 4, 4, "has 3 block.*at most 3"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_with_the_reason(
    machines: list[int | None], stages: int | None, says: str
) -> None:
    with pytest.raises(NoPlanError, match=says):
        split(chain([1, 1, 1]), nodes(*machines), stages=stages)


def test_a_model_without_a_cut_says_so() -> None:
    with pytest.raises(NoPlanError, match="it has no cut"):
        split(chain([1]), nodes(None, None), stages=2)


def test_a_broker_limit_that_forbids_every_fitting_split_is_named() -> None:
    model = chain([1, 1], memory=[5, 5], cuts=[1, 99, 1])
    with pytest.raises(NoPlanError, match="limit of 50 bytes"):
        split(model, nodes(5, 5), max_cut_bytes=50)


def test_memory_is_named_rather_than_the_broker_where_memory_is_what_is_missing() -> None:
    model = chain([1, 1], memory=[5, 5], cuts=[1, 99, 1])
    with pytest.raises(NoPlanError, match="1 bytes are missing"):
        split(model, nodes(4, 4), max_cut_bytes=50)


@st.composite
def instances(draw: st.DrawFn) -> tuple[Chain, list[NodeSpec]]:
    count = draw(st.integers(1, 7))
    numbers = st.lists(st.integers(0, 20), min_size=count, max_size=count)
    model = chain(draw(numbers), memory=draw(numbers), peak=draw(numbers))
    memories = draw(st.lists(st.none() | st.integers(0, 120), min_size=1, max_size=5))
    return model, nodes(*memories)


def largest(model: Chain, machines: list[NodeSpec]) -> float:
    try:
        return split(model, machines).largest_stage_flops
    except NoPlanError:
        return float("inf")


@given(instances())
def test_every_plan_covers_the_chain_once_and_keeps_within_memory(instance: tuple[Chain, list[NodeSpec]]) -> None:
    model, machines = instance
    try:
        plan = split(model, machines)
    except NoPlanError as error:
        assert "bytes" in str(error)
        return
    check(plan, model, machines)
    assert split(model, list(machines)) == plan


@given(instances(), st.lists(st.integers(0, 50), min_size=5, max_size=5))
def test_more_memory_on_any_nodes_never_makes_the_plan_worse(
    instance: tuple[Chain, list[NodeSpec]], more: list[int]
) -> None:
    model, machines = instance
    sizes = [node.memory_bytes for node in machines]
    larger = nodes(*(None if size is None else size + extra for size, extra in zip(sizes, more, strict=False)))
    assert largest(model, larger) <= largest(model, machines)


@given(instances(), st.none() | st.integers(0, 120))
def test_one_more_node_never_makes_the_plan_worse(instance: tuple[Chain, list[NodeSpec]], memory: int | None) -> None:
    model, machines = instance
    added = [*machines, NodeSpec(name="more", memory_bytes=memory)]
    assert largest(model, added) <= largest(model, machines)


@given(instances())
def test_no_plan_beats_the_mean_of_the_nodes_or_the_largest_block(instance: tuple[Chain, list[NodeSpec]]) -> None:
    model, machines = instance
    assert largest(model, machines) >= max(*model.block_flops, sum(model.block_flops) / len(machines))
