"""Codecs and the planner: which transfers use one, what that changes, and what may be used at all."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster import Cluster
from planner.codec import CodecCost, CodecError, quickest, within
from planner.solve import solve
from recovery.estimates import Estimates
from tests.unit.planner_reference import full_mesh, make_chain, make_cluster, random_case, solved, transfer

MB = 1_000_000


def cost(
    name: str, ratio: float, encode_s: float = 0.0, decode_s: float = 0.0, cuts: int = 3, **facts: Any
) -> CodecCost:
    """The same at every cut; seconds for a megabyte."""
    each = {"ratio": ratio, "encode_s_per_byte": encode_s / MB, "decode_s_per_byte": decode_s / MB}
    return CodecCost(name=name, **{key: (value,) * cuts for key, value in each.items()}, **facts)


ZSTD = cost("zstd", 0.5, 0.002, 0.001)
INT8 = cost("int8", 0.25, 0.0005, 0.0003)
BOTH = cost("int8+zstd", 0.125, 0.002, 0.001)


def two_nodes(bytes_per_s: float, **links: Any) -> Cluster:
    """Two nodes that hold one block each."""
    return make_cluster([1, 1], bandwidth_bytes_per_s=full_mesh(2, bytes_per_s), **links)


def chain_of(*codecs: CodecCost, size: int = MB, **others: Any) -> Any:
    return make_chain([0, size, 0], memory=[1, 1], codecs=codecs, **others)


@pytest.mark.parametrize(
    ("mbit_per_s", "codec"), [(1, "int8+zstd"), (100, "int8+zstd"), (1000, "int8"), (20_000, "none")]
)
def test_the_slower_a_link_the_more_it_is_worth_to_compress(mbit_per_s: float, codec: str) -> None:
    plan = solve(chain_of(ZSTD, INT8, BOTH), two_nodes(mbit_per_s * 1e6 / 8))
    assert [stage.codec for stage in plan.stages] == ["none", codec]
    (step,) = [step for step in plan.steps if step.codec != "none"] or [plan.steps[2]]
    used = {c.name: c for c in (ZSTD, INT8, BOTH)}.get(codec)
    assert step.size_bytes == (MB if used is None else MB * used.ratio[1])
    work = 0.0 if used is None else MB * (used.encode_s_per_byte[1] + used.decode_s_per_byte[1])
    assert step.seconds == pytest.approx(step.size_bytes * 8 / (mbit_per_s * 1e6) + work)
    assert plan.bottleneck_s == pytest.approx(step.seconds)


def test_each_link_of_a_plan_has_its_own_codec() -> None:
    links = ((0.0, 1e6, 0.0), (0.0, 0.0, 1e11), (0.0, 0.0, 0.0))
    chain = make_chain([0, MB, MB, 0], memory=[1] * 3, codecs=(cost("zstd", 0.5, 0.002, cuts=4),))
    plan = solve(chain, make_cluster([1] * 3, bandwidth_bytes_per_s=links))
    assert [stage.codec for stage in plan.stages] == ["none", "zstd", "none"]


def test_a_codec_may_move_a_cut() -> None:
    """The first cut has more bytes, but they can be compressed."""
    codec = CodecCost(name="zstd", ratio=(1, 0.1, 1, 1), encode_s_per_byte=(0,) * 4, decode_s_per_byte=(0,) * 4)
    chain = make_chain([0, 3 * MB, MB, 0], memory=[1] * 3)
    cluster = make_cluster([2, 2], bandwidth_bytes_per_s=full_mesh(2, 1e6))
    assert [stage.end_block for stage in solve(chain, cluster).stages] == [2, 3]
    plan = solve(replace(chain, codecs=(codec,)), cluster)
    assert [stage.end_block for stage in plan.stages] == [1, 3]
    assert plan.bottleneck_s == pytest.approx(0.3)


def test_a_node_that_is_slow_takes_longer_for_a_codec() -> None:
    measured = cost("zstd", 0.5, 0.4, 0.0, flops_per_s=1e9)
    chain = chain_of(measured, flops=[1, 1])
    fast, slow = (two_nodes(1e6) for _ in range(2))
    fast = replace(fast, nodes=tuple(replace(node, flops_per_s=1e9) for node in fast.nodes))
    slow = replace(slow, nodes=tuple(replace(node, flops_per_s=5e8) for node in slow.nodes))
    assert [plan.stages[1].codec for plan in (solve(chain, fast), solve(chain, slow))] == ["zstd", "none"]


def test_no_codec_is_used_where_links_are_not_counted() -> None:
    plan = solve(chain_of(INT8), make_cluster([1, 1]))
    assert {stage.codec for stage in plan.stages} == {"none"}


def test_a_codec_makes_no_activation_pass_that_the_broker_does_not_take() -> None:
    cluster = two_nodes(1e6, max_payload_bytes=MB // 2, chunked=False)
    assert solved(lambda: solve(chain_of(INT8), cluster)) is None


@given(st.integers(0, 2**32))
def test_codecs_never_make_a_plan_slower(seed: int) -> None:
    chain, cluster, stages = random_case(seed)
    with_codecs = solved(lambda: solve(chain, cluster, stages=stages))
    without = solved(lambda: solve(replace(chain, codecs=()), cluster, stages=stages))
    assert (with_codecs is None) == (without is None)
    if with_codecs is not None and without is not None and cluster.topology == "mesh":
        assert with_codecs.bottleneck_s <= without.bottleneck_s


@given(st.integers(0, 2**32))
def test_what_a_plan_says_of_its_codecs_gives_its_times(seed: int) -> None:
    chain, cluster, stages = random_case(seed, max_blocks=8, max_nodes=5)
    plan = solved(lambda: solve(chain, cluster, stages=stages))
    if plan is None:
        return
    steps = {step.cut: step for step in plan.steps if step.kind == "transfer" and step.to in plan.nodes[1:]}
    for before, after in pairwise(plan.stages):
        one, other = cluster.names.index(before.node), cluster.names.index(after.node)
        step = steps[after.first_block]
        assert step.codec == after.codec
        assert (step.seconds, step.busy_s) == transfer(chain, cluster, after.first_block, one, other)


@given(st.integers(0, 2**32))
def test_recovery_s_estimates_are_the_planner_s_times(seed: int) -> None:
    chain, cluster, _ = random_case(seed)
    estimates = Estimates(chain=chain, cluster=cluster)
    for cut in range(1, chain.blocks):
        for one, source in enumerate(cluster.names):
            for other, target in enumerate(cluster.names):
                if one != other:
                    wanted = transfer(chain, cluster, cut, one, other).seconds
                    assert estimates.transfer_s(cut, source, target) == pytest.approx(wanted)
    assert {estimates.codec(0, cluster.names[0], name) for name in cluster.names} == {"none"}


def test_of_equally_quick_codecs_none_comes_first_and_then_the_first() -> None:
    same = [cost("zstd", 0.5), cost("fp16", 0.5)]
    assert quickest(same, 1, MB, 1e-6, (None, None))[0] == "zstd"
    assert quickest([cost("zstd", 1.0)], 1, MB, 1e-6, (None, None))[0] == "none"


def test_only_what_is_known_to_keep_the_bound_may_be_used() -> None:
    codecs = [
        cost("zstd", 0.5, accuracy_loss=0.0),
        cost("fp16", 0.5, accuracy_loss=0.001),
        cost("int8", 0.25, accuracy_loss=0.01),
        cost("int8+zstd", 0.2, accuracy_loss=None),
    ]
    names = [[codec.name for codec in within(codecs, bound)] for bound in (0.0, 0.005, 0.01, 1.0)]
    assert names == [["zstd"], ["zstd", "fp16"], ["zstd", "fp16", "int8"], ["zstd", "fp16", "int8"]]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "none"},
        {"name": ""},
        {"ratio": (1.0, 0.0, 1.0)},
        {"ratio": (1.0, -1.0, 1.0)},
        {"ratio": (1.0, math.nan, 1.0)},
        {"ratio": (1.0, 1.0)},
        {"encode_s_per_byte": (0.0, math.inf, 0.0)},
        {"decode_s_per_byte": (0.0, -1.0, 0.0)},
        {"accuracy_loss": -0.1},
        {"flops_per_s": 0.0},
    ],
    ids=str,
)
def test_numbers_that_no_codec_can_have_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match="codec"):
        replace(ZSTD, **change)


def test_a_codec_has_numbers_for_every_cut_of_its_chain() -> None:
    with pytest.raises(ValueError, match=r"codecs\['zstd'\].ratio has 3 entries, 4 are needed"):
        make_chain([1] * 4, codecs=(ZSTD,))
