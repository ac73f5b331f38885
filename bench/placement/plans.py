"""The plans that are deployed: the methods of `bench.planner`, on the cluster as our own planner sees it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.planner.cost import Costs, Parts
from bench.planner.greedy import greedy_first
from bench.planner.random_plan import random_plan
from bench.planner.seifer import seifer
from planner.chain import Chain
from planner.cluster import Cluster
from planner.plan import Stage
from understudy.emulation.links import make_cluster, parse_rate

OURS = "ours"
DRAWS = 25
"""Random plans of which one is deployed: the median by what is predicted."""

SPREAD = "spread"
SLOWEST, FASTEST = parse_rate("2mbit"), parse_rate("20mbit")
OUTSIDE = "50mbit"
MEMORY_SPREAD = (0.8, 1.6)
SPLIT = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`stages` None: the method has found no plan."""

    method: str
    stages: tuple[Stage, ...] | None
    predicted_s: float | None = None


def cluster_of(bandwidth: str, nodes: int, seed: int) -> Cluster:
    """`wifi` or a rate as `understudy emulate` takes it, or `spread`: each direction of each link between nodes has a
    rate of its own between 2 and 20 Mbit/s, log-uniform; to and from the clients all nodes have 50 Mbit/s."""
    if bandwidth != SPREAD:
        return make_cluster(nodes=nodes, topology="mesh", bandwidth=bandwidth, seed=seed)
    chance = random.Random(seed)

    def row() -> tuple[float, ...]:
        return tuple(SLOWEST * (FASTEST / SLOWEST) ** chance.random() for _ in range(nodes))

    plain = make_cluster(nodes=nodes, topology="mesh", bandwidth=OUTSIDE)
    return replace(plain, bandwidth_bytes_per_s=tuple(row() for _ in range(nodes)))


def with_memories(cluster: Cluster, chain: Chain, memory_bytes: int, seed: int) -> Cluster:
    """Nodes of unequal memory, uniform between 0.8 and 1.6 times this, the first one 1.6 times: there is one for
    the largest block; but none has room for the whole network."""
    chance = random.Random(seed + 1)
    low, high = MEMORY_SPREAD
    most = SPLIT * chain.stage_memory_bytes(0, chain.blocks)
    shares = [high, *(chance.uniform(low, high) for _ in cluster.nodes[1:])]
    nodes = (
        replace(node, memory_bytes=int(min(most, share * memory_bytes)))
        for node, share in zip(cluster.nodes, shares, strict=True)
    )
    return replace(cluster, nodes=tuple(nodes))


def candidates(chain: Chain, seen: Cluster, *, seed: int, randoms: int) -> list[Candidate]:
    """SEIFER's plan, greedy's, and `randoms` random ones; a single random one is the median of many by prediction."""
    costs = Costs(chain, seen)
    drawn = [parts for number in range(DRAWS) if (parts := _draw(costs, seed + number)) is not None]
    drawn.sort(key=costs.bottleneck_s)
    picked: Sequence[Parts | None] = drawn[:: max(1, len(drawn) // randoms)][:randoms] or [None]
    if randoms == 1 and drawn:
        picked = [drawn[len(drawn) // 2]]
    methods: list[tuple[str, Parts | None]] = [("seifer", seifer(costs)), ("greedy", greedy_first(costs))]
    return [_candidate(method, parts, costs) for method, parts in [*methods, *(("random", each) for each in picked)]]


def _draw(costs: Costs, seed: int) -> Parts | None:
    return random_plan(costs, np.random.default_rng(seed))


def _candidate(method: str, parts: Parts | None, costs: Costs) -> Candidate:
    if parts is None:
        return Candidate(method=method, stages=None)
    names = costs.cluster.names
    stages = tuple(Stage(first_block=part.start, end_block=part.end, node=names[part.node]) for part in parts)
    return Candidate(method=method, stages=stages, predicted_s=costs.bottleneck_s(parts))
